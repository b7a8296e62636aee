// Replies on their way to clients.
#ifndef UDPPROXY_REPLIES_H
#define UDPPROXY_REPLIES_H

#include "state.h"

void gather_reply(struct worker *worker, struct session *session, void *data, uint32_t size);
void answer_with(struct worker *worker, struct session *session, uint8_t tos);
void send_replies(struct worker *worker);

#endif
