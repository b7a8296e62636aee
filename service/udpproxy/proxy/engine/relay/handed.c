// Sessions whose datagrams the host treats: each goes to Python's thread as an event, in order,
// and what leaves comes back from there. Idle time begins with what comes; counters and limits see
// what leaves.
#include "handed.h"

#include "state.h"
#include "worker.h"
#include "book.h"
#include "replies.h"
#include "upload.h"
#include "first.h"
#include "servers.h"

// A datagram whose session has ended or takes no more, as if it came now: the client's next
// session begins with it. One that came later may have begun that already.
static void take_again(struct worker *worker, const struct session *session, const void *data,
                       uint32_t size)
{
    // All of it by value: the slot may get another session.
    union address client = session->client;
    struct way way;
    way_of(session->record, &way);
    struct arrival arrival = arrival_by(session->listener, &client, &way);
    if (arrival.listener->gone)
        return;
    arrival.hash = hash_arrival(worker->relay, &arrival);
    arrival.tos = session->tos;
    struct session *next = find_session(worker, &arrival);
    if (!next || !upload(worker, next, &arrival, data, size))
        take_first(worker, &arrival, data, size, NULL);
}

static bool is_open(const struct session *session, bool up)
{
    return life_of(session) == LIVE && !(up && session->record->state == UPLOAD_CLOSED);
}

// Ask the host about a datagram? 0: there is no need any more, and it has been dealt with.
int relay_asks(struct relay *relay, uint32_t slot, uint64_t id, int up, const void *data,
               uint32_t size)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = lock_worker_of(session, id);
    if (!worker)
        return 0;
    worker->now = clock_now();
    bool open = is_open(session, up);
    // An ended session's slot is given to nobody before the host has heard of its end.
    if (!open && up)
        take_again(worker, session, data, size);
    unlock_worker(worker);
    ring_host(relay);
    return open;
}

// To the server or to the client, within the session's limits.
void relay_pass(struct relay *relay, uint32_t slot, uint64_t id, int up, const void *data,
                uint32_t size)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = lock_worker_of(session, id);
    if (!worker)
        return;
    worker->now = clock_now();
    if (is_open(session, up)) {
        if (up) {
            // What meets unreachable = "close" is lost: it was treated for this session only.
            pass_up(worker, session, data, size);
        } else {
            pass_down(worker, session, (void *)data, size);
            send_replies(worker);
        }
    }
    unlock_worker(worker);
    ring_host(relay);
}
