// Births and deaths of sessions.
//
// Order matters for whoever comes after a crash: the record is written as OPENING before the
// socket gets a port, so that a socket in use always has a record; an ended session stays in the
// table as it was until the log has its record (relay_free_ended), so that at worst it is there
// twice.
#include "sessions.h"

#include <sys/epoll.h>
#include <time.h>

#include "address.h"
#include "balance.h"
#include "proxy_header.h"
#include "ports.h"
#include "sockets.h"
#include "fixed.h"
#include "worker.h"
#include "slots.h"
#include "book.h"
#include "meters.h"
#include "events.h"
#include "dscp.h"
#include "replies.h"

static uint64_t wall_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void be_careful(struct relay *relay, struct session *session)
{
    const struct budget *budget = &session->verdict->budget;
    bool watched = is_watched(relay);
    bool handed = session->verdict->handed, awaited = is_awaited(session);
    enum header_kind header = (enum header_kind)session->verdict->header;
    bool keeps = session->verdict->keeps_dscp, marked = keeps || session->verdict->tos;
    session->careful_up = watched || handed || awaited || header != NO_HEADER || keeps ||
                          session->verdict->mirror_count ||
                          budget->upload_datagrams < NEVER || budget->upload_bytes < NEVER ||
                          has_rate(session);
    session->careful_down = watched || handed || awaited || header == SIMPLE || marked ||
                            budget->download_datagrams < NEVER || budget->download_bytes < NEVER ||
                            budget->amplification || session->record->type == ONE_WAY;
}

// Nobody will note the answer without the limit: with another one the wait begins anew.
void wait_for_nothing(struct session *session)
{
    if (!is_awaited(session))
        put(&session->record->asked, 0);
}

// `polled` is the book's: a worker may find that a session ended whose slot another one takes.
static bool poll_at(struct worker *worker, struct session *session)
{
    struct relay *relay = worker->relay;
    uint8_t *polled = session->polled + (session->fd == socket_of(relay, true, slot_of(relay, session)));
    struct epoll_event event = {
        .events = EPOLLIN,
        .data.u64 = polled_as(SESSION, slot_of(relay, session)),
    };
    // A socket without a port is silent, so between two sessions it stays where it is.
    if (*polled == worker->number + 1)
        return true;
    if (*polled)
        epoll_ctl(relay->workers[*polled - 1].epoll, EPOLL_CTL_DEL, session->fd, NULL);
    *polled = 0;
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, session->fd, &event) && errno != EEXIST)
        return false;
    *polled = (uint8_t)(worker->number + 1);
    return true;
}

bool poll_session(struct worker *worker, struct session *session)
{
    pthread_mutex_lock(&worker->relay->book);
    bool polled = poll_at(worker, session);
    pthread_mutex_unlock(&worker->relay->book);
    return polled;
}

// It has ended, unless its slot is somebody else's already: late replies must not ring for ever.
void unpoll_ended(struct worker *worker, struct session *session)
{
    struct relay *relay = worker->relay;
    pthread_mutex_lock(&relay->book);
    if (life_of(session) == ENDED && is_of(session, worker)) {
        bool v6 = session->fd == socket_of(relay, true, slot_of(relay, session));
        if (session->polled[v6] == worker->number + 1) {
            epoll_ctl(worker->epoll, EPOLL_CTL_DEL, session->fd, NULL);
            session->polled[v6] = 0;
        }
    }
    pthread_mutex_unlock(&relay->book);
}

// Who may reply, which stays so whatever becomes of the rule.
void write_network(struct record *record, const struct verdict *verdict)
{
    if (record->type != BROADCAST || verdict->network_size != 4)
        return;
    memcpy(record->peer, verdict->network_first, 4);
    memcpy(record->peer + 4, verdict->network_last, 4);
    record->peer_port = verdict->any_port;
}

