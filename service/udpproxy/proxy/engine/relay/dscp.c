// The DSCP of datagrams, as the byte of the IP header that it stands in. To servers the session's
// socket gives it to each, so it costs a system call only where it changes; to clients, whose socket
// all sessions share, each message has its own.
//
// The two lowest bits of that byte are ECN's (RFC 3168). They say something of the way that a
// datagram has come, not of the one that it goes, so they are always 0 here.
#include "dscp.h"

#include <netinet/ip.h>

#ifndef IPV6_RECVTCLASS
#define IPV6_RECVTCLASS 66
#define IPV6_TCLASS 67
#endif
enum { DSCP_BITS = 0xfc };

// ---- of a message ----

// What it tells of itself; 0 where it tells nothing.
uint8_t told_tos(struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        int wide;
        if (part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_TOS)
            return *CMSG_DATA(part) & DSCP_BITS;
        if (part->cmsg_level == IPPROTO_IPV6 && part->cmsg_type == IPV6_TCLASS) {
            memcpy(&wide, CMSG_DATA(part), sizeof wide);
            return (uint8_t)(wide & DSCP_BITS);
        }
    }
    return 0;
}

// After whatever else is in the message's control part, which has CONTROL bytes; apart from the way
// of those who have none.
__attribute__((noinline)) void add_tos(struct msghdr *message, uint8_t *control, bool v6, uint8_t tos)
{
    int wide = tos;
    struct cmsghdr *part = (struct cmsghdr *)(control + message->msg_controllen);
    memset(part, 0, CMSG_SPACE(sizeof wide));
    part->cmsg_level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    part->cmsg_type = v6 ? IPV6_TCLASS : IP_TOS;
    part->cmsg_len = CMSG_LEN(sizeof wide);
    memcpy(CMSG_DATA(part), &wide, sizeof wide);
    message->msg_control = control;
    message->msg_controllen += CMSG_SPACE(sizeof wide);
}

// ---- of a session's socket ----

static bool is_towards_v6(const struct session *session)
{
    return session->record->server_size == 16;
}

static int option(int fd, bool v6, int of_v4, int of_v6)
{
    int value = 0;
    socklen_t size = sizeof value;
    getsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? of_v6 : of_v4, &value, &size);
    return value;
}

static void set_option(int fd, bool v6, int of_v4, int of_v6, int value)
{
    setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? of_v6 : of_v4, &value, sizeof value);
}

static void set_tos(struct session *session, uint8_t tos)
{
    if (session->tos == tos)
        return;
    set_option(session->fd, is_towards_v6(session), IP_TOS, IPV6_TCLASS, tos);
    session->tos = tos;
}

static void tell(struct session *session, bool on)
{
    if (session->tells == on)
        return;
    set_option(session->fd, is_towards_v6(session), IP_RECVTOS, IPV6_RECVTCLASS, on);
    session->tells = on;
}

static bool may_be_marked(const struct relay *relay)
{
    return __atomic_load_n(relay->header + MARKED, __ATOMIC_RELAXED);
}

// Whoever was before us has left it so.
void see_socket(const struct relay *relay, struct session *session)
{
    bool v6 = is_towards_v6(session);
    session->tos = session->tos_down = 0;
    session->tells = false;
    if (!may_be_marked(relay))
        return;
    session->tos = (uint8_t)option(session->fd, v6, IP_TOS, IPV6_TCLASS);
    session->tells = option(session->fd, v6, IP_RECVTOS, IPV6_RECVTCLASS) != 0;
}

void mark_by_rule(struct relay *relay, struct session *session)
{
    const struct verdict *verdict = session->verdict;
    if (verdict->tos || verdict->keeps_dscp)
        __atomic_store_n(relay->header + MARKED, 1, __ATOMIC_RELAXED);
    tell(session, verdict->keeps_dscp);
    if (verdict->keeps_dscp)
        return;
    set_tos(session, verdict->tos);
    session->tos_down = verdict->tos;
}

// What comes next from the client has that.
__attribute__((noinline)) void keep_tos(struct session *session, uint8_t tos)
{
    if (session->verdict->keeps_dscp)
        set_tos(session, tos);
}

// Its socket is as it was made.
void unmark(struct session *session)
{
    set_tos(session, 0);
    tell(session, false);
}

// The same of a socket that nobody knows anything of.
void unmark_unknown(const struct relay *relay, int fd, bool v6)
{
    if (!may_be_marked(relay))
        return;
    set_option(fd, v6, IP_TOS, IPV6_TCLASS, 0);
    set_option(fd, v6, IP_RECVTOS, IPV6_RECVTCLASS, 0);
}
