// Which sessions there are, whose they are, when they are due.
//
// Expiry costs nothing per datagram: each session has one place in a heap, made from the deadline
// as it was then, and is looked at again when that moment comes.
#include "book.h"

#include "siphash.h"
#include "address.h"
#include "tally.h"

// ---- listeners, each part of the keys of its sessions ----

// A listener that was removed stays in memory until nothing refers to it any more.
void use_listener(struct listener *listener)
{
    __atomic_add_fetch(&listener->uses, 1, __ATOMIC_RELAXED);
}

void release_listener(struct listener *listener)
{
    __atomic_sub_fetch(&listener->uses, 1, __ATOMIC_RELEASE);
}

void free_listener(struct listener *listener)
{
    free(listener->networks.each);
    free(listener);
}

struct listener *listener_of(const struct relay *relay, uint32_t number)
{
    for (uint32_t i = 0; i < relay->listener_count; i++)
        if (!relay->listeners[i]->gone && relay->listeners[i]->number == number)
            return relay->listeners[i];
    return NULL;
}

// ---- how datagrams came in ----

// `addressed`, `local` and `via` stay the caller's.
struct arrival arrival_by(struct listener *listener, const union address *client,
                          const struct way *way)
{
    return (struct arrival){
        .listener = listener,
        .client = client,
        .addressed = way->addressed,
        .local = way->local,
        .interface = way->interface,
        .port = way->port,
        .via = way->via.any.sa_family == AF_UNSPEC ? NULL : &way->via,
        .tos = way->tos,
    };
}

// As those of the session do.
void way_of(const struct record *record, struct way *way)
{
    memcpy(way->addressed, record->addressed, sizeof way->addressed);
    memcpy(way->local, record->local, sizeof way->local);
    way->interface = record->interface;
    way->port = record->addressed_port;
    way->tos = 0;
    if (record->via_size)
        make_address(&way->via, record->via, record->via_size, record->via_port, record->scope);
    else
        way->via.any.sa_family = AF_UNSPEC;
}

static bool is_same_sender(const union address *one, const union address *other)
{
    return same_endpoint(one, other) &&
           (!is_v6(one) || one->v6.sin6_scope_id == other->v6.sin6_scope_id);
}

// Are they of the same session, if they are the same client's on the same listener?
bool same_way(const struct arrival *one, const struct arrival *other)
{
    if (!one->via != !other->via)
        return false;
    if (one->via && (one->port != other->port || !is_same_sender(one->via, other->via)))
        return false;
    return memcmp(one->addressed, other->addressed, packed_size(one->client)) == 0;
}

// ---- by key: (listener, client, and on wildcards the address the client wrote to), or behind a
// PROXY header (listener, sender, client, address and port that the client wrote to) ----

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

uint32_t hash_arrival(const struct relay *relay, const struct arrival *arrival)
{
    const union address *client = arrival->client, *via = arrival->via;
    uint64_t words[8];
    if (!via)
        return hash_of(relay, arrival->listener, client, arrival->addressed);
    widen((uint8_t *)words, packed_of(client), packed_size(client));
    widen((uint8_t *)(words + 2), arrival->addressed, packed_size(client));
    widen((uint8_t *)(words + 4), packed_of(via), packed_size(via));
    words[6] = port_of(client) | (uint64_t)arrival->port << 16 | (uint64_t)port_of(via) << 32;
    words[7] = arrival->listener->index;
    words[7] |= is_v6(via) ? (uint64_t)via->v6.sin6_scope_id << 32 : 0;
    return (uint32_t)siphash(relay->key, words, 8);
}

// Apart, for its room on the stack would be taken for every datagram.
__attribute__((noinline)) static bool is_behind(const struct session *session, const struct arrival *arrival)
{
    struct way way;
    way_of(session->record, &way);
    const struct arrival its = arrival_by(session->listener, &session->client, &way);
    return same_way(&its, arrival);
}

