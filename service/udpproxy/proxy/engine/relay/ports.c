// Our own ports towards servers: whose they are, which of them rest, and who writes from one.
#include "ports.h"

#include "address.h"
#include "tally.h"

enum { MOST_RESTING = 4096 }; // of 28,232 that the kernel has by default

// ---- by port, with the book locked ----

void add_port(struct relay *relay, struct session *session)
{
    session->port = session->record->source_port;
    uint32_t *first = relay->ports + session->port;
    session->same_port = *first;
    *first = slot_of(relay, session) + 1;
    session->tallied = session->verdict->source_count > 0;
    if (session->tallied)
        ++*count_of(relay, &relay->sources, session->record->source,
                    session->record->server_size);
}

void remove_port(struct relay *relay, struct session *session)
{
    uint32_t *link = relay->ports + session->port;
    uint32_t slot = slot_of(relay, session) + 1;
    while (*link && *link != slot)
        link = &relay->sessions[*link - 1].same_port;
    if (*link)
        *link = session->same_port;
    if (session->tallied)
        uncount(relay, &relay->sources, session->record->source, session->record->server_size);
    session->tallied = false;
    uint32_t count = __atomic_add_fetch(&relay->given_back_count, 1, __ATOMIC_RELAXED);
    __atomic_store_n(relay->given_back + session->port, count, __ATOMIC_RELAXED);
    if (relay->rest < MOST_RESTING)
        __atomic_add_fetch(&relay->rest, 1, __ATOMIC_RELAXED);
}

// Has that address of ours as many sessions as it may, where it is asked for?
bool is_used_up(struct relay *relay, const union address *source)
{
    pthread_mutex_lock(&relay->book);
    bool full = relay->each && *count_of(relay, &relay->sources, packed_of(source),
                                         packed_size(source)) >= relay->each;
    pthread_mutex_unlock(&relay->book);
    return full;
}

// ---- those that rest ----

// A port that was given back rests until so many others were: an answer to the old session may
// still be on its way, and from the new one's server it would pass for its own.
bool is_resting(const struct relay *relay, const union address *own)
{
    uint32_t last = __atomic_load_n(relay->given_back + port_of(own), __ATOMIC_RELAXED);
    uint32_t now = __atomic_load_n(&relay->given_back_count, __ATOMIC_RELAXED);
    return last && now - last < __atomic_load_n(&relay->rest, __ATOMIC_RELAXED);
}

// Ports are scarce here: half of those that rest have rested enough.
void rest_less(struct relay *relay)
{
    pthread_mutex_lock(&relay->book);
    __atomic_store_n(&relay->rest, relay->rest / 2, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&relay->book);
}

// ---- our own datagrams, with the book locked ----

static bool is_loopback(const union address *address)
{
    if (is_v6(address))
        return IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr);
    return *(const uint8_t *)&address->v4.sin_addr == 127;
}

// A copy that came back to us would be copied again.
static bool is_copy(const struct relay *relay, const union address *client,
                    const struct listener *listener, const uint8_t *local)
{
    static const uint8_t nothing[16];
    unsigned port = port_of(client), size = listener->size;
    if (!(relay->copies[port / 8] >> port % 8 & 1) || packed_size(client) != size)
        return false;
    const uint8_t *ours = memcmp(local, nothing, size) ? local : listener->packed;
    return memcmp(ours, packed_of(client), size) == 0 || is_loopback(client);
}

// A datagram that we sent ourselves: answering it would go round for ever.
bool is_ours(struct relay *relay, const union address *client, const struct listener *listener,
             const uint8_t *local)
{
    static const uint8_t nothing[16];
    unsigned size = packed_size(client);
    const void *packed = packed_of(client);
    for (uint32_t at = relay->ports[port_of(client)]; at; at = relay->sessions[at - 1].same_port) {
        const struct record *record = relay->sessions[at - 1].record;
        if (record->server_size == size && memcmp(record->source, packed, size) == 0)
            return true;
    }
    for (uint32_t i = 0; i < relay->listener_count; i++) {
        const struct listener *other = relay->listeners[i];
        if (other->gone || other->port != port_of(client) || other->size != size)
            continue;
        if (memcmp(other->packed, packed, size) == 0)
            return true;
        if (!other->wildcard)
            continue;
        const uint8_t *ours = memcmp(local, nothing, size) ? local : listener->packed;
        if (memcmp(ours, packed, size) == 0 || is_loopback(client))
            return true;
    }
    return is_copy(relay, client, listener, local);
}
