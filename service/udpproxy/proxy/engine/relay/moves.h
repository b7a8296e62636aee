// Sessions that go on to another server, or by another way.
#ifndef UDPPROXY_MOVES_H
#define UDPPROXY_MOVES_H

#include "state.h"

uint32_t drops_of(const struct relay *relay, uint32_t slot);
void aim(struct worker *worker, struct session *session, const union address *server,
         uint32_t member);
bool connect_afresh(struct worker *worker, struct session *session, int *problem);
bool reconnect(struct worker *worker, struct session *session, int *problem);

#endif
