// Births and deaths of sessions, and what becomes of them in between.
#ifndef UDPPROXY_SESSIONS_H
#define UDPPROXY_SESSIONS_H

#include "state.h"

struct session *open_session(struct worker *worker, const struct arrival *arrival,
                             struct verdict *verdict, uint32_t slot);
void close_session(struct worker *worker, struct session *session, enum reason reason);
void begin_session(struct worker *worker, struct session *session);
void be_careful(struct relay *relay, struct session *session);
void wait_for_nothing(struct session *session);
bool poll_session(struct worker *worker, struct session *session);
void unpoll_ended(struct worker *worker, struct session *session);
void write_network(struct record *record, const struct verdict *verdict);
void free_record(struct record *record);

bool close_unreachable(struct worker *worker, struct session *session);
bool is_icmp(struct worker *worker, struct session *session, int problem);
void count_icmp(struct worker *worker, struct session *session, uint32_t count, int problem);

#endif
