// Listeners come and go.
#include "listeners.h"

#include <sys/epoll.h>

#include "state.h"
#include "worker.h"
#include "book.h"
#include "decisions.h"
#include "sessions.h"
#include "held.h"

static bool put_listener(struct relay *relay, struct listener *listener)
{
    for (uint32_t i = 0; i < relay->listener_count; i++)
        if (relay->listeners[i]->gone &&
            !__atomic_load_n(&relay->listeners[i]->uses, __ATOMIC_ACQUIRE)) {
            listener->index = i;
            free_listener(relay->listeners[i]);
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

// Its sockets in the place of those that there were, in each worker's poll set; an errno, and the
// listener has none, where the system refuses.
static int poll_listener(struct relay *relay, struct listener *listener, const int *fds)
{
    int problem = 0;
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct epoll_event event = {
            .events = EPOLLIN,
            .data.u64 = polled_as(LISTENER, listener->index),
        };
        if (listener->fds[i] >= 0)
            epoll_ctl(relay->workers[i].epoll, EPOLL_CTL_DEL, listener->fds[i], NULL);
        listener->fds[i] = fds[i];
        if (!problem && fds[i] >= 0 &&
            epoll_ctl(relay->workers[i].epoll, EPOLL_CTL_ADD, fds[i], &event))
            problem = errno;
    }
    for (uint32_t i = 0; i < relay->worker_count && problem; i++) {
        if (listener->fds[i] >= 0)
            epoll_ctl(relay->workers[i].epoll, EPOLL_CTL_DEL, listener->fds[i], NULL);
        listener->fds[i] = -1;
    }
    return problem;
}

// Their copy is the listener's; false: there is no memory for it.
static bool copy_networks(const struct networks *networks, struct networks *copy)
{
    *copy = networks ? *networks : (struct networks){0};
    if (!copy->count)
        return true;
    copy->each = malloc(copy->count * sizeof *copy->each);
    if (copy->each)
        memcpy(copy->each, networks->each, copy->count * sizeof *copy->each);
    return copy->each != NULL;
}

// With all locks; what it had before, to be freed.
static struct network *put_networks(struct listener *listener, const struct networks *networks)
{
    struct network *before = listener->networks.each;
    listener->networks = *networks;
    return before;
}

// PROXY headers are expected from now on, and those of these networks believed; none: there are none.
// 0, or an errno.
int relay_expect_headers(struct relay *relay, uint32_t number, const struct networks *networks)
{
    struct listener *listener = listener_of(relay, number);
    struct networks copy;
    if (!copy_networks(networks, &copy))
        return ENOMEM;
    lock_all(relay);
    struct network *unwanted = listener ? put_networks(listener, &copy) : copy.each;
    unlock_all(relay);
    free(unwanted);
    return 0;
}

// What comes in there tells its DSCP from now on, or no more: its sockets were made to.
void relay_tell_dscp(struct relay *relay, uint32_t number, int on)
{
    struct listener *listener = listener_of(relay, number);
    lock_all(relay);
    if (listener)
        listener->tells = on;
    unlock_all(relay);
}

static struct listener *new_listener(const struct relay *relay, uint32_t number,
                                     const union address *bound)
{
    static const uint8_t nothing[16];
    struct listener *listener =
        calloc(1, sizeof *listener + relay->worker_count * sizeof listener->fds[0]);
    if (!listener)
        return NULL;
    listener->number = number;
    listener->port = port_of(bound);
    listener->family = bound->any.sa_family;
    listener->size = (uint8_t)packed_size(bound);
    memcpy(listener->packed, packed_of(bound), listener->size);
    listener->wildcard = memcmp(listener->packed, nothing, listener->size) == 0;
    for (uint32_t i = 0; i < relay->worker_count; i++)
        listener->fds[i] = -1;
    return listener;
}

// `fds` has one for each worker, -1 while the listener's interface is absent; `sole`: the worker, plus
// 1, for which alone it has one, 0: for all; `networks` as in relay_expect_headers. One of a number
// that there is takes these instead of its own, and keeps its sessions. 0, or an errno.
int relay_listen(struct relay *relay, uint32_t number, const int *fds, uint32_t sole,
                 const union address *bound, const struct networks *networks)
{
    struct listener *listener = listener_of(relay, number), *made = NULL;
    struct networks copy;
    if (!copy_networks(networks, &copy))
        return ENOMEM;
    if (!listener) {
        listener = made = new_listener(relay, number, bound);
        if (!made) {
            free(copy.each);
            return ENOMEM;
        }
        made->sole = sole;
    }
    lock_all(relay);
    struct network *unwanted = put_networks(listener, &copy);
    bool put = !made || put_listener(relay, made);
    int problem = put ? poll_listener(relay, listener, fds) : ENOMEM;
    if (made)
        made->gone = problem != 0;
    unlock_all(relay);
    free(unwanted);
    if (!put)
        free_listener(made);
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
        if (listener->fds[i] >= 0)
            epoll_ctl(worker->epoll, EPOLL_CTL_DEL, listener->fds[i], NULL);
        for (uint32_t slot = 0; slot < relay->grown; slot++) {
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
