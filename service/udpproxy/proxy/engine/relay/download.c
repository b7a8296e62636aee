// From servers to clients: replies of all sessions are gathered and leave in one system call for
// each listener. They are counted when they have left, so limits look at both.
#include "inside.h"

#include <netinet/ip.h>

#ifndef IPV6_PKTINFO
#define IPV6_PKTINFO 50
#endif

// ---- sending what was gathered ----

// A reply of a wildcard listener leaves from the address the client wrote to. The interface is
// left to the routes, except for link-local addresses and where there is no address to name.
static void answer_from(struct msghdr *message, uint8_t *control, const struct record *record)
{
    static const uint8_t nothing[16];
    struct cmsghdr *part = (struct cmsghdr *)control;
    message->msg_control = control;
    if (record->client_size == 4) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, record->local, 4);
        memset(part, 0, CMSG_SPACE(sizeof info));
        part->cmsg_level = IPPROTO_IP;
        part->cmsg_type = IP_PKTINFO;
        part->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(part), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    } else {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, record->local, 16);
        if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr) || !memcmp(record->local, nothing, 16))
            info.ipi6_ifindex = record->interface;
        memset(part, 0, CMSG_SPACE(sizeof info));
        part->cmsg_level = IPPROTO_IPV6;
        part->cmsg_type = IPV6_PKTINFO;
        part->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(part), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    }
}

static void address_reply(struct msghdr *message, uint8_t *control, struct session *session)
{
    memset(message, 0, sizeof *message);
    message->msg_name = &session->client;
    message->msg_namelen = length_of(&session->client);
    if (session->listener->wildcard)
        answer_from(message, control, session->record);
}

// The first reply of all, or since ICMP errors came.
static void answers(struct worker *worker, struct session *session)
{
    bool told = session->unreachable || __atomic_load_n(&worker->relay->awaiting, __ATOMIC_RELAXED);
    session->unreachable = false;
    if (!session->answered) {
        session->answered = true;
        unlist_unanswered(worker, session);
    }
    if (told)
        tell_server(worker, session, SERVER_ANSWERS, 0);
}

static void left(struct worker *worker, struct session *session, const struct iovec *iov,
                 uint32_t count)
{
    struct record *record = session->record;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    put(&record->last_download, worker->now);
    more(&record->downloads, count);
    more(&record->download_bytes, bytes);
    if (!session->answered || session->unreachable)
        answers(worker, session);
}

static void send_singly(struct worker *worker, struct session *session, struct iovec *iov,
                        uint32_t count)
{
    _Alignas(struct cmsghdr) uint8_t control[CONTROL];
    struct msghdr message;
    address_reply(&message, control, session);
    for (uint32_t i = 0; i < count; i++) {
        message.msg_iov = iov + i;
        message.msg_iovlen = 1;
        if (sendmsg(session->listener->fds[worker->number], &message, 0) < 0)
            lost(worker, session, TO_CLIENT, errno);
        else
            left(worker, session, iov + i, 1);
    }
}

// All of one listener, in order.
static void send_down(struct worker *worker, int fd, struct session **who, struct iovec *iov,
                      uint32_t count)
{
    struct mmsghdr messages[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL];
    uint32_t made = 0, sent = 0, done = 0;
    for (uint32_t i = 0; i < count; made++) {
        struct msghdr *message = &messages[made].msg_hdr;
        uint32_t same = 1;
        address_reply(message, control[made], who[i]);
        message->msg_iov = iov + i;
        message->msg_iovlen = 1;
        while (i + same < count && who[i + same] == who[i])
            same++;
        if (same > 1 && may_segment(worker->relay, who[i]))
            message->msg_iovlen = run_of(iov + i, same);
        if (message->msg_iovlen > 1)
            add_segment(message, control[made], iov[i].iov_len);
        i += (uint32_t)message->msg_iovlen;
    }
    while (sent < made) {
        int passed = sendmmsg(fd, messages + sent, made - sent, 0);
        if (passed < 0 && errno == EINTR)
            continue;
        if (passed < 0) {
            uint32_t held = (uint32_t)messages[sent++].msg_hdr.msg_iovlen;
            if (held > 1 && means_unsegmented(errno)) {
                refuse_segments(worker->relay, who[done], errno);
                send_singly(worker, who[done], iov + done, held);
            } else {
                for (uint32_t i = 0; i < held; i++)
                    lost(worker, who[done], TO_CLIENT, errno);
            }
            done += held;
            continue;
        }
        for (int i = 0; i < passed; i++) {
            uint32_t held = (uint32_t)messages[sent++].msg_hdr.msg_iovlen;
            left(worker, who[done], iov + done, held);
            done += held;
        }
    }
}

