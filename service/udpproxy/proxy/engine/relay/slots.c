// Slots: which are free, and whether sockets are wanted for more of them.
//
// The host has sockets made ahead of need and many at a time, for sessions may come faster than
// they could be had one by one.
#include "slots.h"

#include <sys/epoll.h>

#include "worker.h"

// As in session/index.py: slots, or a quarter of what there are.
enum { FEW = 125 };

static uint32_t few_of(const struct relay *relay)
{
    return relay->grown / 4 > FEW ? relay->grown / 4 : FEW;
}

static uint32_t spent_of(const struct relay *relay)
{
    return relay->unsaid + relay->awaited;
}

static uint32_t in_use(const struct relay *relay)
{
    return relay->grown - relay->free_count - spent_of(relay);
}

// More than these would never be used.
static uint32_t end_of(const struct relay *relay)
{
    return relay->most < relay->capacity ? relay->most : relay->capacity;
}

bool has_slot(const struct relay *relay)
{
    return relay->free_count && in_use(relay) < relay->most;
}

// Will there be a slot when spent sockets have been replaced?
bool waits_for_others(const struct relay *relay)
{
    return spent_of(relay) && in_use(relay) < relay->most;
}

// None is free now, but the host is at it.
bool may_grow(const struct relay *relay)
{
    if (relay->free_count || relay->lacking)
        return false;
    return waits_for_others(relay) || relay->grown < end_of(relay);
}

// The host hears of it once until there are more.
void look_for_more(struct relay *relay)
{
    uint32_t free = relay->free_count + spent_of(relay);
    if (relay->wants_more || free >= few_of(relay) || relay->grown >= end_of(relay))
        return;
    relay->wants_more = relay->scarce = true;
    note_news(relay);
}

// Not one by one, and not before those that it has heard of are back: so there are many at a time,
// the more the faster they come. See relay_look_for_spent for those that are few.
void look_for_spent(struct relay *relay)
{
    uint32_t low = relay->grown / 8 ? relay->grown / 8 : 1;
    if (!relay->unsaid || relay->awaited || relay->spent_due)
        return;
    if (relay->unsaid < few_of(relay) && relay->free_count >= low)
        return;
    relay->spent_due = true;
    note_news(relay);
}

// What waits there must not ring for ever; the descriptor alone does not take it out of the poll, for
// the parent has another.
static void unpoll(struct relay *relay, struct session *session, bool v6)
{
    if (session->polled[v6])
        epoll_ctl(relay->workers[session->polled[v6] - 1].epoll, EPOLL_CTL_DEL,
                  socket_of(relay, v6, slot_of(relay, session)), NULL);
    session->polled[v6] = 0;
}

static void spend(struct relay *relay, uint32_t slot)
{
    unpoll(relay, relay->sessions + slot, false);
    unpoll(relay, relay->sessions + slot, true);
    relay->spent[relay->unsaid++] = slot;
    look_for_spent(relay);
}

uint32_t take_slot(struct relay *relay)
{
    uint32_t slot = relay->free[--relay->free_count];
    set_life(relay->sessions + slot, TAKEN);
    look_for_more(relay);
    look_for_spent(relay);
    return slot;
}

void free_slot(struct relay *relay, uint32_t slot)
{
    set_life(relay->sessions + slot, UNUSED);
    if (relay->sessions[slot].kept)
        spend(relay, slot);
    else
        relay->free[relay->free_count++] = slot;
    __atomic_add_fetch(&relay->answers, 1, __ATOMIC_SEQ_CST);
}

// The first so many slots have sockets by now. Of all that are free the lowest is taken first.
void add_slots(struct relay *relay, uint32_t slots)
{
    if (slots <= relay->grown)
        return;
    uint32_t added = slots - relay->grown;
    memmove(relay->free + added, relay->free, relay->free_count * sizeof *relay->free);
    for (uint32_t i = 0; i < added; i++) {
        relay->free[i] = slots - 1 - i;
        relay->sessions[relay->grown + i].record = relay->records + relay->grown + i;
    }
    relay->free_count += added;
    relay->grown = slots;
}
