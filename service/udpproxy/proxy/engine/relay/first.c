// Datagrams that belong to no session: decided about, made to wait, or the first of a new one.
#include "first.h"

#include "ports.h"
#include "slots.h"
#include "book.h"
#include "meters.h"
#include "events.h"
#include "decisions.h"
#include "sessions.h"
#include "upload.h"
#include "held.h"

// As in session/limits.py.
enum { EVICTIONS_AT_ONCE = 250, NS_PER_EVICTION = 1000000 };
enum { CHANCES_AT_ONCE = 250, NS_PER_CHANCE = 500000 };

// Refused as many others were: the host hears of it when it looks.
static void tell_denied(struct relay *relay, struct decision *decision,
                        const struct arrival *arrival)
{
    if (decision->denied) {
        decision->denied->count++;
        return;
    }
    struct event *event = add_event(relay, DENIED, 0);
    if (!event)
        return;
    event->who = *arrival->client;
    event->listener = arrival->listener->number;
    event->addressed_size = (uint8_t)packed_size(arrival->client);
    memcpy(event->addressed, arrival->addressed, event->addressed_size);
    event->port = arrival->port;
    event->decision = decision;
    decision->denied = event;
}

// Ends the oldest session without an answer: our own, else another worker's if that one is not
// at work just now. With no lock but our own worker's.
static bool evict_one(struct worker *worker)
{
    struct relay *relay = worker->relay;
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *other = relay->workers + (worker->number + i) % relay->worker_count;
        if (other != worker && pthread_mutex_trylock(&other->lock))
            continue;
        bool found = other->oldest != NOBODY;
        if (found) {
            count_total(relay, EVICTED, 1);
            close_session(other, relay->sessions + other->oldest, EVICTED_BY_NEWCOMER);
        }
        if (other != worker)
            pthread_mutex_unlock(&other->lock);
        if (found)
            return true;
    }
    return false;
}

static bool any_ended(struct relay *relay)
{
    pthread_mutex_lock(&relay->book);
    bool any = relay->ended_count > 0;
    pthread_mutex_unlock(&relay->book);
    return any;
}

// So many at once, and one more after each interval; `paid` is the moment until when they are.
static bool allows(uint64_t paid, uint64_t now, unsigned at_once, unsigned interval)
{
    return paid < now + (uint64_t)at_once * interval;
}

static void pay(uint64_t *paid, uint64_t now, unsigned interval)
{
    *paid = (*paid > now ? *paid : now) + interval;
}

// A session that waits for its first reply gives its place to a newcomer, but not to a flood of
// them: it would be gone before its server can answer, and making and ending sessions at the rate
// of a flood costs those that are there. With the book locked.
static bool may_evict(const struct relay *relay, uint64_t now)
{
    return relay->evict && allows(relay->evictions_paid, now, EVICTIONS_AT_ONCE, NS_PER_EVICTION);
}

enum room { ROOM, CLIENT_FULL, OVER_RATE, TABLE_FULL, PORTS_KEPT, NO_SOCKET, SOON, EVICT };

// With the book locked.
static enum room full(const struct relay *relay)
{
    if (!relay->free_count && waits_for_others(relay))
        return NO_SOCKET;
    if (relay->free_count || (relay->grown >= relay->most && relay->most < relay->capacity))
        return PORTS_KEPT;
    return relay->grown < relay->capacity ? NO_SOCKET : TABLE_FULL;
}

static enum total counter_of(enum room room)
{
    switch (room) {
    case CLIENT_FULL:
        return REFUSED_PER_CLIENT;
    case OVER_RATE:
        return REFUSED_RATE;
    case PORTS_KEPT:
        return REFUSED_PORTS_KEPT;
    case NO_SOCKET:
        return REFUSED_NO_PORT;
    default:
        return REFUSED_TABLE_FULL;
    }
}

static void refuse(struct worker *worker, enum room room, const struct arrival *arrival)
{
    int problem = 0;
    if (room == NO_SOCKET) {
        pthread_mutex_lock(&worker->relay->book);
        problem = worker->relay->lacking;
        pthread_mutex_unlock(&worker->relay->book);
    }
    tell_refused(worker, counter_of(room), arrival, problem);
}

static bool has_enough(struct relay *relay, const union address *client)
{
    return relay->per_client && *client_count(relay, client) >= relay->per_client;
}

// Whether a stranger could get a place if the host admits it; else the reason why not. While all
// sessions are in use only so many are tried. With the book locked.
static enum room chance_for(const struct worker *worker, const struct arrival *arrival)
{
    struct relay *relay = worker->relay;
    if (!may_come(relay, worker->now))
        return OVER_RATE;
    if (has_enough(relay, arrival->client))
        return CLIENT_FULL;
    if (has_slot(relay) || may_grow(relay))
        return ROOM;
    uint64_t now = worker->now;
    bool place = relay->ended_count > worker->slot_waiters || may_evict(relay, now);
    if (!arrival->injected && !allows(relay->chances_paid, now, CHANCES_AT_ONCE, NS_PER_CHANCE))
        place = false;
    if (!place)
        return full(relay);
    pay(&relay->chances_paid, now, NS_PER_CHANCE);
    return ROOM;
}

