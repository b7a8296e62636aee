// What everybody needs of a worker: its lock, the clock, the bells, and which client it has.
#ifndef UDPPROXY_WORKER_H
#define UDPPROXY_WORKER_H

#include "state.h"

uint64_t clock_now(void);

void enter(struct worker *worker);
void leave(struct worker *worker);
struct worker *enter_session(struct session *session, uint64_t id);
void enter_all(struct relay *relay);
void leave_all(struct relay *relay);

void say(struct relay *relay);
void notify(struct relay *relay);
void rouse(struct worker *worker);
void wake(struct worker *worker);

uint32_t worker_of(const struct relay *relay, const union address *client);

// There is news for Python's thread; with the book locked.
static inline void note_news(struct relay *relay)
{
    __atomic_store_n(&relay->notify, true, __ATOMIC_RELAXED);
}

#endif