static bool is_key_of(const struct session *session, const struct arrival *arrival)
{
    const union address *client = arrival->client;
    if (session->listener != arrival->listener || !same_endpoint(&session->client, client))
        return false;
    if (session->proxied || arrival->via)
        return is_behind(session, arrival);
    if (is_v6(client) && session->client.v6.sin6_scope_id != client->v6.sin6_scope_id)
        return false;
    return !arrival->listener->wildcard ||
           memcmp(session->record->addressed, arrival->addressed, packed_size(client)) == 0;
}

struct session *find_session(struct worker *worker, const struct arrival *arrival)
{
    uint32_t hash = arrival->hash;
    for (uint32_t at = hash & worker->mask; worker->cells[at].slot; at = (at + 1) & worker->mask)
        if (worker->cells[at].hash == hash) {
            struct session *session = worker->relay->sessions + worker->cells[at].slot - 1;
            if (is_key_of(session, arrival))
                return session;
        }
    return NULL;
}

void add_key(struct worker *worker, struct session *session)
{
    uint32_t at = session->hash & worker->mask;
    while (worker->cells[at].slot)
        at = (at + 1) & worker->mask;
    worker->cells[at] = (struct cell){session->hash, slot_of(worker->relay, session) + 1};
    session->keyed = true;
}

// Open addressing without tombstones: those that follow move up.
void remove_key(struct worker *worker, struct session *session)
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

static uint64_t earlier(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

// When a client's patience ends: once until the session is connected afresh, then as long again.
static uint64_t patience_of(const struct session *session)
{
    uint64_t silent = session->verdict->budget.silent, asked = session->record->asked;
    if (!asked || silent >= NEVER)
        return NEVER;
    return asked + (asked & TRIED ? 2 * silent : silent);
}

// When to look at it again. A client that does not wait may begin to at any moment from `now` on,
// without a word to anybody.
static uint64_t deadline(const struct session *session, uint64_t now)
{
    const struct budget *budget = &session->verdict->budget;
    uint64_t last = last_of(session);
    uint64_t moment = earlier(last + budget->idle, session->record->opened + budget->lifetime);
    if (!is_awaited(session))
        return moment;
    if (session->record->asked)
        return earlier(moment, patience_of(session));
    return earlier(moment, (last > now ? last : now) + budget->silent);
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

void set_due(struct worker *worker, struct session *session, uint64_t now)
{
    struct due due = {deadline(session, now), slot_of(worker->relay, session)};
    if (due.moment >= NEVER) {
        clear_due(worker, session);
        return;
    }
    if (session->due_at == NOBODY)
        session->due_at = worker->due_count++;
    sift(worker, session->due_at, due);
}

void clear_due(struct worker *worker, struct session *session)
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
// Those that were busy meanwhile get another moment; `looks` says how many may be looked at. SILENT:
// its client's patience has come to an end, for the first time or for good.
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
        if (now >= patience_of(session)) {
            *reason = SILENT;
            return session;
        }
        set_due(worker, session, now);
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

// ---- how many sessions each client has, with the book locked ----

// As which client an address counts: IPv6 by its first bits. Those of a link all begin with the same
// ones, so they count each for itself. Without a lock.
void count_as(const struct relay *relay, const union address *client, uint8_t counted[16])
{
    widen(counted, packed_of(client), packed_size(client));
    if (is_v6(client) && !IN6_IS_ADDR_LINKLOCAL(&client->v6.sin6_addr))
        mask_bits(counted, relay->prefix6);
}

uint32_t *client_count(struct relay *relay, const union address *client)
{
    uint8_t counted[16];
    count_as(relay, client, counted);
    return count_of(relay, &relay->clients, counted, sizeof counted);
}

void uncount_client(struct relay *relay, const union address *client)
{
    uint8_t counted[16];
    count_as(relay, client, counted);
    uncount(relay, &relay->clients, counted, sizeof counted);
}
