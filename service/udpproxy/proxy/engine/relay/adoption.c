// Sockets for slots, and the sessions that are found in the table.
#include "adoption.h"

#include "state.h"
#include "address.h"
#include "balance.h"
#include "ports.h"
#include "sockets.h"
#include "fixed.h"
#include "worker.h"
#include "slots.h"
#include "book.h"
#include "dscp.h"
#include "sessions.h"

void relay_socket(struct relay *relay, int version, uint32_t slot, int fd)
{
    relay->sockets[version == 6][slot] = fd + 1;
}

// What waits for a slot looks again.
static void look_again(struct relay *relay)
{
    __atomic_add_fetch(&relay->answers, 1, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < relay->worker_count; i++)
        ring_if_held(relay->workers + i);
}

// The first `slots` of all slots have their sockets by now.
void relay_extend(struct relay *relay, uint32_t slots)
{
    pthread_mutex_lock(&relay->book);
    bool new = !relay->grown;
    add_slots(relay, slots);
    relay->wants_more = relay->scarce = false;
    relay->lacking = 0;
    if (!new) // else there are sessions to be adopted first, and a limit to be told of
        look_for_more(relay);
    ring_host_locked(relay);
    pthread_mutex_unlock(&relay->book);
    look_again(relay);
}

// There are no sockets for more slots for now: sessions that need one are refused.
void relay_lack(struct relay *relay, int problem)
{
    pthread_mutex_lock(&relay->book);
    relay->lacking = problem;
    pthread_mutex_unlock(&relay->book);
    look_again(relay);
}

// ---- slots whose sockets keep a port ----

// The host hears of those that there are, few as they may be: they have waited for a while.
void relay_look_for_spent(struct relay *relay)
{
    pthread_mutex_lock(&relay->book);
    if (relay->unsaid && !relay->awaited) {
        relay->spent_due = true;
        note_news(relay);
        ring_host_locked(relay);
    }
    pthread_mutex_unlock(&relay->book);
}

// So many of them, which the host has then heard of.
uint32_t relay_take_spent(struct relay *relay, uint32_t *slots, uint32_t most)
{
    uint32_t count = 0;
    pthread_mutex_lock(&relay->book);
    while (count < most && relay->unsaid)
        slots[count++] = relay->spent[--relay->unsaid];
    relay->awaited += count;
    relay->spent_due = relay->unsaid > 0;
    pthread_mutex_unlock(&relay->book);
    return count;
}

int relay_kept(struct relay *relay, uint32_t slot, int version)
{
    return is_kept(relay->sessions + slot, version == 6);
}

// Another socket for such a slot; 0: there is nothing to be replaced.
int relay_replace(struct relay *relay, int version, uint32_t slot, int fd)
{
    struct session *session = relay->sessions + slot;
    bool v6 = version == 6;
    pthread_mutex_lock(&relay->book);
    bool wanted = slot < relay->grown && life_of(session) == UNUSED && is_kept(session, v6);
    if (wanted) {
        relay->sockets[v6][slot] = fd + 1;
        session->kept &= v6 ? 1 : 2;
        if (!session->kept) {
            relay->awaited--;
            free_slot(relay, slot);
        }
    }
    pthread_mutex_unlock(&relay->book);
    return wanted;
}

// All that came together have their places: what waits for a slot looks again.
void relay_replaced(struct relay *relay)
{
    pthread_mutex_lock(&relay->book);
    relay->lacking = 0;
    look_for_spent(relay);
    ring_host_locked(relay);
    pthread_mutex_unlock(&relay->book);
    look_again(relay);
}

// ---- sessions that are found in the table ----

// Before us a rule may have named ports: their sockets have them still.
static void find_kept(struct relay *relay, uint32_t slot)
{
    for (int family = 0; family < 2; family++)
        if (socket_of(relay, family, slot) >= 0 && keeps_port(socket_of(relay, family, slot)))
            relay->sessions[slot].kept |= 1 << family;
}

// All slots but these are free: sessions found in the table live there.
void relay_reserve(struct relay *relay, const uint8_t *taken)
{
    pthread_mutex_lock(&relay->book);
    relay->free_count = 0;
    for (uint32_t slot = relay->grown; slot-- > 0;) {
        if (relay->header[PORTED])
            find_kept(relay, slot);
        if (!taken[slot])
            free_slot(relay, slot);
    }
    look_for_more(relay);
    ring_host_locked(relay);
    pthread_mutex_unlock(&relay->book);
}

// Nobody's session is here any more.
void relay_clear(struct relay *relay, uint32_t slot)
{
    for (int family = 0; family < 2; family++)
        if (socket_of(relay, family, slot) >= 0) {
            reset_any(socket_of(relay, family, slot));
            unmark_unknown(relay, socket_of(relay, family, slot), family);
        }
    free_record(relay->sessions[slot].record);
}

// It was reserved for a session that cannot go on.
void relay_free_slot(struct relay *relay, uint32_t slot)
{
    pthread_mutex_lock(&relay->book);
    free_slot(relay, slot);
    pthread_mutex_unlock(&relay->book);
}

// A session that is in the table goes on; 0: it cannot.
int relay_adopt(struct relay *relay, uint32_t slot, struct verdict *verdict)
{
    static const uint8_t nothing[16];
    struct session *session = relay->sessions + slot;
    struct record *record = session->record;
    struct listener *listener = listener_of(relay, record->listener);
    int fd = socket_of(relay, record->server_size == 16, slot);
    unsigned size = record->via_size ? record->via_size : record->client_size;
    struct way way;
    if (!listener || listener->size != size || fd < 0)
        return 0;
    way_of(record, &way);
    make_address(&session->client, record->client, record->client_size, record->client_port,
                 record->via_size ? 0 : record->scope);
    const struct arrival arrival = arrival_by(listener, &session->client, &way);
    struct worker *worker = relay->workers + worker_of(relay, listener, sender_of(&arrival));
    lock_worker(worker);
    session->fd = fd;
    if (!poll_session(worker, session)) {
        unlock_worker(worker);
        return 0;
    }
    __atomic_store_n(&session->id, record->id, __ATOMIC_RELAXED);
    session->verdict = verdict;
    session->listener = listener;
    use_listener(listener);
    session->pinned = record->pinned;
    session->answered = record->downloads > 0;
    session->proxied = arrival.via != NULL;
    see_socket(relay, session);
    session->hash = hash_arrival(relay, &arrival);
    begin_change(record);
    if (!memcmp(record->peer, nothing, sizeof nothing))
        write_network(record, verdict); // a version that did not has opened it
    record->acl = verdict->acl;
    record->generation = verdict->generation;
    end_change(record);
    join_member(relay, record, verdict->member);
    begin_session(worker, session);
    if (is_kept(session, record->server_size == 16)) {
        union address own;
        make_address(&own, record->source, record->server_size, record->source_port, 0);
        claim_port(relay, session, &own);
    }
    if (record->state == OPEN)
        add_key(worker, session);
    pthread_mutex_lock(&relay->book);
    verdict->uses++;
    if (relay->per_client)
        ++*client_count(relay, &session->client);
    add_port(relay, session);
    pthread_mutex_unlock(&relay->book);
    unlock_worker(worker);
    return 1;
}
