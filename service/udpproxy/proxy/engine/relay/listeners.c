// Listeners come and go.
#include "listeners.h"

#include <sys/epoll.h>

#include "state.h"
#include "worker.h"
#include "decisions.h"
#include "sessions.h"
#include "held.h"

static bool put_listener(struct relay *relay, struct listener *listener)
{
    for (uint32_t i = 0; i < relay->listener_count; i++)
        if (relay->listeners[i]->gone &&
            !__atomic_load_n(&relay->listeners[i]->uses, __ATOMIC_ACQUIRE)) {
            listener->index = i;
            free(relay->listeners[i]);
            relay->listeners[i] = listener;
            return true;
        }
    struct listener **more =
        realloc(relay->listeners, (relay->listener_count + 1) * sizeof *relay->listeners);
    if (!more)
        return false;
    listener->index = relay->listener_count;
    relay->listeners = more;
    relay->listeners[relay->listener_count++] = listener;
    return true;
}

// `fds` has one for each worker. 0, or an errno.
int relay_listen(struct relay *relay, uint32_t number, const int *fds, const union address *bound)
{
    static const uint8_t nothing[16];
    struct listener *listener =
        calloc(1, sizeof *listener + relay->worker_count * sizeof listener->fds[0]);
    if (!listener)
        return ENOMEM;
    listener->number = number;
    listener->port = port_of(bound);
    listener->family = bound->any.sa_family;
    listener->size = (uint8_t)packed_size(bound);
    memcpy(listener->packed, packed_of(bound), listener->size);
    listener->wildcard = memcmp(listener->packed, nothing, listener->size) == 0;
    memcpy(listener->fds, fds, relay->worker_count * sizeof fds[0]);
    lock_all(relay);
    int problem = put_listener(relay, listener) ? 0 : ENOMEM;
    bool put = !problem;
    for (uint32_t i = 0; i < relay->worker_count && !problem; i++) {
        struct epoll_event event = {
            .events = EPOLLIN,
            .data.u64 = polled_as(LISTENER, listener->index),
        };
        if (epoll_ctl(relay->workers[i].epoll, EPOLL_CTL_ADD, fds[i], &event))
            problem = errno;
    }
    for (uint32_t i = 0; i < relay->worker_count && put && problem; i++)
        epoll_ctl(relay->workers[i].epoll, EPOLL_CTL_DEL, fds[i], NULL);
    listener->gone = problem != 0;
    unlock_all(relay);
    if (!put)
        free(listener);
    return problem;
}

// Its sessions end as `policy`; how many.
uint32_t relay_unlisten(struct relay *relay, uint32_t number)
{
    struct listener *listener = NULL;
    for (uint32_t i = 0; i < relay->listener_count; i++)
        if (relay->listeners[i]->number == number && !relay->listeners[i]->gone)
            listener = relay->listeners[i];
    if (!listener)
        return 0;
    // Gone for all workers at once, and first: one that was told of a datagram before its turn to
    // close sessions came would open new ones after it.
    lock_all(relay);
    listener->gone = true;
    unlock_all(relay);
    uint32_t ended = 0;
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        lock_worker(worker);
        epoll_ctl(worker->epoll, EPOLL_CTL_DEL, listener->fds[i], NULL);
        for (uint32_t slot = 0; slot < relay->capacity; slot++) {
            struct session *session = relay->sessions + slot;
            if (life_of(session) == LIVE && is_of(session, worker) &&
                session->listener == listener) {
                close_session(worker, session, POLICY);
                ended++;
            }
        }
        drop_held(worker, listener);
        unlock_worker(worker);
    }
    pthread_mutex_lock(&relay->book);
    forget_listener(relay, listener);
    pthread_mutex_unlock(&relay->book);
    return ended;
}
