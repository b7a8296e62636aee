// Which sessions there are, whose they are, when they are due.
//
// Expiry costs nothing per datagram: each session has one place in a heap, made from the deadline
// as it was then, and is looked at again when that moment comes.
#include "inside.h"
#include "siphash.h"

// ---- by key: (listener, client, and on wildcards the address the client wrote to) ----

uint32_t hash_of(const struct relay *relay, const struct listener *listener,
                 const union address *client, const uint8_t *addressed)
{
    uint64_t words[6] = {0};
    unsigned count = 2;
    if (!is_v6(client)) {
        uint32_t address, to = 0;
        memcpy(&address, &client->v4.sin_addr, 4);
        if (listener->wildcard)
            memcpy(&to, addressed, 4);
        words[0] = address | (uint64_t)client->v4.sin_port << 32;
        words[1] = listener->index | (uint64_t)to << 32;
    } else {
        memcpy(words, &client->v6.sin6_addr, 16);
        words[2] = client->v6.sin6_port | (uint64_t)client->v6.sin6_scope_id << 32;
        words[3] = listener->index;
        count = 4;
        if (listener->wildcard) {
            memcpy(words + 4, addressed, 16);
            count = 6;
        }
    }
    return (uint32_t)siphash(relay->key, words, count);
}

static bool is_key_of(const struct session *session, const struct first *first)
{
    const union address *client = first->client;
    if (session->listener != first->listener || !same_endpoint(&session->client, client))
        return false;
    if (is_v6(client) && session->client.v6.sin6_scope_id != client->v6.sin6_scope_id)
        return false;
    return !first->listener->wildcard ||
           memcmp(session->record->addressed, first->addressed, packed_size(client)) == 0;
}

struct session *find(struct worker *worker, const struct first *first)
{
    uint32_t hash = first->hash;
    for (uint32_t at = hash & worker->mask; worker->cells[at].slot; at = (at + 1) & worker->mask)
        if (worker->cells[at].hash == hash) {
            struct session *session = worker->relay->sessions + worker->cells[at].slot - 1;
            if (is_key_of(session, first))
                return session;
        }
    return NULL;
}

void enter_key(struct worker *worker, struct session *session)
{
    uint32_t at = session->hash & worker->mask;
    while (worker->cells[at].slot)
        at = (at + 1) & worker->mask;
    worker->cells[at] = (struct cell){session->hash, slot_of(worker->relay, session) + 1};
    session->keyed = true;
}

// Open addressing without tombstones: those that follow move up.
void leave_key(struct worker *worker, struct session *session)
{
    if (!session->keyed)
        return;
    session->keyed = false;
    uint32_t mask = worker->mask, at = session->hash & mask;
    uint32_t wanted = slot_of(worker->relay, session) + 1;
    while (worker->cells[at].slot != wanted)
        at = (at + 1) & mask;
    for (uint32_t next = (at + 1) & mask; worker->cells[next].slot; next = (next + 1) & mask) {
        uint32_t home = worker->cells[next].hash & mask;
        if (((next - home) & mask) >= ((next - at) & mask)) {
            worker->cells[at] = worker->cells[next];
            at = next;
        }
    }
    worker->cells[at].slot = 0;
}

// ---- by deadline: a heap of slots, smallest moment first ----

static uint64_t last_of(const struct session *session)
{
    const struct record *record = session->record;
    return record->last_upload > record->last_download ? record->last_upload
                                                       : record->last_download;
}

static uint64_t deadline(const struct session *session)
{
    const struct budget *budget = &session->verdict->budget;
    uint64_t quiet = last_of(session) + budget->idle;
    uint64_t old = session->record->opened + budget->lifetime;
    return quiet < old ? quiet : old;
}

static void place(struct worker *worker, uint32_t at, struct due due)
{
    worker->due[at] = due;
    worker->relay->sessions[due.slot].due_at = at;
}

static void sift(struct worker *worker, uint32_t at, struct due due)
{
    struct due *heap = worker->due;
    while (at && heap[(at - 1) / 2].moment > due.moment) {
        place(worker, at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= worker->due_count)
            break;
        if (child + 1 < worker->due_count && heap[child + 1].moment < heap[child].moment)
            child++;
        if (heap[child].moment >= due.moment)
            break;
        place(worker, at, heap[child]);
        at = child;
    }
    place(worker, at, due);
}

void plan(struct worker *worker, struct session *session)
{
    struct due due = {deadline(session), slot_of(worker->relay, session)};
    if (due.moment >= NEVER) {
        unplan(worker, session);
        return;
    }
    if (session->due_at == NOBODY)
        session->due_at = worker->due_count++;
    sift(worker, session->due_at, due);
}