// Is there a slot? With the book locked.
static enum room slot_for(const struct worker *worker, bool new)
{
    const struct relay *relay = worker->relay;
    // What has waited longer goes first.
    bool behind = new && worker->slot_waiters;
    // Ended sessions have their slots and ports until the host has heard of them.
    if (has_slot(relay))
        return behind ? SOON : ROOM;
    if (may_grow(relay))
        return SOON;
    if (relay->ended_count > worker->slot_waiters)
        return SOON;
    if (may_evict(relay, worker->now))
        return EVICT;
    return relay->ended_count ? SOON : full(relay);
}

// With the book locked.
static enum room room_for(struct worker *worker, const union address *client,
                          const struct verdict *verdict, bool new)
{
    struct relay *relay = worker->relay;
    if (has_enough(relay, client))
        return CLIENT_FULL;
    enum room room = slot_for(worker, new);
    if ((room == ROOM || room == SOON || room == EVICT) &&
        !may_open(relay, client, verdict, worker->now))
        return OVER_RATE;
    if (room == EVICT)
        pay(&relay->evictions_paid, worker->now, NS_PER_EVICTION);
    return room;
}

static uint32_t take_place(struct relay *relay, const union address *client,
                           struct verdict *verdict)
{
    uint32_t slot = take_slot(relay);
    verdict->uses++;
    if (relay->per_client)
        ++*client_count(relay, client);
    return slot;
}

// `held`: it waited before, else NULL. True: it waits now.
bool take_first(struct worker *worker, const struct arrival *arrival, const void *data,
                uint32_t size, struct held *held)
{
    struct relay *relay = worker->relay;
    bool asked = held && held->asked;
    // Those that wait are looked at once a turn, however many strangers come meanwhile.
    if (!held && waits_already(worker, arrival))
        return hold_datagram(worker, arrival, data, size, false, NULL);
    pthread_mutex_lock(&relay->book);
    if (is_ours(relay, sender_of(arrival), arrival->listener, arrival->local)) {
        struct arrival ours = *arrival;
        pthread_mutex_unlock(&relay->book);
        ours.client = sender_of(arrival);
        tell_refused(worker, REFUSED_OWN_SOCKET, &ours, 0);
        return false;
    }
    struct decision *decision = find_decision(relay, arrival, worker->now);
    // The host is asked about nobody who could get no place, and about no datagram that there is no
    // room for: names are dear, and a flood has many.
    enum room chance = decision || held ? ROOM : chance_for(worker, arrival);
    if (chance != ROOM) {
        pthread_mutex_unlock(&relay->book);
        refuse(worker, chance, arrival);
        return false;
    }
    if (!decision || decision->asked) {
        bool room = held || may_hold(worker, arrival, size);
        bool waits = decision || (room && ask_host(relay, arrival));
        pthread_mutex_unlock(&relay->book);
        if (waits)
            return hold_datagram(worker, arrival, data, size, asked || !decision, held);
        __atomic_add_fetch(&relay->waiting_dropped, 1, __ATOMIC_RELAXED);
        return false;
    }
    struct verdict *verdict = decision->verdict;
    enum room room = verdict ? room_for(worker, arrival->client, verdict, !held) : ROOM;
    enum room without = full(relay);
    if (room > CLIENT_FULL && waits_already(worker, arrival)) {
        pthread_mutex_unlock(&relay->book);
        return hold_datagram(worker, arrival, data, size, asked, held);
    }
    if (verdict && room == ROOM && !pay_opening(relay, arrival->client, verdict, worker->now))
        room = OVER_RATE;
    uint32_t slot = verdict && room == ROOM ? take_place(relay, arrival->client, verdict) : NOBODY;
    if (!verdict && !asked)
        tell_denied(relay, decision, arrival);
    if (decision->once && room != SOON && room != EVICT)
        drop_decision(relay, decision);
    pthread_mutex_unlock(&relay->book);
    if (!verdict)
        return false;
    if (room == EVICT)
        room = evict_one(worker) || any_ended(relay) ? SOON : without;
    if (room == SOON) {
        worker->slot_waiters++;
        return hold_datagram(worker, arrival, data, size, asked, held);
    } else if (room != ROOM) {
        refuse(worker, room, arrival);
    } else {
        struct session *session = open_session(worker, arrival, verdict, slot);
        if (session)
            upload_paid(worker, session, arrival, data, size);
    }
    return false;
}

// In the order in which they came; those that still cannot go on wait again.
void retry_held(struct worker *worker)
{
    worker->answers_seen = __atomic_load_n(&worker->relay->answers, __ATOMIC_ACQUIRE);
    for (struct held *held = take_held(worker), *next; held; held = next) {
        struct arrival arrival = arrival_by(held->listener, &held->client, &held->way);
        arrival.injected = held->injected;
        arrival.hash = held->hash;
        next = held->next;
        struct session *session = find_session(worker, &arrival);
        bool done = held->listener->gone ||
                    (session && upload(worker, session, &arrival, held->data, held->size));
        if (done || !take_first(worker, &arrival, held->data, held->size, held))
            free_held(held);
    }
}
