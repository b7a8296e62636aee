// How many sessions there are, by an address.
#include "tally.h"

#include "siphash.h"
#include "address.h"

bool make_tally(struct tally *tally, uint32_t most)
{
    uint32_t size = 2;
    while (size < 2 * most)
        size *= 2;
    tally->cells = calloc(size, sizeof *tally->cells);
    tally->mask = size - 1;
    return tally->cells != NULL;
}

static uint32_t home_of(const struct relay *relay, const struct tally *tally,
                        const uint8_t wide[16])
{
    uint64_t words[2];
    memcpy(words, wide, 16);
    return (uint32_t)siphash(relay->key, words, 2) & tally->mask;
}

uint32_t *count_of(const struct relay *relay, struct tally *tally, const void *packed,
                   unsigned size)
{
    uint8_t wide[16];
    widen(wide, packed, size);
    uint32_t at = home_of(relay, tally, wide);
    while (tally->cells[at].count && memcmp(tally->cells[at].address, wide, 16))
        at = (at + 1) & tally->mask;
    memcpy(tally->cells[at].address, wide, 16);
    return &tally->cells[at].count;
}

void uncount(const struct relay *relay, struct tally *tally, const void *packed, unsigned size)
{
    uint32_t *count = count_of(relay, tally, packed, size), mask = tally->mask;
    if (*count == 0 || --*count)
        return;
    struct tallied *cells = tally->cells;
    uint32_t at =
        (uint32_t)((struct tallied *)((uint8_t *)count - offsetof(struct tallied, count)) - cells);
    for (uint32_t next = (at + 1) & mask; cells[next].count; next = (next + 1) & mask) {
        uint32_t home = home_of(relay, tally, cells[next].address);
        if (((next - home) & mask) >= ((next - at) & mask)) {
            cells[at] = cells[next];
            cells[next].count = 0;
            at = next;
        }
    }
}
