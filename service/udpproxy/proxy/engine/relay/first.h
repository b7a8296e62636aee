// Datagrams that belong to no session.
#ifndef UDPPROXY_FIRST_H
#define UDPPROXY_FIRST_H

#include "state.h"

bool take_first(struct worker *worker, const struct arrival *arrival, const void *data,
                uint32_t size, struct held *held);
void retry_held(struct worker *worker);

#endif
