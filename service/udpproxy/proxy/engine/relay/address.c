// Addresses as the system, the table and the keys have them.
#include "address.h"

void make_address(union address *address, const uint8_t *packed, unsigned size, uint16_t port,
                  uint32_t scope)
{
    memset(address, 0, sizeof *address);
    if (size == 4) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(port);
        memcpy(&address->v4.sin_addr, packed, 4);
    } else {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(port);
        address->v6.sin6_scope_id = scope;
        memcpy(&address->v6.sin6_addr, packed, 16);
    }
}

void widen(uint8_t wide[16], const void *packed, unsigned size)
{
    memset(wide, 0, 16);
    if (size == 4)
        wide[10] = wide[11] = 0xff;
    memcpy(wide + 16 - size, packed, size);
}

// Only the first bits stay.
void mask_bits(uint8_t wide[16], unsigned bits)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned kept = bits > i * 8 ? bits - i * 8 : 0;
        if (kept < 8)
            wide[i] &= (uint8_t)(0xff00 >> kept);
    }
}
