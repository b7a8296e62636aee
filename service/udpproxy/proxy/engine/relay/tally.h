// How many sessions there are, by an address; with the book locked.
#ifndef UDPPROXY_TALLY_H
#define UDPPROXY_TALLY_H

#include "state.h"

// For so many sessions.
bool make_tally(struct tally *tally, uint32_t most);
uint32_t *count_of(const struct relay *relay, struct tally *tally, const void *packed,
                   unsigned size);
void uncount(const struct relay *relay, struct tally *tally, const void *packed, unsigned size);

#endif
