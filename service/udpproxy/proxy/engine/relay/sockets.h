// The sockets towards servers: what may be done with one.
#ifndef UDPPROXY_SOCKETS_H
#define UDPPROXY_SOCKETS_H

#include "state.h"
#include <sys/syscall.h>

// Whose session it is that writes to a server: the client, and the verdict that names sources.
struct origin {
    const struct verdict *verdict;
    const union address *client;
};

int attach(struct relay *relay, int fd, enum type type, const struct origin *origin,
           const union address *server, union address *own);
int fix_peer_again(struct relay *relay, int fd, const struct origin *origin,
                   const union address *peer, union address *own);
int fix_peer(int fd, const union address *peer);

bool source_of(const struct origin *origin, unsigned number, const union address *server,
               union address *source);
int learn_own(struct relay *relay, int fd, const union address *server, union address *own);
int associate(int fd, const union address *server);
int name_of(int fd, union address *name);
void report_errors(int fd, int on);
void allow_broadcast(int fd, int on);

// Datagrams that are at a new port before we are.
enum { MOST_EARLY = 64 };
bool discard(int fd, uint32_t most);
void drain(int fd);

void disconnect(int fd);
void reset_socket(int fd, bool plain);
bool has_waiting(int fd);
uint32_t take_errors(int fd, int *problem);
uint32_t socket_drops(int fd);
bool means_unreachable(int problem);
bool means_cut_off(int problem);

// libc's own are points of cancellation, which in a process with threads cost two atomic
// operations each; nobody cancels ours.
static inline ssize_t send_datagram(int fd, const struct iovec *iov)
{
    return syscall(SYS_sendto, fd, iov->iov_base, iov->iov_len, 0, NULL, 0);
}

static inline ssize_t receive_datagram(int fd, void *data, size_t size)
{
    return syscall(SYS_recvfrom, fd, data, size, MSG_DONTWAIT, NULL, NULL);
}

#endif
