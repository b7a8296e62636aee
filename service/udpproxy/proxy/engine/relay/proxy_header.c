// The header before a datagram that says whose it is; session/proxy_header.py has the rules.
#include "proxy_header.h"

#include <stdio.h>

enum {
    SIGNATURE = 12,
    FIXED = 16,
    SPEAKS_FOR_ITSELF = 0x20,
    SPEAKS_FOR_OTHERS = 0x21,
    UDP_OVER_V4 = 0x12,
    UDP_OVER_V6 = 0x22,
    PORTS = 4,
    TLV = 3,
    MOST_TLVS = 64, // a datagram has room for 21,000
    UNIQUE_ID = 5,
    SPP = 38,
};

static const uint8_t signature[SIGNATURE] = "\r\n\r\n\0\r\nQUIT\n";
static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
static const uint8_t magic[2] = {0x56, 0xec};

static uint16_t get_16(const uint8_t *from)
{
    return (uint16_t)(from[0] << 8 | from[1]);
}

static uint8_t *put_16(uint8_t *to, unsigned value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
    return to + 2;
}

static uint8_t *put_bytes(uint8_t *to, const void *from, unsigned size)
{
    memcpy(to, from, size);
    return to + size;
}

static bool are_tlvs(const uint8_t *data, uint32_t at, uint32_t end)
{
    for (int i = 0; i < MOST_TLVS && at != end; i++) {
        if (at + TLV > end)
            return false;
        at += TLV + (uint32_t)get_16(data + at + 1);
    }
    return at == end;
}

// False: it begins with none that we take.
bool read_header(const uint8_t *data, uint32_t size, struct header *header)
{
    if (size < FIXED || memcmp(data, signature, SIGNATURE))
        return false;
    uint8_t command = data[SIGNATURE], family = data[SIGNATURE + 1];
    header->size = FIXED + (uint32_t)get_16(data + SIGNATURE + 2);
    header->local = command == SPEAKS_FOR_ITSELF; // whatever it says besides is to be left out
    if (header->size > size || header->local)
        return header->size <= size;
    if (command != SPEAKS_FOR_OTHERS || (family != UDP_OVER_V4 && family != UDP_OVER_V6))
        return false;
    unsigned length = family == UDP_OVER_V4 ? 4 : 16;
    const uint8_t *client = data + FIXED, *addressed = client + length;
    const uint8_t *ports = addressed + length;
    uint32_t tlvs = FIXED + 2 * length + PORTS;
    if (tlvs > header->size || !are_tlvs(data, tlvs, header->size))
        return false;
    // The rules that name it by IPv4 would not see it.
    if (length == 16 && (!memcmp(client, mapped, 12) || !memcmp(addressed, mapped, 12)))
        return false;
    make_address(&header->client, client, length, get_16(ports), 0);
    memset(header->addressed, 0, sizeof header->addressed);
    memcpy(header->addressed, addressed, length);
    header->port = get_16(ports + 2);
    return true;
}

static unsigned make_version_2(uint8_t *to, const struct record *record)
{
    char number[24];
    unsigned size = record->client_size;
    int digits = snprintf(number, sizeof number, "%llu", (unsigned long long)record->id);
    uint8_t *at = put_bytes(to, signature, SIGNATURE);
    *at++ = SPEAKS_FOR_OTHERS;
    *at++ = size == 4 ? UDP_OVER_V4 : UDP_OVER_V6;
    at = put_16(at, 2 * size + PORTS + TLV + (unsigned)digits);
    at = put_bytes(at, record->client, size);
    at = put_bytes(at, record->addressed, size);
    at = put_16(at, record->client_port);
    at = put_16(at, record->addressed_port);
    *at++ = UNIQUE_ID;
    at = put_16(at, (unsigned)digits);
    return (unsigned)(put_bytes(at, number, (unsigned)digits) - to);
}

static unsigned make_simple(uint8_t *to, const struct record *record)
{
    uint8_t *at = put_bytes(to, magic, sizeof magic);
    widen(at, record->client, record->client_size);
    widen(at + 16, record->addressed, record->client_size);
    at = put_16(at + 32, record->client_port);
    return (unsigned)(put_16(at, record->addressed_port) - to);
}

// What stands before each datagram of the session to its server; how long it is.
unsigned make_header(uint8_t to[MOST_HEADER], enum header_kind kind, const struct record *record)
{
    return kind == VERSION_2 ? make_version_2(to, record) : make_simple(to, record);
}

// The bytes of a server's datagram that are the header sent back, which names our client: two bytes
// of magic alone could be payload.
uint32_t simple_header(const uint8_t *data, uint32_t size, const struct record *record)
{
    uint8_t ours[MOST_HEADER];
    if (size < SPP || memcmp(data, magic, sizeof magic))
        return 0;
    make_simple(ours, record);
    return memcmp(data, ours, 18) || memcmp(data + 34, ours + 34, 2) ? 0 : SPP;
}
