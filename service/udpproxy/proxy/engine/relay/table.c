// What a record says, and the sum over it.
#include "table.h"

#include <endian.h>

// Of CRC-32: of one byte that is followed by none, by one, and so on up to seven others.
static uint32_t remainders[8][256];

__attribute__((constructor)) static void make_remainders(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++)
            rest = rest & 1 ? rest >> 1 ^ 0xEDB88320 : rest >> 1;
        remainders[0][byte] = rest;
    }
    for (int more = 1; more < 8; more++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t rest = remainders[more - 1][byte];
            remainders[more][byte] = rest >> 8 ^ remainders[0][(uint8_t)rest];
        }
}

// Eight bytes at a time: it is done three times in a session's life.
uint64_t sum_of(const struct record *record)
{
    enum { FIRST = offsetof(struct record, id), END = offsetof(struct record, stray) };
    _Static_assert((END - FIRST) % 8 == 0 && offsetof(struct record, state) % 8 == 0, "words");
    const uint8_t *bytes = (const uint8_t *)record;
    uint32_t rest = UINT32_MAX;
    for (size_t at = FIRST; at < END; at += 8) {
        uint64_t word;
        memcpy(&word, bytes + at, 8);
        word = le64toh(word);
        if (at == offsetof(struct record, state))
            word &= ~UINT64_C(0xFF);
        word ^= rest;
        rest = remainders[7][(uint8_t)word] ^ remainders[6][(uint8_t)(word >> 8)] ^
               remainders[5][(uint8_t)(word >> 16)] ^ remainders[4][(uint8_t)(word >> 24)] ^
               remainders[3][(uint8_t)(word >> 32)] ^ remainders[2][(uint8_t)(word >> 40)] ^
               remainders[1][(uint8_t)(word >> 48)] ^ remainders[0][(uint8_t)(word >> 56)];
    }
    return SUMMED | (rest ^ UINT32_MAX);
}
