// Replies on their way to clients: those of all sessions are gathered and leave in one system call
// for each listener. They are counted when they have left, so limits look at both.
#include "replies.h"

#include "balance.h"

#include <netinet/ip.h>

#include "book.h"
#include "events.h"
#include "dscp.h"
#include "segments.h"

#ifndef IPV6_PKTINFO
#define IPV6_PKTINFO 50
#endif

// A reply of a wildcard listener leaves from the address the client wrote to. The interface is
// left to the routes, except for link-local addresses and where there is no address to name.
static void answer_from(struct msghdr *message, uint8_t *control, const struct session *session)
{
    static const uint8_t nothing[16];
    const struct record *record = session->record;
    struct cmsghdr *part = (struct cmsghdr *)control;
    message->msg_control = control;
    if (session->listener->size == 4) {
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

// Behind a PROXY header it is the sender who gets it; in `room`, apart from the others' way.
__attribute__((noinline)) static union address *name_sender(union address *room,
                                                             const struct record *record)
{
    make_address(room, record->via, record->via_size, record->via_port, record->scope);
    return room;
}

// `sender` is room for who gets it where that is not the client.
static inline void address_reply(struct msghdr *message, uint8_t *control, struct session *session,
                          union address *sender)
{
    union address *whom =
        session->proxied ? name_sender(sender, session->record) : &session->client;
    memset(message, 0, sizeof *message);
    message->msg_name = whom;
    message->msg_namelen = length_of(whom);
    if (session->listener->wildcard)
        answer_from(message, control, session);
    if (session->careful_down && session->tos_down)
        add_tos(message, control, session->listener->size == 16, session->tos_down);
}

// The first reply of all, or since ICMP errors came.
static void note_first_reply(struct worker *worker, struct session *session)
{
    bool told = session->unreachable || __atomic_load_n(&worker->relay->awaiting, __ATOMIC_RELAXED);
    session->unreachable = false;
    note_answer(worker->relay, session->record);
    if (!session->answered) {
        session->answered = true;
        unlist_unanswered(worker, session);
    }
    if (told)
        tell_server(worker, session, SERVER_ANSWERS, 0);
}

static void count_replies(struct worker *worker, struct session *session, const struct iovec *iov,
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
        note_first_reply(worker, session);
}

static void send_singly(struct worker *worker, struct session *session, struct iovec *iov,
                        uint32_t count)
{
    _Alignas(struct cmsghdr) uint8_t control[CONTROL];
    struct msghdr message;
    union address sender;
    address_reply(&message, control, session, &sender);
    for (uint32_t i = 0; i < count; i++) {
        message.msg_iov = iov + i;
        message.msg_iovlen = 1;
        if (sendmsg(session->listener->fds[worker->number], &message, 0) < 0)
            tell_lost(worker, session, TO_CLIENT, errno);
        else
            count_replies(worker, session, iov + i, 1);
    }
}

// All of one listener, in order.
static void send_down(struct worker *worker, int fd, struct session **who, struct iovec *iov,
                      uint32_t count)
{
    struct mmsghdr messages[BATCH];
    union address senders[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL];
    uint32_t made = 0, sent = 0, done = 0;
    for (uint32_t i = 0; i < count; made++) {
        struct msghdr *message = &messages[made].msg_hdr;
        uint32_t same = 1;
        address_reply(message, control[made], who[i], senders + made);
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
        errno = ENODEV; // of the listener's interface, which is not there
        int passed = fd < 0 ? -1 : sendmmsg(fd, messages + sent, made - sent, 0);
        if (passed < 0 && errno == EINTR)
            continue;
        if (passed < 0) {
            uint32_t held = (uint32_t)messages[sent++].msg_hdr.msg_iovlen;
            if (held > 1 && means_unsegmented(errno)) {
                refuse_segments(worker->relay, who[done], errno);
                send_singly(worker, who[done], iov + done, held);
            } else {
                for (uint32_t i = 0; i < held; i++)
                    tell_lost(worker, who[done], TO_CLIENT, errno);
            }
            done += held;
            continue;
        }
        for (int i = 0; i < passed; i++) {
            uint32_t held = (uint32_t)messages[sent++].msg_hdr.msg_iovlen;
            count_replies(worker, who[done], iov + done, held);
            done += held;
        }
    }
}

void send_replies(struct worker *worker)
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

// From now on replies have that; those that leave together have one.
void answer_with(struct worker *worker, struct session *session, uint8_t tos)
{
    if (session->tos_down == tos)
        return;
    if (session->gathered) {
        uint32_t used = worker->out.used;
        send_replies(worker);
        worker->out.used = used; // what was read with it is still to be judged
    }
    session->tos_down = tos;
}

void gather_reply(struct worker *worker, struct session *session, void *data, uint32_t size)
{
    struct outgoing *out = &worker->out;
    out->who[out->count] = session;
    out->iov[out->count++] = (struct iovec){data, size};
    session->gathered++;
    session->gathered_bytes += size;
}
