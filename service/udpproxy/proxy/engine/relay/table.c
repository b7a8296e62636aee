// What a record says, and the sum over it.
#include "table.h"

static uint32_t remainders[256]; // of CRC-32

__attribute__((constructor)) static void make_remainders(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++)
            rest = rest & 1 ? rest >> 1 ^ 0xEDB88320 : rest >> 1;
        remainders[byte] = rest;
    }
}

uint64_t sum_of(const struct record *record)
{
    const uint8_t *bytes = (const uint8_t *)record;
    uint32_t rest = UINT32_MAX;
    for (size_t at = offsetof(struct record, id); at < offsetof(struct record, stray); at++) {
        uint8_t byte = at == offsetof(struct record, state) ? 0 : bytes[at];
        rest = rest >> 8 ^ remainders[(uint8_t)rest ^ byte];
    }
    return SUMMED | (rest ^ UINT32_MAX);
}
