// What servers sent, on its way to being a reply.
#include "servers.h"

#include "proxy_header.h"
#include "sockets.h"
#include "events.h"
#include "dscp.h"
#include "replies.h"
#include "sessions.h"

enum {
    BURST = 32,    // datagrams read from a session at a time
    PATIENCE = 16, // a session that had nothing more is read singly for so many turns
    MOST_READS = 16, // bursts taken from a socket before it is connected afresh
};

// One datagram of a server. False: the session is gone.
static bool download(struct worker *worker, struct session *session, void *data, uint32_t size)
{
    if (!session->careful_down) {
        gather_reply(worker, session, data, size);
        return true;
    }
    if (session->record->asked)
        put(&session->record->asked, 0);
    if (session->record->type == ONE_WAY) {
        close_session(worker, session, UNEXPECTED_REPLY);
        return false;
    }
    if (session->verdict->header == SIMPLE) {
        uint32_t header = simple_header(data, size, session->record);
        data = (uint8_t *)data + header;
        size -= header;
    }
    if (session->verdict->handed) {
        put(&session->record->last_download, worker->now);
        tell_handed(worker, session, false, data, size);
        return true;
    }
    return pass_down(worker, session, data, size);
}

enum { ALWAYS = 512 }; // as in session/limits.py

// Would it make the session give more than its client asked for?
static bool is_amplified(const struct session *session, uint32_t size)
{
    const struct record *record = session->record;
    uint64_t most, passed = record->download_bytes + session->gathered_bytes;
    uint64_t factor = session->verdict->budget.amplification;
    return factor && !__builtin_mul_overflow(factor, record->upload_bytes, &most) &&
           passed + size > most + ALWAYS;
}

// One datagram, with limits; `data` must stay until send_replies(). False: the session is gone.
bool pass_down(struct worker *worker, struct session *session, void *data, uint32_t size)
{
    const struct budget *budget = &session->verdict->budget;
    const struct record *record = session->record;
    if (is_amplified(session, size)) {
        count_dropped(worker, session, DROPPED_AMPLIFICATION);
        return true;
    }
    if (record->download_bytes + session->gathered_bytes + size > budget->download_bytes) {
        close_session(worker, session, OVER_DOWNLOAD_BYTES);
        return false;
    }
    bool last = record->downloads + session->gathered + 1 >= budget->download_datagrams;
    if (is_watched(worker->relay))
        tell_seen(worker, session, false, data, size);
    gather_reply(worker, session, data, size);
    if (!last)
        return true;
    uint32_t used = worker->out.used;
    send_replies(worker);
    worker->out.used = used; // what was read with it is still to be judged
    if (record->downloads < budget->download_datagrams)
        return true; // it could not be sent
    close_session(worker, session, OVER_DOWNLOAD_DATAGRAMS);
    return false;
}

// A receive failed: it can only be an ICMP error, of whatever kind.
static void receive_failed(struct worker *worker, struct session *session, int problem)
{
    if (!is_icmp(worker, session, problem))
        count_icmp(worker, session, 1, problem);
    close_unreachable(worker, session);
}

static void take_late_errors(struct worker *worker, struct session *session)
{
    int problem = 0;
    uint32_t count = take_errors(session->fd, &problem);
    count_icmp(worker, session, count, problem);
    if (count)
        close_unreachable(worker, session);
}

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static uint8_t *buffer(struct worker *worker, uint32_t number)
{
    return worker->out.buffers + (size_t)number * STRIDE;
}

// A read in vain costs as much as a datagram, so several are only asked for where several were.
static uint32_t burst_of(const struct worker *worker, struct session *session)
{
    bool busy = worker->turns - session->last_turn <= 1;
    session->last_turn = worker->turns;
    if (session->patience) {
        session->patience--;
        return 1;
    }
    return busy ? BURST : 1;
}

static void read_one(struct worker *worker, struct session *session)
{
    uint8_t *data = buffer(worker, worker->out.used);
    ssize_t size = receive_datagram(session->fd, data, LARGEST);
    if (size < 0) {
        if (!would_block())
            receive_failed(worker, session, errno);
        return;
    }
    worker->out.used++;
    download(worker, session, data, (uint32_t)size);
}

