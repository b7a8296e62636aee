// Datagrams that wait for a decision or a slot, each with its worker.
#include "held.h"

#include "book.h"

enum { MOST_HELD = 1024, MOST_HELD_BYTES = 4 << 20 };

// What the host gives back has room beside what strangers send; it comes in small parts.
bool may_hold(const struct worker *worker, const struct arrival *arrival, uint32_t size)
{
    uint32_t share = arrival->injected ? 2 : 1;
    return worker->held_count < share * MOST_HELD &&
           worker->held_bytes + size <= share * (size_t)MOST_HELD_BYTES;
}

void free_held(struct held *held)
{
    release_listener(held->listener);
    free(held);
}

static void link_held(struct worker *worker, struct held *held)
{
    held->next = NULL;
    *worker->held_end = held;
    worker->held_end = &held->next;
    worker->held_bytes += held->size;
    worker->waiting[held->hash % WAITING]++;
    __atomic_add_fetch(&worker->held_count, 1, __ATOMIC_SEQ_CST);
}

void unlink_held(struct worker *worker, struct held **link)
{
    struct held *held = *link;
    *link = held->next;
    if (worker->held_end == &held->next)
        worker->held_end = link;
    worker->held_bytes -= held->size;
    worker->waiting[held->hash % WAITING]--;
    __atomic_sub_fetch(&worker->held_count, 1, __ATOMIC_RELEASE);
}

// One that was `held` already waits on; whatever came new only where there is room.
bool hold_datagram(struct worker *worker, const struct arrival *arrival, const void *data,
                   uint32_t size, bool asked, struct held *held)
{
    if (held) {
        held->asked = asked;
        link_held(worker, held);
        return true;
    }
    if (may_hold(worker, arrival, size))
        held = calloc(1, sizeof *held + size);
    if (!held) {
        __atomic_add_fetch(&worker->relay->waiting_dropped, 1, __ATOMIC_RELAXED);
        return false;
    }
    held->listener = arrival->listener;
    use_listener(held->listener);
    held->client = *arrival->client;
    memcpy(held->way.addressed, arrival->addressed, packed_size(arrival->client));
    memcpy(held->way.local, arrival->local, arrival->listener->size);
    held->way.interface = arrival->interface;
    held->way.port = arrival->port;
    held->way.tos = arrival->tos;
    if (arrival->via)
        held->way.via = *arrival->via;
    held->size = size;
    held->asked = asked;
    held->injected = arrival->injected;
    held->hash = arrival->hash;
    memcpy(held->data, data, size);
    link_held(worker, held);
    return true;
}

struct held *take_held(struct worker *worker)
{
    struct held *held = worker->held;
    worker->held = NULL;
    worker->held_end = &worker->held;
    worker->held_bytes = 0;
    worker->slot_waiters = 0;
    memset(worker->waiting, 0, sizeof worker->waiting);
    __atomic_store_n(&worker->held_count, 0, __ATOMIC_RELEASE);
    return held;
}

// Has the host answered since those that wait were looked at? It counts its answers before it looks
// whether anybody waits; here it is the other way round, so that one of both sees the other.
bool has_answers(const struct worker *worker)
{
    return worker->held &&
           worker->answers_seen != __atomic_load_n(&worker->relay->answers, __ATOMIC_SEQ_CST);
}

// The listener is gone, and so is what came from it; NULL: all listeners are.
void drop_held(struct worker *worker, const struct listener *listener)
{
    for (struct held *held = take_held(worker), *next; held; held = next) {
        next = held->next;
        if (!listener || held->listener == listener)
            free_held(held);
        else
            link_held(worker, held);
    }
}

// Does an earlier datagram of the very same client wait? Then this one will share its session.
bool waits_already(const struct worker *worker, const struct arrival *arrival)
{
    if (!worker->waiting[arrival->hash % WAITING])
        return false;
    for (const struct held *held = worker->held; held; held = held->next) {
        const struct arrival its = arrival_by(held->listener, &held->client, &held->way);
        if (held->hash == arrival->hash && held->listener == arrival->listener &&
            same_endpoint(&held->client, arrival->client) && same_way(&its, arrival))
            return true;
    }
    return false;
}