static void write_record(struct record *record, uint64_t id, const struct arrival *arrival,
                         const struct verdict *verdict, const union address *server,
                         uint64_t now)
{
    const union address *client = arrival->client, *sender = sender_of(arrival);
    unsigned size = packed_size(client), server_size = packed_size(server);
    begin_change(record);
    // Not the sequence number, which is odd now.
    memset((uint8_t *)record + sizeof record->sequence, 0,
           sizeof *record - sizeof record->sequence);
    record->id = id;
    record->state = OPENING;
    record->type = verdict->type;
    record->client_size = (uint8_t)size;
    record->server_size = (uint8_t)server_size;
    record->acl = verdict->acl;
    record->generation = verdict->generation;
    record->listener = arrival->listener->number;
    record->addressed_port = arrival->port;
    record->client_port = port_of(client);
    record->server_port = port_of(server);
    memcpy(record->client, packed_of(client), size);
    memcpy(record->addressed, arrival->addressed, size);
    memcpy(record->local, arrival->local, arrival->listener->size);
    if (arrival->via) {
        record->via_size = (uint8_t)packed_size(sender);
        record->via_port = port_of(sender);
        memcpy(record->via, packed_of(sender), record->via_size);
    }
    memcpy(record->server, packed_of(server), server_size);
    write_network(record, verdict);
    record->interface = arrival->interface;
    record->scope = scope_of(sender);
    record->server_scope = scope_of(server);
    record->opened = now;
    record->opened_wall = wall_now();
    record->last_upload = now;
    end_change(record);
}

void free_record(struct record *record)
{
    begin_change(record);
    record->state = FREE;
    end_change(record);
    record->sum = UINT64_MAX; // fits nothing
}

void begin_session(struct worker *worker, struct session *session)
{
    __atomic_store_n(&session->worker, worker, __ATOMIC_RELEASE);
    session->due_at = NOBODY;
    session->gathered = 0;
    session->gathered_bytes = 0;
    session->patience = 0;
    session->last_turn = worker->turns - 2;
    session->singly = session->unreachable = false;
    session->listed = false;
    // The record's type, not the verdict's: a reload may have given the rule another.
    session->plain = session->record->type == NORMAL || session->record->type == ONE_WAY;
    be_careful(worker->relay, session);
    mark_by_rule(worker->relay, session);
    wait_for_nothing(session);
    if (!session->answered)
        list_unanswered(worker, session);
    set_life(session, LIVE);
    set_due(worker, session, worker->now);
    __atomic_add_fetch(&worker->relay->live, 1, __ATOMIC_RELAXED);
}

static void tell_opened(struct relay *relay, const struct session *session)
{
    const struct record *record = session->record;
    struct event *event = add_event(relay, OPENED, 0);
    if (event) {
        event->session = session->id;
        name_verdict(event, session->verdict);
        event->who = session->client;
        make_address(&event->to, record->server, record->server_size, record->server_port,
                     record->server_scope);
    }
}

static struct session *refuse_session(struct worker *worker, const struct arrival *arrival,
                                      struct session *session, enum total counter,
                                      int problem)
{
    struct relay *relay = worker->relay;
    if (session->fd >= 0 && keeps(relay, session))
        leave_port(relay, session);
    else if (session->fd >= 0)
        reset_socket(session->fd, false);
    free_record(session->record);
    release_listener(session->listener);
    pthread_mutex_lock(&relay->book);
    session->verdict->uses--;
    if (relay->per_client)
        uncount_client(relay, arrival->client);
    free_slot(relay, slot_of(relay, session));
    pthread_mutex_unlock(&relay->book);
    tell_refused(worker, counter, arrival, problem);
    return NULL;
}