static void read_many(struct worker *worker, struct session *session, uint32_t burst)
{
    struct mmsghdr messages[BURST];
    struct iovec iov[BURST];
    memset(messages, 0, sizeof messages[0] * burst);
    for (uint32_t i = 0; i < burst; i++) {
        iov[i] = (struct iovec){buffer(worker, worker->out.used + i), LARGEST};
        messages[i].msg_hdr.msg_iov = iov + i;
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int count = recvmmsg(session->fd, messages, burst, MSG_DONTWAIT, NULL);
    if (count < 0) {
        if (!would_block())
            receive_failed(worker, session, errno);
        return;
    }
    if (count < 2)
        session->patience = PATIENCE;
    worker->out.used += (uint32_t)count;
    for (int i = 0; i < count; i++)
        if (!download(worker, session, iov[i].iov_base, messages[i].msg_len))
            return;
}

// ---- sessions whose socket takes datagrams from anybody, or did so before its peer was fixed ----

enum reply { PASS, PIN, IGNORE };

static bool is_endpoint(const union address *sender, const uint8_t *packed, uint16_t port)
{
    return port_of(sender) == port &&
           memcmp(packed_of(sender), packed, packed_size(sender)) == 0;
}

static enum reply judge(const struct session *session, const union address *sender)
{
    const struct record *record = session->record;
    const void *packed = packed_of(sender);
    unsigned size = packed_size(sender);
    if (size != record->server_size || !port_of(sender))
        return IGNORE; // port 0: nobody can be written to there, so it is forged (RFC 768)
    if (session->pinned)
        return is_endpoint(sender, record->peer, record->peer_port) ? PASS : IGNORE;
    switch (record->type) {
    case ANY_PORT:
        return memcmp(packed, record->server, size) == 0 ? PIN : IGNORE;
    case ANY_SOCK:
        return PIN;
    case BROADCAST:
        // Those of the record, not of the verdict: the rule may be of another type by now.
        if (memcmp(packed, record->peer, 4) < 0 || memcmp(packed, record->peer + 4, 4) > 0)
            return IGNORE;
        return record->peer_port || port_of(sender) == record->server_port ? PASS : IGNORE;
    default:
        return is_endpoint(sender, record->server, record->server_port) ? PASS : IGNORE;
    }
}

static void tell_stray(struct worker *worker, struct session *session, const union address *sender)
{
    struct relay *relay = worker->relay;
    more(&session->record->stray, 1);
    pthread_mutex_lock(&relay->book);
    struct event *event = add_event(relay, STRAYED, 0);
    if (event) {
        event->session = session->id;
        name_verdict(event, session->verdict);
        event->who = *sender;
    }
    pthread_mutex_unlock(&relay->book);
}

// The first reply fixes the peer. False: it cannot be reached, so it was none.
static bool pin(struct worker *worker, struct session *session, const union address *peer)
{
    struct record *record = session->record;
    if (fix_peer(session->fd, peer)) {
        tell_lost(worker, session, FIX_PEER, errno);
        return false;
    }
    session->pinned = true;
    begin_change(record);
    record->peer_port = port_of(peer);
    memcpy(record->peer, packed_of(peer), packed_size(peer));
    record->pinned = 1;
    end_change(record);
    return true;
}

// May he reply? The first who does may be its peer from now on.
static bool admit(struct worker *worker, struct session *session, const union address *sender)
{
    enum reply reply = judge(session, sender);
    if (reply == IGNORE)
        tell_stray(worker, session, sender);
    return reply == PASS || (reply == PIN && pin(worker, session, sender));
}

// False: nothing more can be had from it now.
static bool read_anybody(struct worker *worker, struct session *session, bool first)
{
    union address sender;
    socklen_t length = sizeof sender;
    uint8_t *data = buffer(worker, worker->out.used);
    ssize_t size = recvfrom(session->fd, data, LARGEST, MSG_DONTWAIT, &sender.any, &length);
    if (size < 0) {
        if (!would_block())
            receive_failed(worker, session, errno);
        else if (first) // the error queue alone rang: it would do so for ever
            take_late_errors(worker, session);
        return false;
    }
    if (!admit(worker, session, &sender))
        return true;
    worker->out.used++;
    return download(worker, session, data, (uint32_t)size);
}

// The same where datagrams tell their DSCP, whoever may reply; apart from the others' way.
__attribute__((noinline)) static bool read_telling(struct worker *worker, struct session *session, bool first)
{
    _Alignas(struct cmsghdr) uint8_t control[CONTROL];
    union address sender;
    uint8_t *data = buffer(worker, worker->out.used);
    struct iovec iov = {data, LARGEST};
    struct msghdr message = {
        .msg_name = &sender,
        .msg_namelen = sizeof sender,
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof control,
    };
    ssize_t size = recvmsg(session->fd, &message, MSG_DONTWAIT);
    if (size < 0) {
        if (!would_block())
            receive_failed(worker, session, errno);
        else if (first && !session->plain)
            take_late_errors(worker, session);
        return false;
    }
    if (!session->plain && !admit(worker, session, &sender))
        return true;
    answer_with(worker, session, told_tos(&message));
    worker->out.used++;
    return download(worker, session, data, (uint32_t)size);
}

void read_server(struct worker *worker, struct session *session)
{
    if (worker->out.used > BATCH - BURST)
        send_replies(worker);
    uint32_t burst = burst_of(worker, session);
    if (session->tells) {
        for (uint32_t i = 0; i < burst; i++)
            if (!read_telling(worker, session, i == 0)) {
                if (i == 1)
                    session->patience = PATIENCE;
                return;
            }
    } else if (!session->plain) {
        for (uint32_t i = 0; i < burst; i++)
            if (!read_anybody(worker, session, i == 0)) {
                if (i == 1)
                    session->patience = PATIENCE;
                return;
            }
    } else if (burst == 1) {
        read_one(worker, session);
    } else {
        read_many(worker, session, burst);
    }
}

// What waits in its socket, which is about to be connected afresh; the session may end by it. What
// is left is lost.
void read_all(struct worker *worker, struct session *session)
{
    for (int i = 0; i < MOST_READS && life_of(session) == LIVE && has_waiting(session->fd); i++)
        read_server(worker, session);
    if (worker->out.count)
        send_replies(worker);
    worker->out.used = 0;
}
