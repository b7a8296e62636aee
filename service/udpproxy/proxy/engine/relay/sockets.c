// The sockets towards servers: lent by the parent, one for each slot and family (engine/pool.py).
#include "sockets.h"

#include <linux/errqueue.h>
#include <netinet/ip.h>

#include "ports.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
enum { MOST_ERRORS = 64, MOST_TRIES = 8, WAITING_WORD = 0, DROPS_WORD = 8, MEMINFO_WORDS = 9 };
enum {
    SMALLEST = 256, // bytes of a receive buffer: no datagram takes less, with its struct sk_buff
};

// connect(2) to AF_UNSPEC dissolves the association and gives the port back.
void disconnect(int fd)
{
    struct sockaddr_in6 nobody = {.sin6_family = AF_UNSPEC};
    (void)!connect(fd, (struct sockaddr *)&nobody, sizeof nobody);
}

static uint32_t meminfo(int fd, int word)
{
    uint32_t words[MEMINFO_WORDS] = {0};
    socklen_t size = sizeof words;
    getsockopt(fd, SOL_SOCKET, SO_MEMINFO, words, &size);
    return words[word];
}

// Is there a datagram in it, or an error in its queue?
bool has_waiting(int fd)
{
    return meminfo(fd, WAITING_WORD) > 0;
}

