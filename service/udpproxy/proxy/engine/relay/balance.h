// Which server of a group a new session gets, and how those servers do.
#ifndef UDPPROXY_BALANCE_H
#define UDPPROXY_BALANCE_H

#include "state.h"

const struct candidate *choose_server(struct relay *relay, const struct verdict *verdict,
                                      const union address *client, uint64_t id);
void join_member(struct relay *relay, struct record *record, uint32_t number);
void leave_member(struct relay *relay, const struct record *record);
void note_answer(struct relay *relay, const struct record *record);
void note_error(struct relay *relay, const struct record *record);
void note_unanswered(struct relay *relay, const struct record *record);

void relay_member_state(struct relay *relay, uint32_t number, int state, int trial);
void relay_member_figures(struct relay *relay, uint32_t number, struct member *figures);

#endif
