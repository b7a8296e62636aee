// What the relay tells the host.
#ifndef UDPPROXY_EVENTS_H
#define UDPPROXY_EVENTS_H

#include "state.h"

void count_total(struct relay *relay, enum total total, uint64_t amount);
struct event *add_event(struct relay *relay, enum kind kind, uint32_t size);
void name_verdict(struct event *event, struct verdict *verdict);
void tell_refused(struct worker *worker, enum total counter, const struct arrival *arrival,
                  int problem);
void tell_failed(struct worker *worker, const struct session *session, enum what what, int problem);
void count_dropped(struct worker *worker, struct session *session, enum total counter);
void tell_lost(struct worker *worker, struct session *session, enum what what, int problem);
void tell_rerouted(struct worker *worker, const struct session *session);
void tell_server(struct worker *worker, const struct session *session, enum kind kind,
                 int problem);
void tell_seen(struct worker *worker, const struct session *session, bool up, const void *data,
               uint32_t size);
void tell_handed(struct worker *worker, const struct session *session, bool up, const void *data,
                 uint32_t size);

#endif