// Throw away what waits, up to so many. False: there may be more.
bool discard(int fd, uint32_t most)
{
    char byte;
    for (uint32_t i = 0; i < most; i++)
        // A pending error is reported once, then cleared.
        if (recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return true;
    return false;
}

// All that waits by now, however much that is, and not what comes after it.
void drain(int fd)
{
    if (!discard(fd, MOST_EARLY))
        discard(fd, meminfo(fd, WAITING_WORD) / SMALLEST);
}

void report_errors(int fd, int on)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    if (domain == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
    else
        setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
}

void allow_broadcast(int fd, int on)
{
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
}

int name_of(int fd, union address *name)
{
    socklen_t size = sizeof *name;
    return getsockname(fd, &name->any, &size);
}

int associate(int fd, const union address *server)
{
    return connect(fd, &server->any, length_of(server));
}

// `source`, here and below: our address; of no family: none, though the socket may have been bound
// to one, which the system never forgets by itself; NULL: nor that.
static int bind_to(int fd, const union address *server, const union address *source)
{
    union address any = {0};
    any.any.sa_family = server->any.sa_family;
    if (!source || source->any.sa_family == AF_UNSPEC)
        source = &any;
    return bind(fd, &source->any, length_of(source));
}

// Only the server may reply from now on.
static int connect_once(int fd, const union address *server, const union address *source,
                        union address *own)
{
    if (source && bind_to(fd, server, source))
        return -1;
    return associate(fd, server) || name_of(fd, own) ? -1 : 0;
}

// Anybody may reply; `own` is our end as the server will see it.
static int bind_once(int fd, const union address *server, const union address *source,
                     union address *own)
{
    union address bound;
    if (source && source->any.sa_family != AF_UNSPEC) {
        *own = *source;
    } else {
        if ((source && bind_to(fd, server, source)) || associate(fd, server) || name_of(fd, own))
            return -1;
        disconnect(fd);
    }
    if (bind_to(fd, server, source) || name_of(fd, &bound))
        return -1;
    if (is_v6(own))
        own->v6.sin6_port = bound.v6.sin6_port;
    else
        own->v4.sin_port = bound.v4.sin_port;
    return 0;
}

// The kernel picks a port, again while that one still rests; where all do, the last one is it.
//
// What is there already is thrown away, for we have sent nothing that could be answered: a late one
// of the socket's last session, and whoever hit the moment before the kernel noted the peer. Where
// that has no end soon, somebody shoots at the port, and we do without.
static int get_port(struct relay *relay, int fd, const union address *server,
                    const union address *source, union address *own,
                    int (*once)(int, const union address *, const union address *,
                                union address *))
{
    for (int tries = 1;; tries++) {
        if (once(fd, server, source, own))
            return -1;
        bool empty = discard(fd, MOST_EARLY), resting = is_resting(relay, own);
        if (empty && !resting)
            return 0;
        if (tries == MOST_TRIES) {
            if (resting)
                rest_less(relay);
            errno = EAGAIN; // as where there is none
            return empty ? 0 : -1;
        }
        disconnect(fd);
    }
}

// From which of our addresses the system would write to the server. The socket has no port, before
// and after.
int learn_own(struct relay *relay, int fd, const union address *server, union address *own)
{
    static const union address unbound; // of no family
    const union address *source = relay->header[SOURCED] ? &unbound : NULL;
    int failed = (source && bind_to(fd, server, source)) || associate(fd, server) || name_of(fd, own);
    int problem = errno;
    disconnect(fd);
    errno = problem;
    return failed ? -1 : 0;
}

// The address that the rule names at that place; false: it is not of the server's family.
bool source_of(const struct origin *origin, unsigned number, const union address *server,
               union address *source)
{
    const struct source *one = origin->verdict->sources + number;
    bool clients = !one->size;
    unsigned size = packed_size(server);
    if ((clients ? packed_size(origin->client) : one->size) != size)
        return false;
    make_address(source, clients ? packed_of(origin->client) : one->packed, size, 0, 0);
    if (is_v6(source) && IN6_IS_ADDR_LINKLOCAL(&source->v6.sin6_addr))
        source->v6.sin6_scope_id = scope_of(server);
    return true;
}

// By the first source that has a port. Where those that there are have none, the system would find
// none either.
static int attach_from(struct relay *relay, int fd, const struct origin *origin,
                       const union address *server, union address *own,
                       int (*once)(int, const union address *, const union address *,
                                   union address *))
{
    static const union address unbound; // of no family
    const struct verdict *verdict = origin->verdict;
    bool used_up = false;
    if (verdict->source_count)
        __atomic_store_n(relay->header + SOURCED, 1, __ATOMIC_RELAXED);
    bool unbind = __atomic_load_n(relay->header + SOURCED, __ATOMIC_RELAXED);
    if (unbind)
        disconnect(fd); // what has a port cannot be bound, and the last session may have left one
    errno = EADDRNOTAVAIL;
    for (unsigned i = 0; i < verdict->source_count; i++) {
        union address source;
        if (!source_of(origin, i, server, &source))
            continue;
        if (is_used_up(relay, &source)) {
            used_up = true;
            errno = EAGAIN;
            continue;
        }
        if (!get_port(relay, fd, server, &source, own, once))
            return 0;
        int problem = errno;
        used_up |= problem == EADDRINUSE || problem == EAGAIN;
        disconnect(fd);
        errno = problem;
    }
    if (used_up || !verdict->fallback)
        return -1;
    return get_port(relay, fd, server, unbind ? &unbound : NULL, own, once);
}

// `own` is our end as the server will see it.
int attach(struct relay *relay, int fd, enum type type, const struct origin *origin,
           const union address *server, union address *own)
{
    if (type == NORMAL || type == ONE_WAY)
        return attach_from(relay, fd, origin, server, own, connect_once);
    if (type == BROADCAST)
        allow_broadcast(fd, 1);
    if (attach_from(relay, fd, origin, server, own, bind_once))
        return -1;
    report_errors(fd, 1);
    return 0;
}

// From now on only `peer` may reply; what others sent before still has to be judged.
int fix_peer(int fd, const union address *peer)
{
    if (associate(fd, peer))
        return -1;
    report_errors(fd, 0);
    take_errors(fd, NULL);
    return 0;
}

// A peer that was fixed, from whatever address and port the system gives now, or one of the sources.
int fix_peer_again(struct relay *relay, int fd, const struct origin *origin,
                   const union address *peer, union address *own)
{
    disconnect(fd);
    if (!relay->header[SOURCED])
        return fix_peer(fd, peer) || name_of(fd, own) ? -1 : 0;
    if (attach_from(relay, fd, origin, peer, own, connect_once))
        return -1;
    report_errors(fd, 0);
    take_errors(fd, NULL);
    return 0;
}

// As it was made: no port, no peer, nothing waiting, no option left on.
void reset_socket(int fd, bool plain)
{
    disconnect(fd);
    if (!plain) {
        report_errors(fd, 0);
        allow_broadcast(fd, 0);
        take_errors(fd, NULL);
    }
    drain(fd);
}

// What the error queue has, and at most so much of it: the network may fill it as fast as we read,
// and what is left rings again. How many errors were told of by ICMP, not by our own system, and
// which was the last.
uint32_t take_errors(int fd, int *problem)
{
    uint32_t count = 0;
    for (int i = 0; i < MOST_ERRORS; i++) {
        union {
            struct cmsghdr align;
            uint8_t bytes[512];
        } control;
        char byte;
        struct iovec iov = {&byte, 1};
        struct msghdr message = {
            .msg_iov = &iov,
            .msg_iovlen = 1,
            .msg_control = &control,
            .msg_controllen = sizeof control,
        };
        if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return count;
        for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part;
             part = CMSG_NXTHDR(&message, part)) {
            struct sock_extended_err told;
            if (part->cmsg_len < CMSG_LEN(sizeof told))
                continue;
            memcpy(&told, CMSG_DATA(part), sizeof told);
            if (told.ee_origin != SO_EE_ORIGIN_LOCAL) {
                count++;
                if (problem)
                    *problem = (int)told.ee_errno;
                break;
            }
        }
    }
    return count;
}

uint32_t socket_drops(int fd)
{
    return meminfo(fd, DROPS_WORD);
}

// Our address towards the server is gone, or its interface, or the route; or the socket has none
// since the last time that this was so.
bool means_cut_off(int problem)
{
    switch (problem) {
    case ENETUNREACH:
    case EADDRNOTAVAIL:
    case EINVAL:
    case ENODEV:
    case EDESTADDRREQ:
        return true;
    default:
        return false;
    }
}

// What an ICMP message can make of the next call on a connected socket (icmp(7), icmp.c).
bool means_unreachable(int problem)
{
    switch (problem) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENONET:
    case ENOPROTOOPT:
    case EACCES:
    case EPROTO:
        return true;
    default:
        return false;
    }
}
