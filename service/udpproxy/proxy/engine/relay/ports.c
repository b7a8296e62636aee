// Our own ports towards servers: whose they are, which of them rest, and who writes from one.
#include "ports.h"

#include "address.h"
#include "siphash.h"
#include "tally.h"

enum { MOST_RESTING = 4096 }; // of 28,232 that the kernel has by default

// ---- ends of ours that rules name, with the book locked ----
//
// The system lets any number of such sockets have the same address and port. Two that lead to the
// same server would take each other's datagrams, and one that leads to none those of all.

enum { KEY_SIZE = 16 };
enum seen_as { SHARED, OURS }; // an end is counted for who wants it, and where it is not its client's

static uint32_t *count_end(struct relay *relay, enum seen_as as, const union address *end,
                           uint8_t key[KEY_SIZE])
{
    uint64_t words[3], made[2];
    widen((uint8_t *)words, packed_of(end), packed_size(end));
    words[2] = made[1] = port_of(end) | (uint64_t)packed_size(end) << 16 | (uint64_t)as << 32;
    made[0] = siphash(relay->key, words, 3);
    memcpy(key, made, KEY_SIZE);
    return count_of(relay, &relay->ends, key, KEY_SIZE);
}

static union address end_of(const struct session *session)
{
    union address end;
    const struct record *record = session->record;
    make_address(&end, record->source, record->server_size, session->port, 0);
    return end;
}

// What comes from the client's own address and port is the client's.
static bool is_clients(const struct session *session, const union address *end)
{
    return same_endpoint(&session->client, end);
}

static void enter_end(struct relay *relay, const struct session *session)
{
    uint8_t key[KEY_SIZE];
    const union address end = end_of(session);
    ++*count_end(relay, SHARED, &end, key);
    if (!is_clients(session, &end))
        ++*count_end(relay, OURS, &end, key);
}

static void leave_end(struct relay *relay, const struct session *session)
{
    uint8_t key[KEY_SIZE];
    const union address end = end_of(session);
    count_end(relay, SHARED, &end, key);
    uncount(relay, &relay->ends, key, KEY_SIZE);
    if (is_clients(session, &end))
        return;
    count_end(relay, OURS, &end, key);
    uncount(relay, &relay->ends, key, KEY_SIZE);
}

static bool is_named(struct relay *relay, const union address *end)
{
    uint8_t key[KEY_SIZE];
    return *count_end(relay, OURS, end, key) > 0;
}

static bool is_shared(const struct session *session)
{
    return session->record->type == NORMAL || session->record->type == ONE_WAY;
}

// Where the sessions are that have its end towards its server, or, not `shared`, towards anybody.
static uint32_t *claims_of(struct relay *relay, const struct session *session, bool shared)
{
    const struct record *record = session->record;
    uint64_t words[6] = {0};
    widen((uint8_t *)words, record->source, record->server_size);
    words[2] = session->port | (uint64_t)record->server_size << 16;
    if (shared) {
        widen((uint8_t *)(words + 3), record->server, record->server_size);
        words[5] = record->server_port | (uint64_t)record->server_scope << 32;
    }
    return relay->claims + (siphash(relay->key, words, 6) & relay->claims_mask);
}

static bool is_claimed(struct relay *relay, const struct session *session, bool shared)
{
    const struct record *one = session->record;
    for (uint32_t at = *claims_of(relay, session, shared); at;
         at = relay->sessions[at - 1].same_port) {
        const struct session *other = relay->sessions + at - 1;
        const struct record *its = other->record;
        if (other->port != session->port || its->server_size != one->server_size ||
            is_shared(other) != shared || memcmp(its->source, one->source, one->server_size))
            continue;
        if (!shared || (its->server_port == one->server_port &&
                        its->server_scope == one->server_scope &&
                        !memcmp(its->server, one->server, one->server_size)))
            return true;
    }
    return false;
}

// From now on that end of ours is the session's, whose record says so before it has the port. False:
// another one has it that cannot share it.
bool claim_port(struct relay *relay, struct session *session, const union address *own)
{
    struct record *record = session->record;
    bool shared = is_shared(session);
    begin_change(record);
    memset(record->source, 0, sizeof record->source);
    memcpy(record->source, packed_of(own), packed_size(own));
    end_change(record);
    pthread_mutex_lock(&relay->book);
    session->port = port_of(own);
    const union address end = end_of(session);
    uint8_t key[KEY_SIZE];
    bool free = !*count_end(relay, SHARED, &end, key) ||
                (shared && !is_claimed(relay, session, false) && !is_claimed(relay, session, true));
    if (free) {
        enter_end(relay, session);
        uint32_t *first = claims_of(relay, session, shared);
        session->same_port = *first;
        *first = slot_of(relay, session) + 1;
        session->placed = session->claimed = true;
    }
    pthread_mutex_unlock(&relay->book);
    return free;
}

// ---- by port, with the book locked ----

void add_port(struct relay *relay, struct session *session)
{
    if (session->placed) // it was claimed
        return;
    session->placed = true;
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
    if (!session->placed)
        return;
    uint32_t *link = session->claimed ? claims_of(relay, session, is_shared(session))
                                      : relay->ports + session->port;
    uint32_t slot = slot_of(relay, session) + 1;
    while (*link && *link != slot)
        link = &relay->sessions[*link - 1].same_port;
    if (*link)
        *link = session->same_port;
    if (session->tallied)
        uncount(relay, &relay->sources, session->record->source, session->record->server_size);
    if (session->claimed)
        leave_end(relay, session);
    session->tallied = session->placed = session->claimed = false;
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
    if (__atomic_load_n(relay->header + PORTED, __ATOMIC_RELAXED) && is_named(relay, client))
        return true;
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
