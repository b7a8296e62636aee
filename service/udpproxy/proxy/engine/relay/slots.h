// Which slots are free, and whether sockets are wanted for more of them.
#ifndef UDPPROXY_SLOTS_H
#define UDPPROXY_SLOTS_H

#include "state.h"

// All of it with the book locked.

bool has_slot(const struct relay *relay);
bool may_grow(const struct relay *relay);
uint32_t take_slot(struct relay *relay);
void free_slot(struct relay *relay, uint32_t slot);
void add_slots(struct relay *relay, uint32_t slots);
void look_for_more(struct relay *relay);
void look_for_spent(struct relay *relay);
bool waits_for_others(const struct relay *relay);

#endif
