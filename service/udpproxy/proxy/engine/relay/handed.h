// For the host: sessions whose datagrams it treats.
#ifndef UDPPROXY_HANDED_H
#define UDPPROXY_HANDED_H

#include "host.h"

int relay_asks(struct relay *relay, uint32_t slot, uint64_t id, int up, const void *data,
               uint32_t size);
void relay_pass(struct relay *relay, uint32_t slot, uint64_t id, int up, const void *data,
                uint32_t size);

#endif
