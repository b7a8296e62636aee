// To the server: one datagram of a client, or a run of them.
#include "upload.h"

#include "address.h"
#include "proxy_header.h"
#include "sockets.h"
#include "book.h"
#include "meters.h"
#include "events.h"
#include "dscp.h"
#include "segments.h"
#include "sessions.h"
#include "moves.h"
#include "copies.h"

enum { MOST_SENDS = 8 }; // of a datagram again, after errors of others

// UNSENT: the session is gone, and the datagram is the first of another one.
enum outcome { SENT, LOST, GONE, UNSENT };

// `to` NULL: to where the socket is connected.
static ssize_t send_with_header(const struct session *session, const struct iovec *iov,
                                union address *to)
{
    uint8_t header[MOST_HEADER];
    enum header_kind kind = (enum header_kind)session->verdict->header;
    struct iovec both[2] = {{header, make_header(header, kind, session->record)}, *iov};
    struct msghdr message = {.msg_iov = both, .msg_iovlen = 2};
    if (to) {
        message.msg_name = to;
        message.msg_namelen = length_of(to);
    }
    return sendmsg(session->fd, &message, 0);
}

static bool has_header(const struct session *session)
{
    return session->careful_up && session->verdict->header != NO_HEADER;
}

static ssize_t send_up(const struct session *session, const struct iovec *iov)
{
    if (session->plain || session->pinned)
        return has_header(session) ? send_with_header(session, iov, NULL)
                                   : send_datagram(session->fd, iov);
    // The server of the record, not of the verdict: a reload may have given the rule another.
    union address address;
    const struct record *record = session->record;
    make_address(&address, record->server, record->server_size, record->server_port,
                 record->server_scope);
    if (has_header(session))
        return send_with_header(session, iov, &address);
    return sendto(session->fd, iov->iov_base, iov->iov_len, 0, &address.any,
                  length_of(&address));
}

static void count_up(struct worker *worker, struct session *session, uint64_t datagrams,
                     uint64_t bytes)
{
    struct record *record = session->record;
    put(&record->last_upload, worker->now);
    more(&record->uploads, datagrams);
    more(&record->upload_bytes, bytes);
    if (session->careful_up && is_awaited(session) && !record->asked)
        put(&record->asked, worker->now & ~TRIED);
}

// An ICMP error is reported by the next call, whatever that does: this datagram was not sent yet.
// Most numbers can also mean that there is no route: sending it again tells, and has sent it. There
// may be another ICMP error each time, so fast as somebody can forge them.
static enum outcome after_failed_send(struct worker *worker, struct session *session,
                                      const struct iovec *iov, int problem)
{
    uint32_t untold = 0; // ICMP's, if there is a route
    int told = 0;
    for (int i = 0; i < MOST_SENDS; i++) {
        if (is_icmp(worker, session, problem)) {
            if (close_unreachable(worker, session))
                return UNSENT;
        } else if (means_unreachable(problem)) {
            untold++;
            told = problem;
        } else {
            break;
        }
        if (send_up(session, iov) >= 0) {
            count_up(worker, session, 1, iov->iov_len);
            count_icmp(worker, session, untold, told);
            if (!untold || !session->verdict->close_on_unreachable)
                return SENT;
            send_copies(worker, session, iov); // for it has been sent
            close_unreachable(worker, session);
            return GONE;
        }
        problem = errno;
    }
    if (means_cut_off(problem) && reconnect(worker, session, &problem)) {
        if (send_up(session, iov) >= 0) {
            count_up(worker, session, 1, iov->iov_len);
            return SENT;
        }
        problem = errno;
    }
    tell_lost(worker, session, TO_SERVER, problem);
    return LOST;
}

static enum outcome upload_one(struct worker *worker, struct session *session,
                               const struct iovec *iov)
{
    if (send_up(session, iov) < 0)
        return after_failed_send(worker, session, iov, errno);
    count_up(worker, session, 1, iov->iov_len);
    return SENT;
}

// One datagram of a client, whose rate allows it. False: the session is gone, and this is the first
// of another.
bool upload_paid(struct worker *worker, struct session *session, const struct arrival *arrival,
                 const void *data, uint32_t size)
{
    struct iovec iov = {(void *)data, size};
    if (!session->careful_up)
        return upload_one(worker, session, &iov) != UNSENT;
    if (session->verdict->keeps_dscp)
        keep_tos(session, arrival->tos);
    if (session->verdict->handed) {
        put(&session->record->last_upload, worker->now);
        tell_handed(worker, session, true, data, size);
        return true;
    }
    return pass_up(worker, session, data, size);
}

// Apart, so that those that need no look do not pay for one.
__attribute__((noinline)) static bool upload_carefully(struct worker *worker,
                                                       struct session *session,
                                                       const struct arrival *arrival,
                                                       const void *data, uint32_t size)
{
    if (!has_rate(session) || may_send(worker, session, 1))
        return upload_paid(worker, session, arrival, data, size);
    count_dropped(worker, session, DROPPED_RATE);
    return true;
}

// One datagram of a client. False: as upload_paid().
bool upload(struct worker *worker, struct session *session, const struct arrival *arrival,
            const void *data, uint32_t size)
{
    struct iovec iov = {(void *)data, size};
    if (!session->careful_up)
        return upload_one(worker, session, &iov) != UNSENT;
    return upload_carefully(worker, session, arrival, data, size);
}

