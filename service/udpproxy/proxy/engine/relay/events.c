// What the relay tells the host: a bounded list, read by Python's thread after an eventfd rang.
//
// What can be dropped when nobody reads is counted. Ended sessions are no events: they are chained
// by their slots, so nothing can be lost and nothing can grow.
#include "inside.h"

enum { MOST_EVENTS = 4096, MOST_EVENT_BYTES = 8 << 20 };

void count_total(struct relay *relay, enum total total, uint64_t amount)
{
    __atomic_add_fetch(relay->header + TOTALS_AT + total, amount, __ATOMIC_RELAXED);
}

void relay_count(struct relay *relay, uint32_t total, uint64_t amount)
{
    count_total(relay, total, amount);
}

static bool has_room(const struct relay *relay, uint32_t size)
{
    return relay->event_count < MOST_EVENTS && relay->event_bytes + size <= MOST_EVENT_BYTES;
}

// With the book locked; NULL: there is no room, and that is counted.
struct event *tell(struct relay *relay, enum kind kind, uint32_t size)
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
void tell_refused(struct worker *worker, enum total counter, const struct first *first, int problem)
{
    struct relay *relay = worker->relay;
    count_total(relay, counter, 1);
    pthread_mutex_lock(&relay->book);
    struct event *event = relay->refusals[counter];
    if (event && event->problem == problem) {
        event->count++;
    } else if ((event = tell(relay, REFUSED, 0))) {
        event->counter = counter;
        event->who = *first->client;
        event->listener = first->listener->number;
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
    struct event *event = tell(relay, FAILED, 0);
    if (event) {
        event->what = what;
        event->problem = problem;
        event->session = session ? session->id : 0;
        event->slot = session ? slot_of(relay, session) : 0;
    }
    pthread_mutex_unlock(&relay->book);
}

void tell_rerouted(struct worker *worker, const struct session *session)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    struct event *event = tell(relay, REROUTED, 0);
    if (event) {
        event->session = session->id;
        event->slot = slot_of(relay, session);
        name_verdict(event, session->verdict);
    }
    pthread_mutex_unlock(&relay->book);
}

// What the server of a session says, or rather the network for it: SERVER_UNREACHABLE, why, or
// SERVER_ANSWERS.
void tell_server(struct worker *worker, const struct session *session, enum kind kind, int problem)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    struct event *event = tell(relay, kind, 0);
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
    struct event *event = tell(relay, SEEN, size);
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
    struct event *event = has_room(relay, size) ? tell(relay, HANDED, size) : NULL;
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

// Once a turn, with the book locked: one system call tells of everything in it.
void notify(struct relay *relay)
{
    uint64_t one = 1;
    if (relay->notify && !relay->notified) {
        relay->notified = true;
        (void)!write(relay->notice, &one, sizeof one);
    }
    __atomic_store_n(&relay->notify, false, __ATOMIC_RELAXED);
}

// The worker has something to look at again.
void wake(struct worker *worker)
{
    uint64_t one = 1;
    if (__atomic_load_n(&worker->held_count, __ATOMIC_SEQ_CST))
        (void)!write(worker->wake, &one, sizeof one);
}

int relay_notice(struct relay *relay)
{
    return relay->notice;
}

// So that Python's thread looks, whether or not there is news.
void relay_ring(struct relay *relay)
{
    uint64_t one = 1;
    (void)!write(relay->notice, &one, sizeof one);
}

void relay_hush(struct relay *relay)
{
    uint64_t rung;
    (void)!read(relay->notice, &rung, sizeof rung);
}

static struct event *take_events(struct relay *relay, uint32_t most)
{
    struct event *first = relay->events, **link = &relay->events;
    for (; *link && most; most--, link = &(*link)->next) {
        struct event *event = *link;
        if (event->decision) {
            event->decision->denied = NULL;
            event->decision = NULL;
        }
        if (event->kind == REFUSED && relay->refusals[event->counter] == event)
            relay->refusals[event->counter] = NULL;
        relay->event_count--;
        relay->event_bytes -= event->size;
        relay->events_taken++;
    }
    if (link == &relay->events)
        return NULL;
    relay->events = *link;
    *link = NULL;
    if (!relay->events)
        relay->events_end = &relay->events;
    return first;
}

static struct question *take_questions(struct relay *relay, uint32_t most)
{
    struct question *first = relay->questions, **link = &relay->questions;
    while (*link && most--)
        link = &(*link)->next;
    if (link == &relay->questions)
        return NULL;
    relay->questions = *link;
    *link = NULL;
    if (!relay->questions)
        relay->questions_end = &relay->questions;
    return first;
}

// Not before the host has heard what happened to it earlier.
static bool may_tell_ended(const struct relay *relay)
{
    return relay->ended != NOBODY &&
           (int32_t)(relay->sessions[relay->ended].told_after - relay->events_taken) <= 0;
}

// Takes what there is to tell, the oldest first, and at most a portion of it.
void relay_news(struct relay *relay, struct news *news, uint32_t *slots,
                const struct portion *most)
{
    pthread_mutex_lock(&relay->book);
    relay->notified = false;
    news->events = take_events(relay, most->events);
    news->questions = take_questions(relay, most->questions);
    news->ended = 0;
    while (news->ended < most->ended && may_tell_ended(relay)) {
        slots[news->ended++] = relay->ended;
        relay->ended = relay->sessions[relay->ended].next;
    }
    news->more = relay->events || relay->questions || relay->ended != NOBODY;
    if (news->more) {
        note_news(relay);
        notify(relay);
    }
    pthread_mutex_unlock(&relay->book);
}

void relay_free_news(struct relay *relay, struct news *news)
{
    pthread_mutex_lock(&relay->book);
    for (struct event *event = news->events; event; event = event->next)
        if (event->of)
            event->of->uses--;
    pthread_mutex_unlock(&relay->book);
    for (struct event *event = news->events, *next; event; event = next) {
        next = event->next;
        free(event);
    }
    for (struct question *one = news->questions, *next; one; one = next) {
        next = one->next;
        free(one);
    }
    news->events = NULL;
    news->questions = NULL;
}

void relay_figures(struct relay *relay, struct relay_figures *figures)
{
    figures->segmentation = (uint64_t)__atomic_load_n(&relay->segmentation, __ATOMIC_RELAXED);
    figures->unsegmented = __atomic_load_n(&relay->unsegmented, __ATOMIC_RELAXED);
    figures->unable = __atomic_load_n(&relay->unable, __ATOMIC_RELAXED);
    figures->waiting_dropped = __atomic_load_n(&relay->waiting_dropped, __ATOMIC_RELAXED);
    figures->events_dropped = __atomic_load_n(&relay->events_dropped, __ATOMIC_RELAXED);
}
