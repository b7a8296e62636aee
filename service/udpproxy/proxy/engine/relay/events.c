// What the relay tells the host: a bounded list, read by Python's thread after its bell rang.
//
// What can be dropped when nobody reads is counted. Ended sessions are no events: they are chained
// by their slots, so nothing can be lost and nothing can grow.
#include "events.h"

#include "worker.h"

enum { MOST_EVENTS = 4096, MOST_EVENT_BYTES = 8 << 20 };

void count_total(struct relay *relay, enum total total, uint64_t amount)
{
    __atomic_add_fetch(relay->header + TOTALS_AT + total, amount, __ATOMIC_RELAXED);
}

static bool has_room(const struct relay *relay, uint32_t size)
{
    return relay->event_count < MOST_EVENTS && relay->event_bytes + size <= MOST_EVENT_BYTES;
}

// With the book locked; NULL: there is no room, and that is counted.
struct event *add_event(struct relay *relay, enum kind kind, uint32_t size)
{
    struct event *event = NULL;
    if (has_room(relay, size))
        event = malloc(sizeof *event + size);
    if (!event) {
        relay->events_dropped++;
        return NULL;
    }
    memset(event, 0, sizeof *event);
    event->kind = kind;
    event->size = size;
    event->count = 1;
    *relay->events_end = event;
    relay->events_end = &event->next;
    relay->event_count++;
    relay->event_bytes += size;
    relay->events_told++;
    if (kind != DENIED) // which may wait until somebody looks
        note_news(relay);
    return event;
}

// With the book locked.
void name_verdict(struct event *event, struct verdict *verdict)
{
    event->verdict = verdict->number;
    event->of = verdict;
    verdict->uses++;
}

// One event for all of the same reason until the host looks: a flood of them costs it nothing.
void tell_refused(struct worker *worker, enum total counter, const struct arrival *arrival,
                  int problem)
{
    struct relay *relay = worker->relay;
    count_total(relay, counter, 1);
    pthread_mutex_lock(&relay->book);
    struct event *event = relay->refusals[counter];
    if (event && event->problem == problem) {
        event->count++;
    } else if ((event = add_event(relay, REFUSED, 0))) {
        event->counter = counter;
        event->who = *arrival->client;
        event->listener = arrival->listener->number;
        event->problem = problem;
        relay->refusals[counter] = event;
    }
    pthread_mutex_unlock(&relay->book);
}

// NULL: it happened to no session.
void tell_failed(struct worker *worker, const struct session *session, enum what what, int problem)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    struct event *event = add_event(relay, FAILED, 0);
    if (event) {
        event->what = what;
        event->problem = problem;
        event->session = session ? session->id : 0;
        event->slot = session ? slot_of(relay, session) : 0;
    }
    pthread_mutex_unlock(&relay->book);
}

void tell_lost(struct worker *worker, struct session *session, enum what what, int problem)
{
    more(&session->record->send_errors, 1);
    count_total(worker->relay, SEND_ERRORS, 1);
    tell_failed(worker, session, what, problem);
}

// A datagram that a limit does not let pass, and that is all: the host hears of none.
void count_dropped(struct worker *worker, struct session *session, enum total counter)
{
    more(&session->record->dropped, 1);
    count_total(worker->relay, counter, 1);
}

void tell_rerouted(struct worker *worker, const struct session *session)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    struct event *event = add_event(relay, REROUTED, 0);
    if (event) {
        event->session = session->id;
        event->slot = slot_of(relay, session);
        name_verdict(event, session->verdict);
    }
    pthread_mutex_unlock(&relay->book);
}

// What the server of a session says, or rather the network for it: SERVER_UNREACHABLE, why,
// SERVER_SILENT or SERVER_ANSWERS.
void tell_server(struct worker *worker, const struct session *session, enum kind kind, int problem)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    struct event *event = add_event(relay, kind, 0);
    if (event) {
        event->session = session->id;
        event->slot = slot_of(relay, session);
        event->problem = problem;
        name_verdict(event, session->verdict);
    }
    pthread_mutex_unlock(&relay->book);
}

// Before the datagram is passed on where the host is called at once, else soon after.
void tell_seen(struct worker *worker, const struct session *session, bool up, const void *data,
               uint32_t size)
{
    struct relay *relay = worker->relay;
    if (relay->seen) {
        relay->seen(relay->context, session->id, up, data, size);
        return;
    }
    pthread_mutex_lock(&relay->book);
    struct event *event = add_event(relay, SEEN, size);
    if (event) {
        event->session = session->id;
        event->upload = up;
        memcpy(event->data, data, size);
    }
    pthread_mutex_unlock(&relay->book);
}

// The host says what becomes of it; one that there is no room for is lost.
void tell_handed(struct worker *worker, const struct session *session, bool up, const void *data,
                 uint32_t size)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    struct event *event = has_room(relay, size) ? add_event(relay, HANDED, size) : NULL;
    if (event) {
        event->session = session->id;
        event->slot = slot_of(relay, session);
        name_verdict(event, session->verdict);
        event->upload = up;
        memcpy(event->data, data, size);
    } else {
        __atomic_add_fetch(&relay->waiting_dropped, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&relay->book);
}
