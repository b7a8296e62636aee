// Sessions that go on to another server, or by another way.
#include "moves.h"

#include "address.h"
#include "balance.h"
#include "ports.h"
#include "sockets.h"
#include "fixed.h"
#include "worker.h"
#include "dscp.h"
#include "events.h"
#include "replies.h"
#include "sessions.h"

uint32_t drops_of(const struct relay *relay, uint32_t slot)
{
    const struct session *session = relay->sessions + slot;
    return socket_drops(session->fd) - (uint32_t)session->record->drops_base;
}

static void name_source(struct session *session, const union address *own)
{
    struct record *record = session->record;
    begin_change(record);
    record->source_port = own ? port_of(own) : 0;
    memset(record->source, 0, sizeof record->source);
    if (own)
        memcpy(record->source, packed_of(own), packed_size(own));
    end_change(record);
}

// `member`: the number of that server in its group, 0: it is of none.
void aim(struct worker *worker, struct session *session, const union address *server,
         uint32_t member)
{
    struct relay *relay = worker->relay;
    struct record *record = session->record;
    uint32_t slot = slot_of(relay, session), dropped = drops_of(relay, slot);
    union address own;
    if (socket_of(relay, is_v6(server), slot) < 0) {
        tell_failed(worker, session, FOLLOW_SERVER, EAFNOSUPPORT);
        close_session(worker, session, FAULT);
        return;
    }
    if (session->gathered)
        send_replies(worker);
    if (keeps(relay, session))
        park(session->fd);
    pthread_mutex_lock(&relay->book);
    remove_port(relay, session);
    pthread_mutex_unlock(&relay->book);
    unmark(session);
    leave_member(relay, record);
    join_member(relay, record, member);
    // From here on whoever comes after a crash connects it there anew: it has no port.
    begin_change(record);
    record->server_size = (uint8_t)packed_size(server);
    record->server_port = port_of(server);
    record->source_port = 0;
    memset(record->source, 0, sizeof record->source);
    memset(record->server, 0, sizeof record->server);
    if (record->pinned) {
        record->peer_port = record->pinned = 0;
        memset(record->peer, 0, sizeof record->peer);
    }
    memcpy(record->server, packed_of(server), packed_size(server));
    record->server_scope = scope_of(server);
    end_change(record);
    if (!keeps(relay, session))
        reset_socket(session->fd, session->plain);
    session->fd = socket_of(relay, is_v6(server), slot);
    session->pinned = session->unreachable = false;
    put(&record->drops_base, (uint32_t)(socket_drops(session->fd) - dropped));
    mark_by_rule(relay, session);
    if (attach_session(relay, session, server, &own) ||
        !poll_session(worker, session)) {
        tell_failed(worker, session, FOLLOW_SERVER, errno);
        close_session(worker, session, FAULT);
        return;
    }
    name_source(session, &own);
    pthread_mutex_lock(&relay->book);
    add_port(relay, session);
    pthread_mutex_unlock(&relay->book);
}

// A peer of the server's link is on the same one.
static uint32_t scope_for(const uint8_t *peer, const struct record *record)
{
    bool of_link = record->server_size == 16 && peer[0] == 0xfe && (peer[1] & 0xc0) == 0x80;
    return of_link ? record->server_scope : 0;
}

// Another port, and whatever address there is; what waits in the socket is lost. False: the system
// gives nothing, and `problem` says why; its next datagram tries again.
bool connect_afresh(struct worker *worker, struct session *session, int *problem)
{
    struct relay *relay = worker->relay;
    const struct record *record = session->record;
    const struct origin origin = {session->verdict, &session->client};
    union address server, own = {0};
    int failed;
    pthread_mutex_lock(&relay->book);
    remove_port(relay, session);
    pthread_mutex_unlock(&relay->book);
    // Whoever comes after a crash in between connects it himself.
    name_source(session, NULL);
    if (session->pinned) {
        make_address(&server, record->peer, record->server_size, record->peer_port,
                     scope_for(record->peer, record));
        failed = keeps(relay, session)
                     ? rejoin(relay, session, &server, false, &own)
                     : fix_peer_again(relay, session->fd, &origin, &server, &own);
    } else {
        make_address(&server, record->server, record->server_size, record->server_port,
                     record->server_scope);
        if (!keeps(relay, session))
            reset_socket(session->fd, session->plain);
        failed = attach_session(relay, session, &server, &own);
    }
    if (failed) {
        *problem = errno;
        return false;
    }
    name_source(session, &own);
    pthread_mutex_lock(&relay->book);
    add_port(relay, session);
    pthread_mutex_unlock(&relay->book);
    return true;
}

// Our end of the way to the server is of no use any more: the session goes on from what the system
// gives now. False: as above, or a socket without a peer has chosen for each datagram anyway.
bool reconnect(struct worker *worker, struct session *session, int *problem)
{
    if ((!session->plain && !session->pinned) || !connect_afresh(worker, session, problem))
        return false;
    tell_rerouted(worker, session);
    return true;
}
