// A worker's lock, the clock, the bells of workers and host, and which worker has whom.
#include "worker.h"

#include <time.h>

uint64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

// ---- locks ----

// Two locks, so that a busy worker cannot keep Python's thread out for ever: whoever waits for
// `lock` holds `door`.
void lock_worker(struct worker *worker)
{
    pthread_mutex_lock(&worker->door);
    pthread_mutex_lock(&worker->lock);
    pthread_mutex_unlock(&worker->door);
}

void unlock_worker(struct worker *worker)
{
    pthread_mutex_unlock(&worker->lock);
}

// The worker that has this session, live or ended, with its lock; NULL: it is not there any more.
struct worker *lock_worker_of(struct session *session, uint64_t id)
{
    enum life life = life_of(session);
    struct worker *worker = __atomic_load_n(&session->worker, __ATOMIC_ACQUIRE);
    if ((life != LIVE && life != ENDED) || !worker)
        return NULL;
    lock_worker(worker);
    life = life_of(session);
    if ((life == LIVE || life == ENDED) && id_of(session) == id && is_of(session, worker))
        return worker;
    unlock_worker(worker);
    return NULL;
}

// Every worker's, in their order, and the book.
void lock_all(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->worker_count; i++)
        lock_worker(relay->workers + i);
    pthread_mutex_lock(&relay->book);
}

void unlock_all(struct relay *relay)
{
    pthread_mutex_unlock(&relay->book);
    for (uint32_t i = relay->worker_count; i-- > 0;)
        unlock_worker(relay->workers + i);
}

// ---- bells: an eventfd for each worker, and one for the host ----

// Once a turn, with the book locked: one system call tells of everything in it.
void ring_host_locked(struct relay *relay)
{
    uint64_t one = 1;
    if (relay->has_news && !relay->rung) {
        relay->rung = true;
        (void)!write(relay->bell, &one, sizeof one);
    }
    __atomic_store_n(&relay->has_news, false, __ATOMIC_RELAXED);
}

// Python's thread hears of what there is to tell.
void ring_host(struct relay *relay)
{
    if (!__atomic_load_n(&relay->has_news, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&relay->book);
    ring_host_locked(relay);
    pthread_mutex_unlock(&relay->book);
}

void ring_worker(struct worker *worker)
{
    uint64_t one = 1;
    (void)!write(worker->bell, &one, sizeof one);
}

// The worker has something to look at again.
void ring_if_held(struct worker *worker)
{
    uint64_t one = 1;
    if (__atomic_load_n(&worker->held_count, __ATOMIC_SEQ_CST))
        (void)!write(worker->bell, &one, sizeof one);
}

// ---- steering ----

static uint32_t mix(const struct relay *relay, uint32_t mixed)
{
    mixed *= relay->steering[0] | 1;
    mixed ^= mixed >> 16;
    mixed *= relay->steering[1] | 1;
    return mixed ^ mixed >> 15;
}

// A client stays with its worker: the same steps as the kernel's (parent/steering.py).
uint32_t worker_of(const struct relay *relay, const struct listener *listener,
                   const union address *client)
{
    if (listener->sole)
        return listener->sole - 1;
    uint32_t mixed = mix(relay, relay->steering[1] ^ port_of(client)), word;
    for (unsigned at = 0; at < packed_size(client); at += 4) {
        memcpy(&word, (const uint8_t *)packed_of(client) + at, 4);
        mixed = mix(relay, mixed ^ ntohl(word));
    }
    return mixed % relay->worker_count;
}
