// Sessions whose rule says from which port they write to the server (source-port).
//
// What was bound to a port by its number never gives it back: connect(2) to AF_UNSPEC leaves it. So
// the slot of such a session is spent when it ends, until the parent has made another socket for it
// (slots.c). SO_REUSEADDR, which lets sessions share an end of ours, tells these sockets from others,
// whoever looks: no other has it, for what is bound to any port by the system would share that, too.
#include "fixed.h"

#include <linux/filter.h>

#include "ports.h"
#include "sockets.h"

bool keeps_port(int fd)
{
    int on = 0;
    socklen_t size = sizeof on;
    getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, &size);
    return on;
}

static void share_port(int fd, int on)
{
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

// Nothing comes in, whoever sends it.
static void deafen(int fd, bool on)
{
    struct sock_filter nothing = {.code = BPF_RET | BPF_K};
    struct sock_fprog program = {.len = 1, .filter = &nothing};
    if (on)
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    else
        setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &program, sizeof program);
}

// Its session has ended, and another may have the same end of ours before the socket is gone. So it
// hears itself alone, and nobody writes by it.
void park(int fd)
{
    union address own, loopback = {0};
    if (name_of(fd, &own))
        return;
    if (associate(fd, &own)) { // the address is gone
        disconnect(fd);
        loopback.any.sa_family = own.any.sa_family;
        if (is_v6(&own)) {
            loopback.v6.sin6_port = own.v6.sin6_port;
            loopback.v6.sin6_addr = in6addr_loopback;
        } else {
            loopback.v4.sin_port = own.v4.sin_port;
            loopback.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        }
        associate(fd, &loopback);
    }
    drain(fd);
}

// As it was made, or at least nobody's.
void reset_any(int fd)
{
    if (keeps_port(fd))
        park(fd);
    else
        reset_socket(fd, false);
}

// The port that the rule of the session names; 0: none, or it is the client's, who has none.
static uint16_t fixed_port(const struct session *session)
{
    int32_t port = session->verdict->source_port;
    return port == CLIENTS_PORT ? port_of(&session->client) : (uint16_t)port;
}

// Can more than one server write to it?
static bool is_alone(const struct session *session)
{
    return session->record->type != NORMAL && session->record->type != ONE_WAY;
}

static void unclaim(struct relay *relay, struct session *session)
{
    int problem = errno;
    pthread_mutex_lock(&relay->book);
    remove_port(relay, session);
    pthread_mutex_unlock(&relay->book);
    errno = problem;
}

static int give_up(struct relay *relay, struct session *session)
{
    int problem = errno;
    park(session->fd); // first, for then others may have the end
    unclaim(relay, session);
    errno = problem;
    return -1;
}

static bool same_address(const union address *one, const union address *other)
{
    return memcmp(packed_of(one), packed_of(other), packed_size(one)) == 0;
}

// From `source`, or wherever from the system would: NULL. Who has our end already is asked before
// there is a port that would stay.
static int bind_fixed(struct relay *relay, struct session *session, const union address *server,
                      const union address *source, union address *own)
{
    int fd = session->fd;
    bool alone = is_alone(session), known = true;
    union address now, at = {0};
    at.any.sa_family = server->any.sa_family;
    *own = at;
    if (source) {
        *own = at = *source;
    } else if (learn_own(relay, fd, server, own)) {
        if (errno != EAGAIN || alone) // that is: every port that the system hands out is taken
            return -1;
        known = false;
    }
    if (known && alone)
        at = *own;
    set_port(own, fixed_port(session));
    set_port(&at, fixed_port(session));
    if (known && !claim_port(relay, session, own)) {
        errno = EADDRINUSE;
        return -1;
    }
    share_port(fd, 1);
    if (bind(fd, &at.any, length_of(&at))) {
        int problem = errno;
        share_port(fd, 0);
        errno = problem;
        unclaim(relay, session);
        return -1;
    }
    session->kept |= 1 << is_v6(server);
    if (!alone) {
        if (associate(fd, server) || name_of(fd, &now))
            return give_up(relay, session);
        bool same = known && same_address(&now, own);
        *own = now;
        if (!same) {
            unclaim(relay, session);
            if (!claim_port(relay, session, own)) {
                errno = EADDRINUSE;
                return give_up(relay, session);
            }
        }
    }
    if (discard(fd, MOST_EARLY))
        return 0;
    errno = EAGAIN;
    return give_up(relay, session);
}

// By the first source that has that port for it.
static int bind_from(struct relay *relay, struct session *session, const union address *server,
                     union address *own)
{
    const struct verdict *verdict = session->verdict;
    const struct origin origin = {verdict, &session->client};
    bool used_up = false;
    errno = EADDRNOTAVAIL;
    for (unsigned i = 0; i < verdict->source_count; i++) {
        union address source;
        if (!source_of(&origin, i, server, &source))
            continue;
        if (!bind_fixed(relay, session, server, &source, own))
            return 0;
        if (errno == EACCES || is_kept(session, is_v6(server)))
            return -1;
        used_up |= errno == EADDRINUSE;
    }
    if (used_up) {
        errno = EADDRINUSE;
        return -1;
    }
    return verdict->fallback ? bind_fixed(relay, session, server, NULL, own) : -1;
}

// The slot's socket has no port so far; where it fails it may have one for good nevertheless.
static int attach_fixed(struct relay *relay, struct session *session, const union address *server,
                        union address *own)
{
    if (session->verdict->source_count)
        __atomic_store_n(relay->header + SOURCED, 1, __ATOMIC_RELAXED);
    __atomic_store_n(relay->header + PORTED, 1, __ATOMIC_RELAXED);
    disconnect(session->fd);
    if (session->record->type == BROADCAST)
        allow_broadcast(session->fd, 1);
    if (bind_from(relay, session, server, own))
        return -1;
    if (is_alone(session))
        report_errors(session->fd, 1);
    return 0;
}

// The session's socket has its port for good, and is to lead to `peer`; `alone`: not to it only.
// Where that fails the session has no end of ours, as with any other, and its socket hears nothing.
int rejoin(struct relay *relay, struct session *session, const union address *peer, bool alone,
           union address *own)
{
    int fd = session->fd;
    deafen(fd, true);
    drain(fd);
    disconnect(fd);
    if (associate(fd, peer) || name_of(fd, own))
        return -1;
    if (alone)
        disconnect(fd);
    if (!claim_port(relay, session, own)) {
        disconnect(fd);
        errno = EADDRINUSE;
        return -1;
    }
    report_errors(fd, alone);
    if (!alone)
        take_errors(fd, NULL);
    deafen(fd, false);
    return 0;
}

// ---- sessions of any rule ----

// Does the socket that the session has now keep its port?
bool keeps(const struct relay *relay, const struct session *session)
{
    return session->kept &&
           is_kept(session, session->fd == socket_of(relay, true, slot_of(relay, session)));
}

// Its socket's port stays, and may be another session's from now on.
void leave_port(struct relay *relay, struct session *session)
{
    park(session->fd);
    unclaim(relay, session);
}

// `own` is our end as the server will see it.
int attach_session(struct relay *relay, struct session *session, const union address *server,
                   union address *own)
{
    const struct origin origin = {session->verdict, &session->client};
    if (keeps(relay, session))
        return rejoin(relay, session, server, is_alone(session), own);
    if (fixed_port(session))
        return attach_fixed(relay, session, server, own);
    return attach(relay, session->fd, (enum type)session->record->type, &origin, server, own);
}
