// The workers' threads, and doing without them.
#include "running.h"

#include <signal.h>

#include "state.h"
#include "worker.h"
#include "book.h"
#include "loop.h"

enum { MOST_ENDED = 256 };

// An errno; 0: every worker has its thread, which no signal disturbs.
int relay_start(struct relay *relay)
{
    sigset_t all, before;
    int problem = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 0; i < relay->worker_count && !problem; i++) {
        struct worker *worker = relay->workers + i;
        problem = worker->running ? 0 : pthread_create(&worker->thread, NULL, run_worker, worker);
        worker->running = !problem;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return problem;
}

void relay_stop(struct relay *relay)
{
    __atomic_store_n(&relay->stop, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        if (!worker->running)
            continue;
        ring_worker(worker);
        pthread_join(worker->thread, NULL);
        worker->running = false;
    }
}

// Without threads: Python's own calls relay_turn when relay_poller is readable.
void relay_inline(struct relay *relay, seen callback, void *context)
{
    relay->seen = callback;
    relay->context = context;
}

int relay_turn(struct relay *relay, uint32_t number)
{
    return take_turn(relay->workers + number, 0);
}

int relay_poller(struct relay *relay, uint32_t number)
{
    return relay->workers[number].epoll;
}

// When it returns, whatever a worker was at is done.
void relay_settle(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        lock_worker(relay->workers + i);
        unlock_worker(relay->workers + i);
    }
}

// What is due at `now`; when something will be due next.
uint64_t relay_expire(struct relay *relay, uint64_t now)
{
    uint64_t next = NEVER;
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        lock_worker(worker);
        worker->now = clock_now();
        expire_sessions(worker, now, MOST_ENDED);
        uint64_t due = first_due(worker);
        next = due < next ? due : next;
        unlock_worker(worker);
    }
    ring_host(relay);
    return next;
}