// The slot was taken, the verdict and the client counted; NULL: all that was taken back.
struct session *open_session(struct worker *worker, const struct arrival *arrival,
                             struct verdict *verdict, uint32_t slot)
{
    struct relay *relay = worker->relay;
    struct session *session = relay->sessions + slot;
    struct record *record = session->record;
    union address own;
    uint64_t id = __atomic_fetch_add(relay->header + NEXT_ID, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&session->id, id, __ATOMIC_RELAXED);
    session->verdict = verdict;
    session->listener = arrival->listener;
    use_listener(session->listener);
    session->client = *arrival->client;
    session->hash = arrival->hash;
    session->pinned = session->answered = session->tells = false;
    session->tos = session->tos_down = 0;
    session->proxied = arrival->via != NULL;
    session->fd = -1;
    const union address *server = &verdict->server;
    uint32_t member = verdict->member;
    if (verdict->candidate_count) {
        const struct candidate *one = choose_server(relay, verdict, arrival->client, id);
        if (!one)
            return refuse_session(worker, arrival, session, REFUSED_NO_SERVER, 0);
        server = &one->server;
        member = one->member;
    }
    write_record(record, session->id, arrival, verdict, server, worker->now);
    session->fd = socket_of(relay, is_v6(server), slot);
    if (session->fd < 0)
        return refuse_session(worker, arrival, session, REFUSED_NO_PORT, EAFNOSUPPORT);
    // A slot has a socket for each family, and each of them counts on for ever.
    put(&record->drops_base, socket_drops(session->fd));
    if (attach_session(relay, session, server, &own) ||
        !poll_session(worker, session))
        return refuse_session(worker, arrival, session, REFUSED_NO_PORT, errno);
    join_member(relay, record, member);
    begin_change(record);
    record->source_port = port_of(&own);
    memcpy(record->source, packed_of(&own), packed_size(&own));
    record->state = OPEN;
    end_change(record);
    count_total(relay, SESSIONS_OPENED, 1);
    begin_session(worker, session);
    add_key(worker, session);
    pthread_mutex_lock(&relay->book);
    add_port(relay, session);
    if (relay->openings)
        tell_opened(relay, session);
    pthread_mutex_unlock(&relay->book);
    return session;
}

// It carries nothing from now on; the rest is done once the host has heard of it.
void close_session(struct worker *worker, struct session *session, enum reason reason)
{
    struct relay *relay = worker->relay;
    uint32_t slot = slot_of(relay, session);
    if (session->gathered)
        send_replies(worker);
    remove_key(worker, session);
    clear_due(worker, session);
    unlist_unanswered(worker, session);
    if (keeps(relay, session))
        leave_port(relay, session);
    if (!session->answered && !session->unreachable && session->record->uploads &&
        session->record->type != ONE_WAY &&
        (reason == IDLE || reason == LIFETIME || reason == SILENT))
        note_unanswered(relay, session->record);
    leave_member(relay, session->record);
    set_life(session, ENDED);
    session->reason = (uint8_t)reason;
    session->next = NOBODY;
    __atomic_sub_fetch(&relay->live, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&relay->book);
    if (relay->per_client)
        uncount_client(relay, &session->client);
    release_meter(relay, slot);
    if (relay->ended == NOBODY)
        relay->ended = slot;
    else
        relay->sessions[relay->ended_last].next = slot;
    relay->ended_last = slot;
    relay->ended_count++;
    session->told_after = relay->events_told;
    note_news(relay);
    pthread_mutex_unlock(&relay->book);
}

// ---- what ICMP says of its server ----

// After an ICMP error; true: the session is gone.
bool close_unreachable(struct worker *worker, struct session *session)
{
    if (!session->verdict->close_on_unreachable)
        return false;
    close_session(worker, session, UNREACHABLE);
    return true;
}

// Was that an error of an earlier datagram, which an ICMP message told of?
bool is_icmp(struct worker *worker, struct session *session, int problem)
{
    uint32_t count = problem == ECONNREFUSED;
    if (!session->plain && !session->pinned)
        count = take_errors(session->fd, &problem);
    count_icmp(worker, session, count, problem);
    return count > 0;
}

// The host hears of the first since the last reply: a session's server may be gone for days.
void count_icmp(struct worker *worker, struct session *session, uint32_t count, int problem)
{
    more(&session->record->icmp, count);
    if (!count || session->unreachable)
        return;
    session->unreachable = true;
    note_error(worker->relay, session->record);
    tell_server(worker, session, SERVER_UNREACHABLE, problem);
}
