// Addresses as the system, the table and the keys have them.
#ifndef UDPPROXY_ADDRESS_H
#define UDPPROXY_ADDRESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE // this header comes before all of the system's
#endif
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

void make_address(union address *address, const uint8_t *packed, unsigned size, uint16_t port,
                  uint32_t scope);
void widen(uint8_t wide[16], const void *packed, unsigned size);
void mask_bits(uint8_t wide[16], unsigned bits);

static inline bool is_v6(const union address *address)
{
    return address->any.sa_family == AF_INET6;
}

static inline socklen_t length_of(const union address *address)
{
    return is_v6(address) ? sizeof address->v6 : sizeof address->v4;
}

static inline uint16_t port_of(const union address *address)
{
    return ntohs(is_v6(address) ? address->v6.sin6_port : address->v4.sin_port);
}

static inline void set_port(union address *address, uint16_t port)
{
    if (is_v6(address))
        address->v6.sin6_port = htons(port);
    else
        address->v4.sin_port = htons(port);
}

static inline uint32_t scope_of(const union address *address)
{
    return is_v6(address) ? address->v6.sin6_scope_id : 0;
}

static inline unsigned packed_size(const union address *address)
{
    return is_v6(address) ? 16 : 4;
}

static inline const void *packed_of(const union address *address)
{
    return is_v6(address) ? (const void *)&address->v6.sin6_addr
                          : (const void *)&address->v4.sin_addr;
}

static inline bool same_endpoint(const union address *one, const union address *other)
{
    return one->any.sa_family == other->any.sa_family && port_of(one) == port_of(other) &&
           memcmp(packed_of(one), packed_of(other), packed_size(one)) == 0;
}

#endif