void flush(struct worker *worker)
{
    struct outgoing *out = &worker->out;
    struct session *who[BATCH];
    struct iovec iov[BATCH];
    uint32_t count = out->count;
    for (uint32_t i = 0; i < count; i++)
        out->who[i]->gathered = 0, out->who[i]->gathered_bytes = 0;
    for (uint32_t first = 0; first < count; first++) {
        struct session *session = out->who[first];
        uint32_t same = 0;
        if (!session)
            continue;
        const struct listener *listener = session->listener;
        for (uint32_t i = first; i < count; i++)
            if (out->who[i] && out->who[i]->listener == listener) {
                who[same] = out->who[i];
                iov[same++] = out->iov[i];
                out->who[i] = NULL;
            }
        send_down(worker, listener->fds[worker->number], who, iov, same);
    }
    out->count = out->used = 0;
}

static void gather(struct worker *worker, struct session *session, void *data, uint32_t size)
{
    struct outgoing *out = &worker->out;
    out->who[out->count] = session;
    out->iov[out->count++] = (struct iovec){data, size};
    session->gathered++;
    session->gathered_bytes += size;
}

// ---- reading what servers sent ----

// One datagram of a server. False: the session is gone.
static bool download(struct worker *worker, struct session *session, void *data, uint32_t size)
{
    if (!session->careful_down) {
        gather(worker, session, data, size);
        return true;
    }
    if (session->record->type == ONE_WAY) {
        close_session(worker, session, UNEXPECTED_REPLY);
        return false;
    }
    if (session->verdict->handed) {
        put(&session->record->last_download, worker->now);
        tell_handed(worker, session, false, data, size);
        return true;
    }
    return pass_down(worker, session, data, size);
}

// One datagram, with limits; `data` must stay until flush(). False: the session is gone.
bool pass_down(struct worker *worker, struct session *session, void *data, uint32_t size)
{
    const struct budget *budget = &session->verdict->budget;
    const struct record *record = session->record;
    if (record->download_bytes + session->gathered_bytes + size > budget->download_bytes) {
        close_session(worker, session, OVER_DOWNLOAD_BYTES);
        return false;
    }
    bool last = record->downloads + session->gathered + 1 >= budget->download_datagrams;
    if (is_watched(worker->relay))
        tell_seen(worker, session, false, data, size);
    gather(worker, session, data, size);
    if (!last)
        return true;
    uint32_t used = worker->out.used;
    flush(worker);
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
    unreachable(worker, session);
}

static void take_late_errors(struct worker *worker, struct session *session)
{
    int problem = 0;
    uint32_t count = take_errors(session->fd, &problem);
    count_icmp(worker, session, count, problem);
    if (count)
        unreachable(worker, session);
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
    bool busy = worker->turn - session->turn <= 1;
    session->turn = worker->turn;
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

static void stray(struct worker *worker, struct session *session, const union address *sender)
{
    struct relay *relay = worker->relay;
    more(&session->record->stray, 1);
    pthread_mutex_lock(&relay->book);
    struct event *event = tell(relay, STRAYED, 0);
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
        lost(worker, session, FIX_PEER, errno);
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
    enum reply reply = judge(session, &sender);
    if (reply == IGNORE) {
        stray(worker, session, &sender);
        return true;
    }
    if (reply == PIN && !pin(worker, session, &sender))
        return true;
    worker->out.used++;
    return download(worker, session, data, (uint32_t)size);
}

void read_server(struct worker *worker, struct session *session)
{
    if (worker->out.used > BATCH - BURST)
        flush(worker);
    uint32_t burst = burst_of(worker, session);
    if (!session->plain) {
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