// With its header it is no datagram any more; then that is counted and told.
static bool is_too_long(struct worker *worker, const struct session *session, uint32_t size)
{
    uint8_t header[MOST_HEADER];
    enum header_kind kind = (enum header_kind)session->verdict->header;
    if (kind == NO_HEADER || size <= LARGEST_SENT - make_header(header, kind, session->record))
        return false;
    count_total(worker->relay, TOO_LONG, 1);
    tell_failed(worker, session, PUT_HEADER, EMSGSIZE);
    return true;
}

// One datagram, with limits. False: as upload().
bool pass_up(struct worker *worker, struct session *session, const void *data, uint32_t size)
{
    struct iovec iov = {(void *)data, size};
    const struct budget *budget = &session->verdict->budget;
    const struct record *record = session->record;
    if (is_too_long(worker, session, size))
        return true;
    if (record->upload_bytes + size > budget->upload_bytes) {
        close_session(worker, session, OVER_UPLOAD_BYTES);
        return true;
    }
    bool last = record->uploads + 1 >= budget->upload_datagrams;
    if (is_watched(worker->relay))
        tell_seen(worker, session, true, data, size);
    enum outcome outcome = upload_one(worker, session, &iov);
    if (outcome < GONE && session->verdict->mirror_count)
        send_copies(worker, session, &iov);
    if (outcome == SENT && last && record->type == ONE_WAY) {
        // Nobody may answer: it has nothing to wait for.
        close_session(worker, session, ALL_UPLOAD_DATAGRAMS);
    } else if (outcome == SENT && last) {
        // It takes no more from the client; the next datagram finds no session.
        remove_key(worker, session);
        __atomic_store_n(&session->record->state, UPLOAD_CLOSED, __ATOMIC_RELEASE);
    }
    return outcome != UNSENT;
}

static uint64_t bytes_of(const struct iovec *iov, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

// What a failed message held, one by one. How many of them are dealt with; `gone`: so is the
// session.
static uint32_t resend(struct worker *worker, struct session *session, const struct iovec *iov,
                       uint32_t count, int problem, bool *gone)
{
    enum outcome outcome = SENT;
    uint32_t i = 0;
    if (count > 1 && means_unsegmented(problem)) {
        refuse_segments(worker->relay, session, problem);
    } else {
        outcome = after_failed_send(worker, session, iov, problem);
        i = outcome != UNSENT;
    }
    while (outcome < GONE && i < count) {
        outcome = upload_one(worker, session, iov + i);
        i += outcome != UNSENT;
    }
    *gone = outcome >= GONE;
    return i;
}

// May all of them go up without a limit being reached? The last one that a limit lets pass has to
// be dealt with singly. If so they are paid for, where the client has a rate.
bool within_limits(struct worker *worker, const struct session *session,
                   const struct iovec *iov, uint32_t count)
{
    const struct budget *budget = &session->verdict->budget;
    const struct record *record = session->record;
    return !session->careful_up ||
           (!is_watched(worker->relay) && !session->verdict->handed && !has_header(session) &&
            !session->verdict->mirror_count &&
            record->uploads + count < budget->upload_datagrams &&
            record->upload_bytes + bytes_of(iov, count) <= budget->upload_bytes &&
            (!has_rate(session) || may_send(worker, session, count)));
}

// Several datagrams of one session that reaches no limit by them. How many of them are dealt with;
// fewer than `count` where the session is gone.
uint32_t upload_run(struct worker *worker, struct session *session, struct iovec *iov,
                    uint32_t count)
{
    struct mmsghdr messages[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL];
    uint32_t made = 0, done = 0, sent = 0;
    bool fold = may_segment(worker->relay, session) && (session->plain || session->pinned);
    if (!session->plain && !session->pinned) {
        enum outcome outcome = SENT;
        while (outcome < GONE && done < count) {
            outcome = upload_one(worker, session, iov + done);
            done += outcome != UNSENT;
        }
        return done;
    }
    memset(messages, 0, sizeof messages[0] * count);
    for (uint32_t i = 0; i < count; made++) {
        struct msghdr *message = &messages[made].msg_hdr;
        message->msg_iov = iov + i;
        message->msg_iovlen = fold ? run_of(iov + i, count - i) : 1;
        if (message->msg_iovlen > 1)
            add_segment(message, control[made], iov[i].iov_len);
        i += (uint32_t)message->msg_iovlen;
    }
    // It stops at an error and keeps that to itself, be it ICMP's or a full buffer. So the rest
    // goes singly: an error is only ever counted as what it was seen to be.
    bool stopped = false;
    while (sent < made) {
        int passed = sendmmsg(session->fd, messages + sent, stopped ? 1 : made - sent, 0);
        if (passed < 0 && errno == EINTR)
            continue;
        if (passed < 0) {
            uint32_t held = (uint32_t)messages[sent++].msg_hdr.msg_iovlen;
            bool gone;
            done += resend(worker, session, iov + done, held, errno, &gone);
            if (gone)
                return done;
            continue;
        }
        uint32_t from = done;
        for (int i = 0; i < passed; i++)
            done += (uint32_t)messages[sent++].msg_hdr.msg_iovlen;
        count_up(worker, session, done - from, bytes_of(iov + from, done - from));
        stopped |= sent < made;
    }
    return count;
}
