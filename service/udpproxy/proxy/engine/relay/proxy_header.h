// The header before a datagram that says whose it is; session/proxy_header.py has the rules.
#ifndef UDPPROXY_PROXY_HEADER_H
#define UDPPROXY_PROXY_HEADER_H

#include "address.h"
#include "table.h"

// In the order of proxy_header.KINDS.
enum header_kind { NO_HEADER, VERSION_2, SIMPLE };

enum {
    MOST_HEADER = 80,
    LARGEST_SENT = 65507, // bytes of header and payload together
};

// What a datagram begins with: `size` bytes; `local`: a proxy speaks for itself.
struct header {
    uint32_t size;
    bool local;
    union address client;
    uint8_t addressed[16];
    uint16_t port;
};

bool read_header(const uint8_t *data, uint32_t size, struct header *header);
unsigned make_header(uint8_t to[MOST_HEADER], enum header_kind kind, const struct record *record);
uint32_t simple_header(const uint8_t *data, uint32_t size, const struct record *record);

#endif
