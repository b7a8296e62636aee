// What clients sent.
#ifndef UDPPROXY_CLIENTS_H
#define UDPPROXY_CLIENTS_H

#include "state.h"

void read_clients(struct worker *worker, struct listener *listener);

#endif
