// What the host does with the sessions that there are.
#include "commands.h"

#include "state.h"
#include "balance.h"
#include "ports.h"
#include "sockets.h"
#include "fixed.h"
#include "worker.h"
#include "slots.h"
#include "book.h"
#include "meters.h"
#include "events.h"
#include "dscp.h"
#include "sessions.h"
#include "moves.h"
#include "servers.h"

uint32_t relay_sessions(struct relay *relay)
{
    return __atomic_load_n(&relay->live, __ATOMIC_RELAXED);
}

// So many sessions and no more, though there are slots for others; `each`: of a source address, 0:
// no limit.
void relay_limit(struct relay *relay, uint32_t most, uint32_t each)
{
    pthread_mutex_lock(&relay->book);
    relay->most = most;
    relay->each = each;
    look_for_more(relay);
    ring_host_locked(relay);
    pthread_mutex_unlock(&relay->book);
}

// How fast sessions may open, all together; an interval of 0: as fast as they like.
void relay_limit_openings(struct relay *relay, const struct pace *pace)
{
    pthread_mutex_lock(&relay->book);
    relay->all = *pace;
    pthread_mutex_unlock(&relay->book);
}

// Copies leave from these ports, and from no others.
void relay_copy_from(struct relay *relay, const uint16_t *ports, uint32_t count)
{
    pthread_mutex_lock(&relay->book);
    memset(relay->copies, 0, sizeof relay->copies);
    for (uint32_t i = 0; i < count; i++)
        relay->copies[ports[i] / 8] |= (uint8_t)(1u << ports[i] % 8);
    pthread_mutex_unlock(&relay->book);
}

void relay_segment(struct relay *relay, int on)
{
    __atomic_store_n(&relay->unable, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&relay->segmentation, on, __ATOMIC_RELAXED);
}

void relay_watch(struct relay *relay, int on)
{
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        lock_worker(worker);
        __atomic_store_n(&relay->watched, on, __ATOMIC_RELAXED);
        for (uint32_t slot = 0; slot < relay->grown; slot++) {
            struct session *session = relay->sessions + slot;
            if (life_of(session) == LIVE && is_of(session, worker))
                be_careful(relay, session);
        }
        unlock_worker(worker);
    }
}

// The record of a live session while nobody writes it; 0: there is none in that slot.
int relay_copy(struct relay *relay, uint32_t slot, uint64_t *id, void *record)
{
    struct session *session = relay->sessions + slot;
    if (life_of(session) != LIVE)
        return 0;
    *id = id_of(session);
    struct worker *worker = lock_worker_of(session, *id);
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE;
    if (found)
        memcpy(record, session->record, RECORD_SIZE);
    unlock_worker(worker);
    return found;
}

// The rules that hold from now on; 0: the session has ended meanwhile.
int relay_judge_by(struct relay *relay, uint64_t id, uint32_t slot, struct verdict *verdict)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = lock_worker_of(session, id);
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE;
    if (found) {
        pthread_mutex_lock(&relay->book);
        session->verdict->uses--;
        verdict->uses++;
        release_meter(relay, slot);
        pthread_mutex_unlock(&relay->book);
        session->verdict = verdict;
        begin_change(session->record);
        session->record->acl = verdict->acl;
        session->record->generation = verdict->generation;
        end_change(session->record);
        if (session->record->member != verdict->member) {
            leave_member(relay, session->record);
            join_member(relay, session->record, verdict->member);
        }
        be_careful(relay, session);
        mark_by_rule(relay, session);
        wait_for_nothing(session);
        set_due(worker, session, worker->now);
        ring_worker(worker);
    }
    unlock_worker(worker);
    return found;
}

// The session goes on to another server; 0: there is none of that number.
int relay_redirect(struct relay *relay, uint64_t id, const union address *server, uint32_t member)
{
    for (uint32_t slot = 0; slot < relay->grown; slot++) {
        struct session *session = relay->sessions + slot;
        if (life_of(session) != LIVE || id_of(session) != id)
            continue;
        struct worker *worker = lock_worker_of(session, id);
        bool found = worker && life_of(session) == LIVE;
        if (found)
            aim(worker, session, server, member);
        if (worker)
            unlock_worker(worker);
        return found;
    }
    return 0;
}

// The session goes on from what the system gives now; 0: it is not there any more, or its socket has
// no peer, and the system chooses for each datagram.
int relay_reconnect(struct relay *relay, uint64_t id, uint32_t slot)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = lock_worker_of(session, id);
    int problem;
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE && (session->plain || session->pinned);
    if (found) {
        worker->now = clock_now();
        read_all(worker, session);
        found = life_of(session) == LIVE;
    }
    if (found)
        reconnect(worker, session, &problem);
    unlock_worker(worker);
    ring_host(relay);
    return found;
}

// 0: it is not there any more.
int relay_end(struct relay *relay, uint64_t id, uint32_t slot, enum reason reason)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = lock_worker_of(session, id);
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE;
    if (found)
        close_session(worker, session, reason);
    unlock_worker(worker);
    ring_host(relay);
    return found;
}

// 0: there is none of that number.
int relay_kill(struct relay *relay, uint64_t id, enum reason reason)
{
    for (uint32_t slot = 0; slot < relay->grown; slot++) {
        const struct session *session = relay->sessions + slot;
        if (life_of(session) == LIVE && id_of(session) == id)
            return relay_end(relay, id, slot, reason);
    }
    return 0;
}

// ---- those that have ended ----

int relay_how_ended(struct relay *relay, uint32_t slot, uint32_t *verdict, uint64_t *id,
                    int *answered)
{
    const struct session *session = relay->sessions + slot;
    *verdict = session->verdict->number;
    *id = session->id;
    *answered = session->record->downloads > 0;
    return session->reason;
}

uint32_t relay_drops(struct relay *relay, uint32_t slot)
{
    return drops_of(relay, slot);
}

static void add_up(struct relay *relay, const struct record *record, uint32_t drops)
{
    count_total(relay, SESSIONS_ENDED, 1);
    count_total(relay, UPLOAD_DATAGRAMS, record->uploads);
    count_total(relay, UPLOAD_BYTES, record->upload_bytes);
    count_total(relay, DOWNLOAD_DATAGRAMS, record->downloads);
    count_total(relay, DOWNLOAD_BYTES, record->download_bytes);
    count_total(relay, STRAY_REPLIES, record->stray);
    count_total(relay, ICMP_ERRORS, record->icmp);
    count_total(relay, DROPS_SESSIONS, drops);
}

// The host has heard of these: their slots are free again.
void relay_free_ended(struct relay *relay, const uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct session *session = relay->sessions + slots[i];
        uint32_t drops = relay_drops(relay, slots[i]);
        __atomic_store_n(&session->record->state, CLOSING, __ATOMIC_RELEASE);
        add_up(relay, session->record, drops);
        pthread_mutex_lock(&relay->book);
        remove_port(relay, session); // it rests before anybody can have it
        pthread_mutex_unlock(&relay->book);
        unmark(session);
        if (session->kept)
            reset_any(session->fd);
        else
            reset_socket(session->fd, session->plain);
        pthread_mutex_lock(&relay->book);
        free_record(session->record);
        release_listener(session->listener);
        session->verdict->uses--;
        relay->ended_count--;
        free_slot(relay, slots[i]);
        pthread_mutex_unlock(&relay->book);
    }
    ring_host(relay); // their slots may be spent
    for (uint32_t i = 0; count && i < relay->worker_count; i++)
        ring_if_held(relay->workers + i);
}
