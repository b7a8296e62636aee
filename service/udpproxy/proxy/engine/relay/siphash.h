// SipHash-1-3 over whole words: what strangers choose (addresses, ports) is only ever hashed with
// a key they do not know, so nobody can make the table slow.
#ifndef UDPPROXY_SIPHASH_H
#define UDPPROXY_SIPHASH_H

#include <stdint.h>

#define SIP_ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))
#define SIP_ROUND(a, b, c, d)                                                                      \
    do {                                                                                           \
        a += b, b = SIP_ROTATE(b, 13) ^ a, a = SIP_ROTATE(a, 32);                                  \
        c += d, d = SIP_ROTATE(d, 16) ^ c;                                                         \
        a += d, d = SIP_ROTATE(d, 21) ^ a;                                                         \
        c += b, b = SIP_ROTATE(b, 17) ^ c, c = SIP_ROTATE(c, 32);                                  \
    } while (0)

static inline uint64_t siphash(const uint64_t key[2], const uint64_t *words, unsigned count)
{
    uint64_t a = key[0] ^ 0x736f6d6570736575, b = key[1] ^ 0x646f72616e646f6d;
    uint64_t c = key[0] ^ 0x6c7967656e657261, d = key[1] ^ 0x7465646279746573;
    for (unsigned i = 0; i < count; i++) {
        d ^= words[i];
        SIP_ROUND(a, b, c, d);
        a ^= words[i];
    }
    uint64_t last = (uint64_t)count * 8 << 56;
    d ^= last;
    SIP_ROUND(a, b, c, d);
    a ^= last;
    c ^= 0xff;
    SIP_ROUND(a, b, c, d);
    SIP_ROUND(a, b, c, d);
    SIP_ROUND(a, b, c, d);
    return a ^ b ^ c ^ d;
}

#endif
