// For the host: the workers' threads, and doing without them.
#ifndef UDPPROXY_RUNNING_H
#define UDPPROXY_RUNNING_H

#include "host.h"

int relay_start(struct relay *relay);
void relay_stop(struct relay *relay);
void relay_inline(struct relay *relay, seen callback, void *context);
int relay_turn(struct relay *relay, uint32_t number);
int relay_poller(struct relay *relay, uint32_t number);
void relay_settle(struct relay *relay);
uint64_t relay_expire(struct relay *relay, uint64_t now);

#endif
