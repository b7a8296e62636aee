// What the C tests of the relay have in common.
#ifndef UDPPROXY_HARNESS_H
#define UDPPROXY_HARNESS_H

#include "relay/relay.h"
#include "relay/book.h"
#include "relay/decisions.h"
#include "relay/worker.h"

#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

enum { SECOND = 1000000000 };

static inline void check(bool right, const char *what)
{
    if (right)
        return;
    fprintf(stderr, "%s (errno %d)\n", what, errno);
    exit(1);
}

static inline int udp(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    check(fd >= 0, "no socket");
    return fd;
}

// Only listeners share their ports.
static inline int listening_socket(void)
{
    int one = 1, fd = udp();
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    return fd;
}

static inline union address bind_to(int fd, uint16_t port)
{
    union address address;
    socklen_t size = sizeof address;
    make_address(&address, (const uint8_t[]){127, 0, 0, 1}, 4, port, 0);
    check(!bind(fd, &address.any, sizeof address.v4), "cannot bind");
    getsockname(fd, &address.any, &size);
    return address;
}

// With sockets for the first `slots` of its slots; the others are never given to anybody.
static inline struct relay *make_relay(uint32_t capacity, uint32_t slots, uint32_t workers)
{
    size_t size = HEADER_SIZE + (size_t)capacity * RECORD_SIZE;
    void *table = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(table != MAP_FAILED, "no table");
    struct relay *relay = relay_new(table, capacity, workers, 0, 64, 1);
    uint8_t *taken = malloc(capacity);
    check(relay && taken, "no relay");
    for (uint32_t slot = 0; slot < capacity; slot++)
        taken[slot] = slot >= slots;
    for (uint32_t slot = 0; slot < slots; slot++)
        relay_socket(relay, 4, slot, udp());
    relay_extend(relay, capacity);
    relay_reserve(relay, taken);
    free(taken);
    return relay;
}

static inline struct verdict *make_verdict(struct relay *relay, const union address *server)
{
    struct verdict *verdict = relay_verdict(relay, 0);
    check(verdict != NULL, "no verdict");
    verdict->budget = (struct budget){
        .idle = NEVER,
        .lifetime = NEVER,
        .upload_datagrams = NEVER,
        .download_datagrams = NEVER,
        .upload_bytes = NEVER,
        .download_bytes = NEVER,
        .silent = NEVER,
    };
    verdict->server = *server;
    verdict->fallback = 1; // whatever address the system gives
    return verdict;
}

#endif
