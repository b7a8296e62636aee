// What clients sent: a batch from the listener, and for each datagram one look at the table.
#include "clients.h"

#include "worker.h"
#include "proxy_header.h"
#include "book.h"
#include "events.h"
#include "dscp.h"
#include "upload.h"
#include "first.h"

#ifndef IPV6_PKTINFO
#define IPV6_PKTINFO 50
#endif
enum { MOST_BATCHES = 4 }; // before the servers get their turn

// From the control messages of a wildcard listener: the address the client wrote to and the one
// to answer from. Equal but for broadcast and multicast, where the interface's own address
// (ipi_spec_dst, ip(7)) answers.
static void read_control(struct msghdr *message, struct whereto *to)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(part), sizeof info);
            memcpy(to->addressed, &info.ipi_addr, 4);
            memcpy(to->local, &info.ipi_spec_dst, 4);
            to->interface = (uint32_t)info.ipi_ifindex;
        } else if (part->cmsg_level == IPPROTO_IPV6 && part->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(part), sizeof info);
            memcpy(to->addressed, &info.ipi6_addr, 16);
            if (!IN6_IS_ADDR_MULTICAST(&info.ipi6_addr))
                memcpy(to->local, &info.ipi6_addr, 16);
            to->interface = info.ipi6_ifindex;
        }
    }
}

static void destination(const struct listener *listener, struct msghdr *message,
                        struct whereto *to)
{
    if (listener->wildcard) {
        memset(to, 0, sizeof *to);
        read_control(message, to);
    } else {
        memcpy(to->addressed, listener->packed, 16);
        memcpy(to->local, listener->packed, 16);
        to->interface = 0;
    }
}

static bool is_same_flow(const struct listener *listener, const struct incoming *in, int one,
                         int other)
{
    if (in->to[one].hash != in->to[other].hash ||
        !same_endpoint(in->clients + one, in->clients + other))
        return false;
    if (is_v6(in->clients + one) &&
        in->clients[one].v6.sin6_scope_id != in->clients[other].v6.sin6_scope_id)
        return false;
    return !listener->wildcard ||
           memcmp(in->to[one].addressed, in->to[other].addressed, 16) == 0;
}

// What is sent to many, by broadcast or multicast, the kernel gives to the sockets of all workers:
// steering is asked for what goes to one alone.
static bool is_of_other_worker(const struct worker *worker, const struct arrival *arrival)
{
    const struct relay *relay = worker->relay;
    return relay->worker_count > 1 &&
           worker_of(relay, arrival->listener, sender_of(arrival)) != worker->number;
}

// As many as have the first one's DSCP, which the session gives to what it sends from now on; apart
// from the others' way.
__attribute__((noinline)) static int keep_run(struct session *session, const struct whereto *to, int run)
{
    int same = 1;
    while (same < run && to[same].tos == to->tos)
        same++;
    keep_tos(session, to->tos);
    return same;
}

// A datagram, or a run of one client's; how many that were.
static int pass_on(struct worker *worker, struct listener *listener, int at, int count)
{
    struct incoming *in = &worker->in;
    const struct whereto *to = in->to + at;
    const struct arrival arrival = {
        .listener = listener,
        .client = in->clients + at,
        .addressed = to->addressed,
        .local = to->local,
        .interface = to->interface,
        .port = listener->port,
        .hash = to->hash,
        .tos = to->tos,
    };
    struct session *session = find_session(worker, &arrival);
    const void *data = in->iov[at].iov_base;
    uint32_t size = in->messages[at].msg_len;
    if (!session) {
        if (!is_of_other_worker(worker, &arrival))
            take_first(worker, &arrival, data, size, NULL);
        return 1;
    }
    int run = 1;
    while (at + run < count && is_same_flow(listener, in, at, at + run))
        run++;
    if (run > 1 && session->careful_up && session->verdict->keeps_dscp)
        run = keep_run(session, to, run);
    struct iovec iov[BATCH];
    for (int i = 0; i < run; i++)
        iov[i] = (struct iovec){in->iov[at + i].iov_base, in->messages[at + i].msg_len};
    if (run == 1 || !within_limits(worker, session, iov, (uint32_t)run)) {
        if (!upload(worker, session, &arrival, data, size))
            take_first(worker, &arrival, data, size, NULL);
        return 1;
    }
    return (int)upload_run(worker, session, iov, (uint32_t)run);
}

