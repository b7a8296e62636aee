// Copies of what a server gets, for the other receivers of its rule.
//
// The original comes first, and nothing that happens to a copy concerns it: copies are never waited
// for. Each receiver has a socket of its own, which hears nothing: what waits there for a neighbour
// that is dead takes no room from the others.
#include "copies.h"

#include <sys/syscall.h>

#include "address.h"
#include "proxy_header.h"
#include "events.h"
#include "dscp.h"

#ifndef IPV6_PKTINFO
#define IPV6_PKTINFO 50
#endif
enum { QUIET = 1000000000 }; // nanoseconds until the host hears of the next

// Our end of the session, if that is one that the rule names.
static bool has_named_source(const struct session *session)
{
    const struct verdict *verdict = session->verdict;
    const struct record *record = session->record;
    for (unsigned i = 0; i < verdict->source_count; i++) {
        const struct source *one = verdict->sources + i;
        const void *packed = one->size ? one->packed : packed_of(&session->client);
        unsigned size = one->size ? one->size : packed_size(&session->client);
        if (size == record->server_size && memcmp(packed, record->source, size) == 0)
            return true;
    }
    return false;
}

static void leave_from(struct msghdr *message, uint8_t *control, const struct record *record)
{
    struct cmsghdr *part = (struct cmsghdr *)control;
    struct in_pktinfo four = {0};
    struct in6_pktinfo six = {0};
    bool v6 = record->server_size == 16;
    size_t size = v6 ? sizeof six : sizeof four;
    memset(part, 0, CMSG_SPACE(size));
    part->cmsg_level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    part->cmsg_type = v6 ? IPV6_PKTINFO : IP_PKTINFO;
    part->cmsg_len = CMSG_LEN(size);
    memcpy(&four.ipi_spec_dst, record->source, 4);
    memcpy(&six.ipi6_addr, record->source, 16);
    memcpy(CMSG_DATA(part), v6 ? (void *)&six : (void *)&four, size);
    message->msg_control = control;
    message->msg_controllen = CMSG_SPACE(size);
}

// A flood of them costs the host nothing: it hears of one a second for each receiver.
static void tell_not_copied(struct worker *worker, const struct session *session,
                            struct mirror *mirror, int problem)
{
    struct relay *relay = worker->relay;
    uint32_t count = __atomic_add_fetch(&mirror->untold, 1, __ATOMIC_RELAXED);
    uint64_t told = __atomic_load_n(&mirror->told, __ATOMIC_RELAXED);
    if (told && worker->now < told + QUIET)
        return;
    pthread_mutex_lock(&relay->book);
    struct event *event = add_event(relay, NOT_COPIED, 0);
    if (event) {
        name_verdict(event, session->verdict);
        event->who = mirror->to;
        event->problem = problem;
        event->count = count;
        __atomic_sub_fetch(&mirror->untold, count, __ATOMIC_RELAXED);
        __atomic_store_n(&mirror->told, worker->now, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&relay->book);
}

// To one receiver; `message` has what it gets.
static bool send_copy(const struct session *session, struct mirror *mirror, struct msghdr *message,
                      bool sourced)
{
    _Alignas(struct cmsghdr) uint8_t control[CONTROL];
    message->msg_name = &mirror->to;
    message->msg_namelen = length_of(&mirror->to);
    message->msg_control = NULL;
    message->msg_controllen = 0;
    if (sourced && packed_size(&mirror->to) == session->record->server_size)
        leave_from(message, control, session->record);
    if (session->tos)
        add_tos(message, control, is_v6(&mirror->to), session->tos);
    int fd = __atomic_load_n(&mirror->fd, __ATOMIC_RELAXED);
    return syscall(SYS_sendmsg, fd, message, MSG_DONTWAIT) >= 0;
}

// To all receivers, whatever became of the original.
__attribute__((noinline)) void send_copies(struct worker *worker, struct session *session, const struct iovec *iov)
{
    struct verdict *verdict = session->verdict;
    uint8_t header[MOST_HEADER];
    enum header_kind kind = (enum header_kind)verdict->header;
    uint32_t before = kind == NO_HEADER ? 0 : make_header(header, kind, session->record);
    struct iovec both[2] = {{header, before}, *iov};
    struct msghdr message = {.msg_iov = before ? both : both + 1, .msg_iovlen = before ? 2 : 1};
    bool sourced = has_named_source(session);
    uint32_t sent = 0;
    for (unsigned i = 0; i < verdict->mirror_count; i++) {
        if (send_copy(session, verdict->mirrors + i, &message, sourced))
            sent++;
        else
            tell_not_copied(worker, session, verdict->mirrors + i, errno);
    }
    if (sent)
        count_total(worker->relay, MIRRORED, sent);
    if (sent < verdict->mirror_count)
        count_total(worker->relay, MIRROR_ERRORS, verdict->mirror_count - sent);
}
