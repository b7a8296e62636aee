// What clients have used of their rates, and all of them of the relay's, as session/meters.py has it.
//
// A meter stands where it was made until nobody needs it, so a session points at its own, and what
// its datagrams cost is one atomic step, whichever workers a client's sessions are with.
#include "meters.h"

#include <sys/mman.h>

#include "siphash.h"
#include "book.h"

// As in session/meters.py and session/limits.py.
enum { MOST_RESTING = 1 << 16, LOOKS = 8, NS_PER_BURST = 1000000000 };

// ---- paces: see Pace in session/limits.py ----

static uint64_t pay(const struct pace *pace, uint64_t paid, uint64_t now, uint32_t count)
{
    bool counts = paid > now && paid <= now + pace->slack + NS_PER_BURST;
    return (counts ? paid : now) + count * pace->interval;
}

static bool allows(const struct pace *pace, uint64_t paid, uint64_t now)
{
    return !pace->interval || pay(pace, paid, now, 1) <= now + pace->slack;
}

// ---- the meters, with the book locked ----

// Memory that nobody has touched is none.
bool make_meters(struct meters *meters, uint32_t sessions)
{
    uint32_t buckets = 64;
    meters->most = sessions + MOST_RESTING;
    while (buckets < meters->most)
        buckets *= 2;
    meters->mask = buckets - 1;
    void *memory = mmap(NULL, meters->most * sizeof *meters->each, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    meters->each = memory == MAP_FAILED ? NULL : memory;
    meters->buckets = calloc(buckets, sizeof *meters->buckets);
    meters->by_slot = calloc(sessions, sizeof *meters->by_slot);
    return meters->each && meters->buckets && meters->by_slot;
}

void free_meters(struct meters *meters)
{
    if (meters->each)
        munmap(meters->each, meters->most * sizeof *meters->each);
    free(meters->buckets);
    free(meters->by_slot);
}

static uint32_t *bucket_of(struct relay *relay, const uint8_t client[16], uint64_t rule)
{
    uint64_t words[3];
    memcpy(words, client, 16);
    words[2] = rule;
    return relay->meters.buckets + ((uint32_t)siphash(relay->key, words, 3) & relay->meters.mask);
}

static struct meter *find_meter(struct relay *relay, const uint8_t client[16], uint64_t rule)
{
    struct meters *meters = &relay->meters;
    for (uint32_t at = *bucket_of(relay, client, rule); at; at = meters->each[at - 1].next) {
        struct meter *meter = meters->each + at - 1;
        if (meter->rule == rule && !memcmp(meter->client, client, sizeof meter->client))
            return meter;
    }
    return NULL;
}

static void forget_meter(struct relay *relay, struct meter *meter)
{
    struct meters *meters = &relay->meters;
    uint32_t number = (uint32_t)(meter - meters->each) + 1;
    uint32_t *link = bucket_of(relay, meter->client, meter->rule);
    while (*link != number)
        link = &meters->each[*link - 1].next;
    *link = meter->next;
    meter->taken = false;
    meter->next = meters->free;
    meters->free = number;
}

// Some, in turns, so that all are looked at before many more have come: those that say nothing any
// more are forgotten.
static void look_at_some(struct relay *relay, uint64_t now)
{
    struct meters *meters = &relay->meters;
    for (uint32_t i = 0; i < LOOKS && i < meters->made; i++) {
        struct meter *meter = meters->each + meters->hand;
        meters->hand = (meters->hand + 1) % meters->made;
        uint64_t sent = __atomic_load_n(&meter->sent, __ATOMIC_RELAXED);
        if (meter->taken && !meter->sessions && meter->opened <= now && sent <= now)
            forget_meter(relay, meter);
    }
}

// NULL: there is no room for one more.
static struct meter *take_meter(struct relay *relay, const union address *client,
                                const struct verdict *verdict, uint64_t now)
{
    struct meters *meters = &relay->meters;
    uint8_t counted[16];
    count_as(relay, client, counted);
    struct meter *meter = find_meter(relay, counted, verdict->rule);
    if (meter)
        return meter;
    look_at_some(relay, now);
    uint32_t number = meters->free;
    if (number)
        meters->free = meters->each[number - 1].next;
    else if (meters->made < meters->most)
        number = ++meters->made;
    else
        return NULL;
    uint32_t *bucket = bucket_of(relay, counted, verdict->rule);
    meter = meters->each + number - 1;
    *meter = (struct meter){.rule = verdict->rule, .next = *bucket, .taken = true};
    memcpy(meter->client, counted, sizeof counted);
    *bucket = number;
    return meter;
}

// ---- sessions that open, with the book locked ----

// Any session, before the host is asked about it?
bool may_come(const struct relay *relay, uint64_t now)
{
    return allows(&relay->all, relay->all_paid, now);
}

// One of that client, by that verdict? So that none opens for nothing, its first datagram must be
// allowed as well.
bool may_open(struct relay *relay, const union address *client, const struct verdict *verdict,
              uint64_t now)
{
    const struct budget *budget = &verdict->budget;
    if (!may_come(relay, now))
        return false;
    if (!budget->new_sessions.interval && !budget->datagrams.interval)
        return true;
    const struct meter *meter = take_meter(relay, client, verdict, now);
    return meter && allows(&budget->new_sessions, meter->opened, now) &&
           allows(&budget->datagrams, __atomic_load_n(&meter->sent, __ATOMIC_RELAXED), now);
}

// So many datagrams, all or none; with whatever lock, for other workers have the same meter.
static bool spend(struct meter *meter, const struct pace *pace, uint64_t now, uint32_t count)
{
    uint64_t paid = __atomic_load_n(&meter->sent, __ATOMIC_RELAXED), after;
    do {
        after = pay(pace, paid, now, count);
        if (after > now + pace->slack)
            return false;
    } while (!__atomic_compare_exchange_n(&meter->sent, &paid, after, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return true;
}

// The session and its first datagram, as may_open() has said. False: another worker has just passed
// on what was left.
bool pay_opening(struct relay *relay, const union address *client, const struct verdict *verdict,
                 uint64_t now)
{
    const struct pace *opening = &verdict->budget.new_sessions, *sending = &verdict->budget.datagrams;
    struct meter *meter = NULL;
    if (opening->interval || sending->interval)
        meter = take_meter(relay, client, verdict, now);
    if (meter && sending->interval && !spend(meter, sending, now, 1))
        return false;
    if (meter && opening->interval)
        meter->opened = pay(opening, meter->opened, now, 1);
    if (relay->all.interval)
        relay->all_paid = pay(&relay->all, relay->all_paid, now, 1);
    return true;
}

// The session has ended, or other rules hold for it.
void release_meter(struct relay *relay, uint32_t slot)
{
    struct meters *meters = &relay->meters;
    if (meters->by_slot[slot])
        meters->each[meters->by_slot[slot] - 1].sessions--;
    meters->by_slot[slot] = 0;
}

// ---- datagrams of sessions, with the worker's lock alone ----

// From the first datagram that is counted on; NULL: there is no room for one more.
static struct meter *meter_of(struct worker *worker, const struct session *session)
{
    struct relay *relay = worker->relay;
    uint32_t *number = relay->meters.by_slot + slot_of(relay, session);
    if (*number)
        return relay->meters.each + *number - 1;
    pthread_mutex_lock(&relay->book);
    struct meter *meter = take_meter(relay, &session->client, session->verdict, worker->now);
    if (meter) {
        meter->sessions++;
        *number = (uint32_t)(meter - relay->meters.each) + 1;
    }
    pthread_mutex_unlock(&relay->book);
    return meter;
}

// So many datagrams of the session's client, all or none: then they are paid for.
bool may_send(struct worker *worker, const struct session *session, uint32_t count)
{
    const struct pace *pace = &session->verdict->budget.datagrams;
    struct meter *meter = meter_of(worker, session);
    return meter && spend(meter, pace, worker->now, count);
}
