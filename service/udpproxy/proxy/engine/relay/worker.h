// What everybody needs of a worker: its lock, the clock, the bells, and which client it has.
#ifndef UDPPROXY_WORKER_H
#define UDPPROXY_WORKER_H

#include "state.h"

uint64_t clock_now(void);

void lock_worker(struct worker *worker);
void unlock_worker(struct worker *worker);
struct worker *lock_worker_of(struct session *session, uint64_t id);
void lock_all(struct relay *relay);
void unlock_all(struct relay *relay);

void ring_host(struct relay *relay);
void ring_host_locked(struct relay *relay);
void ring_worker(struct worker *worker);
void ring_if_held(struct worker *worker);

uint32_t worker_of(const struct relay *relay, const struct listener *listener,
                   const union address *client);

// What a worker polls: its bell, sessions by their slot, listeners by their index.
enum polled { BELL, SESSION, LISTENER };

static inline uint64_t polled_as(enum polled kind, uint32_t number)
{
    return (uint64_t)kind << 32 | number;
}

// There is news for Python's thread; with the book locked.
static inline void note_news(struct relay *relay)
{
    __atomic_store_n(&relay->has_news, true, __ATOMIC_RELAXED);
}

#endif