// Whose they are, for all of a batch: what the sessions will need comes while others are served.
static void look_up_batch(struct worker *worker, const struct listener *listener, int count)
{
    struct incoming *in = &worker->in;
    for (int i = 0; i < count; i++) {
        struct whereto *to = in->to + i;
        destination(listener, &in->messages[i].msg_hdr, to);
        to->hash = hash_of(worker->relay, listener, in->clients + i, to->addressed);
        __builtin_prefetch(worker->cells + (to->hash & worker->mask));
    }
    for (int i = 0; i < count; i++) {
        uint32_t slot = worker->cells[in->to[i].hash & worker->mask].slot;
        if (!slot)
            continue;
        __builtin_prefetch(worker->relay->sessions + slot - 1);
        __builtin_prefetch(&worker->relay->records[slot - 1].last_upload);
    }
}

// ---- behind PROXY headers ----

static bool is_believed(const struct listener *listener, const union address *sender)
{
    const void *packed = packed_of(sender);
    for (uint32_t i = 0; i < listener->networks.count; i++) {
        const struct network *one = listener->networks.each + i;
        if (one->size == listener->size && memcmp(packed, one->first, one->size) >= 0 &&
            memcmp(packed, one->last, one->size) <= 0)
            return true;
    }
    return false;
}

// A datagram that says whose it is. Who sends them is looked at where there is no session yet.
static void pass_on_proxied(struct worker *worker, struct listener *listener, int at)
{
    struct incoming *in = &worker->in;
    struct whereto *to = in->to + at;
    const union address *sender = in->clients + at;
    const uint8_t *data = in->iov[at].iov_base;
    uint32_t size = in->messages[at].msg_len;
    struct header header;
    struct session *session = NULL;
    destination(listener, &in->messages[at].msg_hdr, to);
    struct arrival arrival = {
        .listener = listener,
        .client = sender,
        .addressed = to->addressed,
        .local = to->local,
        .interface = to->interface,
        .port = listener->port,
        .tos = listener->tells ? told_tos(&in->messages[at].msg_hdr) : 0,
    };
    bool read = read_header(data, size, &header);
    if (read && !header.local) {
        arrival.client = &header.client;
        arrival.addressed = header.addressed;
        arrival.port = header.port;
        arrival.via = sender;
    }
    if (read) {
        arrival.hash = hash_arrival(worker->relay, &arrival);
        session = find_session(worker, &arrival);
    }
    if (!session && is_of_other_worker(worker, &arrival))
        return;
    if (!session && (!read || !is_believed(listener, sender))) {
        arrival.client = sender;
        tell_refused(worker, BAD_HEADER, &arrival, 0);
        return;
    }
    data += header.size;
    size -= header.size;
    if (!session || !upload(worker, session, &arrival, data, size))
        take_first(worker, &arrival, data, size, NULL);
}

// Only sessions that keep it look at the DSCP, and these are where it is told.
__attribute__((noinline)) static void read_dscp(struct incoming *in, const struct listener *listener, int count)
{
    for (int at = 0; at < (listener->tells ? count : BATCH); at++)
        in->to[at].tos = listener->tells ? told_tos(&in->messages[at].msg_hdr) : 0;
    in->marked = listener->tells;
}

void read_clients(struct worker *worker, struct listener *listener)
{
    struct incoming *in = &worker->in;
    bool controlled = listener->wildcard || listener->tells;
    for (int batch = 0; batch < MOST_BATCHES && !listener->gone; batch++) {
        for (int i = 0; i < BATCH; i++) {
            struct msghdr *message = &in->messages[i].msg_hdr;
            message->msg_namelen = sizeof in->clients[i];
            message->msg_control = controlled ? in->control[i] : NULL;
            message->msg_controllen = controlled ? CONTROL : 0;
        }
        int count = recvmmsg(listener->fds[worker->number], in->messages, BATCH, MSG_DONTWAIT,
                             NULL);
        if (count < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
                tell_failed(worker, NULL, FROM_CLIENTS, errno);
            return;
        }
        if (listener->networks.count) {
            for (int at = 0; at < count; at++)
                pass_on_proxied(worker, listener, at);
        } else {
            look_up_batch(worker, listener, count);
            if (listener->tells || in->marked)
                read_dscp(in, listener, count);
            for (int at = 0; at < count;)
                at += pass_on(worker, listener, at, count);
        }
        if (count < BATCH)
            return;
    }
}
