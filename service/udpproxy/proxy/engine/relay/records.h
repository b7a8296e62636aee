// For the host: the record of an ended session, as text.
#ifndef UDPPROXY_RECORDS_H
#define UDPPROXY_RECORDS_H

#include "host.h"

int relay_describe(struct relay *relay, uint32_t slot, const char *rule, uint64_t now, char *text,
                   size_t size);

#endif
