// What servers sent, on its way to being a reply.
#ifndef UDPPROXY_SERVERS_H
#define UDPPROXY_SERVERS_H

#include "state.h"

void read_server(struct worker *worker, struct session *session);
void read_all(struct worker *worker, struct session *session);
bool pass_down(struct worker *worker, struct session *session, void *data, uint32_t size);

#endif
