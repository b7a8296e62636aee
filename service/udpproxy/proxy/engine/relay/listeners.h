// For the host: listeners come and go.
#ifndef UDPPROXY_LISTENERS_H
#define UDPPROXY_LISTENERS_H

#include "host.h"

int relay_listen(struct relay *relay, uint32_t number, const int *fds, uint32_t sole,
                 const union address *bound, const struct networks *networks);
int relay_expect_headers(struct relay *relay, uint32_t number, const struct networks *networks);
void relay_tell_dscp(struct relay *relay, uint32_t number, int on);
uint32_t relay_unlisten(struct relay *relay, uint32_t number);

#endif
