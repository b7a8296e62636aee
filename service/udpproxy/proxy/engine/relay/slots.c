// Slots: which are free, and whether sockets are wanted for more of them.
//
// The host has sockets made ahead of need and many at a time, for sessions may come faster than
// they could be had one by one.
#include "slots.h"

#include "worker.h"

// As in session/index.py, or a quarter of what there are.
enum { FEW = 125 };

// More than these would never be used.
static uint32_t end_of(const struct relay *relay)
{
    return relay->most < relay->capacity ? relay->most : relay->capacity;
}

bool has_slot(const struct relay *relay)
{
    return relay->free_count && relay->grown - relay->free_count < relay->most;
}

// None is free now, but the host is at it.
bool may_grow(const struct relay *relay)
{
    return !relay->free_count && !relay->lacking && relay->grown < end_of(relay);
}

// The host hears of it once until there are more.
void look_for_more(struct relay *relay)
{
    uint32_t few = relay->grown / 4 > FEW ? relay->grown / 4 : FEW;
    if (relay->wants_more || relay->free_count >= few || relay->grown >= end_of(relay))
        return;
    relay->wants_more = relay->scarce = true;
    note_news(relay);
}

uint32_t take_slot(struct relay *relay)
{
    uint32_t slot = relay->free[--relay->free_count];
    set_life(relay->sessions + slot, TAKEN);
    look_for_more(relay);
    return slot;
}

void free_slot(struct relay *relay, uint32_t slot)
{
    set_life(relay->sessions + slot, UNUSED);
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
