// Our own ports towards servers: whose they are, which of them rest, and who writes from one.
#ifndef UDPPROXY_PORTS_H
#define UDPPROXY_PORTS_H

#include "state.h"

void add_port(struct relay *relay, struct session *session);
void remove_port(struct relay *relay, struct session *session);
bool claim_port(struct relay *relay, struct session *session, const union address *own);
bool is_used_up(struct relay *relay, const union address *source);
bool is_resting(const struct relay *relay, const union address *own);
void rest_less(struct relay *relay);
bool is_ours(struct relay *relay, const union address *client, const struct listener *listener,
             const uint8_t *local);

#endif