void unplan(struct worker *worker, struct session *session)
{
    uint32_t at = session->due_at;
    if (at == NOBODY)
        return;
    session->due_at = NOBODY;
    struct due last = worker->due[--worker->due_count];
    if (at < worker->due_count)
        sift(worker, at, last);
}

uint64_t first_due(const struct worker *worker)
{
    return worker->due_count ? worker->due[0].moment : NEVER;
}

// The next session whose time is over, for the caller to close.
// Those that were busy meanwhile get another moment; `looks` says how many may be looked at.
struct session *next_due(struct worker *worker, uint64_t now, enum reason *reason, int *looks)
{
    while (worker->due_count && worker->due[0].moment <= now && (*looks)-- > 0) {
        struct session *session = worker->relay->sessions + worker->due[0].slot;
        const struct budget *budget = &session->verdict->budget;
        if (now >= session->record->opened + budget->lifetime) {
            *reason = LIFETIME;
            return session;
        }
        if (now >= last_of(session) + budget->idle) {
            *reason = IDLE;
            return session;
        }
        plan(worker, session);
    }
    return NULL;
}

// ---- without an answer so far, oldest first: what newcomers may replace ----

void list_unanswered(struct worker *worker, struct session *session)
{
    uint32_t slot = slot_of(worker->relay, session);
    session->older = worker->youngest;
    session->younger = NOBODY;
    if (worker->youngest == NOBODY)
        worker->oldest = slot;
    else
        worker->relay->sessions[worker->youngest].younger = slot;
    worker->youngest = slot;
    session->listed = true;
}

void unlist_unanswered(struct worker *worker, struct session *session)
{
    struct session *sessions = worker->relay->sessions;
    if (!session->listed)
        return;
    session->listed = false;
    if (session->older == NOBODY)
        worker->oldest = session->younger;
    else
        sessions[session->older].younger = session->younger;
    if (session->younger == NOBODY)
        worker->youngest = session->older;
    else
        sessions[session->younger].older = session->older;
}

// ---- by our own port, with the book locked ----

void enter_port(struct relay *relay, struct session *session)
{
    session->port = session->record->source_port;
    uint32_t *first = relay->ports + session->port;
    session->same_port = *first;
    *first = slot_of(relay, session) + 1;
}

void leave_port(struct relay *relay, struct session *session)
{
    uint32_t *link = relay->ports + session->port;
    uint32_t slot = slot_of(relay, session) + 1;
    while (*link && *link != slot)
        link = &relay->sessions[*link - 1].same_port;
    if (*link)
        *link = session->same_port;
    uint32_t count = __atomic_add_fetch(&relay->given_back_count, 1, __ATOMIC_RELAXED);
    __atomic_store_n(relay->given_back + session->port, count, __ATOMIC_RELAXED);
    if (relay->rest < MOST_RESTING)
        __atomic_add_fetch(&relay->rest, 1, __ATOMIC_RELAXED);
}

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

static bool is_loopback(const union address *address)
{
    if (is_v6(address))
        return IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr);
    return *(const uint8_t *)&address->v4.sin_addr == 127;
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
    return false;
}

// ---- how many sessions each client has, with the book locked ----

void widen(uint8_t wide[16], const void *packed, unsigned size)
{
    memset(wide, 0, 16);
    if (size == 4)
        wide[10] = wide[11] = 0xff;
    memcpy(wide + 16 - size, packed, size);
}

static uint32_t home_of(const struct relay *relay, const uint8_t wide[16])
{
    uint64_t words[2];
    memcpy(words, wide, 16);
    return (uint32_t)siphash(relay->key, words, 2) & relay->client_mask;
}

uint32_t *client_count(struct relay *relay, const union address *client)
{
    uint8_t wide[16];
    widen(wide, packed_of(client), packed_size(client));
    uint32_t at = home_of(relay, wide);
    while (relay->clients[at].count && memcmp(relay->clients[at].address, wide, 16))
        at = (at + 1) & relay->client_mask;
    memcpy(relay->clients[at].address, wide, 16);
    return &relay->clients[at].count;
}

void client_left(struct relay *relay, const union address *client)
{
    uint32_t *count = client_count(relay, client), mask = relay->client_mask;
    if (*count == 0 || --*count)
        return;
    uint32_t at = (uint32_t)((struct client *)((uint8_t *)count - offsetof(struct client, count)) -
                             relay->clients);
    for (uint32_t next = (at + 1) & mask; relay->clients[next].count; next = (next + 1) & mask) {
        uint32_t home = home_of(relay, relay->clients[next].address);
        if (((next - home) & mask) >= ((next - at) & mask)) {
            relay->clients[at] = relay->clients[next];
            relay->clients[next].count = 0;
            at = next;
        }
    }
}
