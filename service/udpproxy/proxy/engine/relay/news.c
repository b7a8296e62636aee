// What the host hears: when its bell rings, what it takes, and what it wants to be told at all.
#include "news.h"

#include "state.h"
#include "worker.h"
#include "events.h"

int relay_bell(struct relay *relay)
{
    return relay->bell;
}

// So that Python's thread looks, whether or not there is news.
void relay_ring(struct relay *relay)
{
    uint64_t one = 1;
    (void)!write(relay->bell, &one, sizeof one);
}

void relay_hush(struct relay *relay)
{
    uint64_t rung;
    (void)!read(relay->bell, &rung, sizeof rung);
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
    relay->rung = false;
    news->events = take_events(relay, most->events);
    news->questions = take_questions(relay, most->questions);
    news->scarce = relay->scarce;
    relay->scarce = false;
    news->spent = relay->spent_due;
    news->ended = 0;
    while (news->ended < most->ended && may_tell_ended(relay)) {
        slots[news->ended++] = relay->ended;
        relay->ended = relay->sessions[relay->ended].next;
    }
    news->more = relay->events || relay->questions || relay->ended != NOBODY;
    if (news->more) {
        note_news(relay);
        ring_host_locked(relay);
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

void relay_tell_openings(struct relay *relay, int openings)
{
    pthread_mutex_lock(&relay->book);
    relay->openings = openings;
    pthread_mutex_unlock(&relay->book);
}

// Whether each session's first reply is told.
void relay_tell_answers(struct relay *relay, int answers)
{
    __atomic_store_n(&relay->awaiting, answers, __ATOMIC_RELAXED);
}

void relay_count(struct relay *relay, uint32_t total, uint64_t amount)
{
    count_total(relay, total, amount);
}

void relay_figures(struct relay *relay, struct relay_figures *figures)
{
    figures->segmentation = (uint64_t)__atomic_load_n(&relay->segmentation, __ATOMIC_RELAXED);
    figures->unsegmented = __atomic_load_n(&relay->unsegmented, __ATOMIC_RELAXED);
    figures->unable = __atomic_load_n(&relay->unable, __ATOMIC_RELAXED);
    figures->waiting_dropped = __atomic_load_n(&relay->waiting_dropped, __ATOMIC_RELAXED);
    figures->events_dropped = __atomic_load_n(&relay->events_dropped, __ATOMIC_RELAXED);
}
