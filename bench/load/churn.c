// New sessions: every datagram comes from an address and port that was never used before.
// A client is a socket bound to 127.B.7.x, one datagram, one answer; then it is closed.
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORTS = 50000, FIRST_PORT = 2000, SCAN_NS = 20000000 };

struct visitor {
    uint64_t sequence, sent_ns;
    int fd; // -1: nobody
};

static struct visitor *visitors;
static char buffer[BUFFER];

// One second octet per run, so that runs soon after each other share no address either.
static bool bind_fresh(int fd) {
    static long used;
    long place = used++;
    uint32_t second = 1 + (uint32_t)(run_id % 200);
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(127u << 24 | second << 16 | 7u << 8 | (uint32_t)(1 + place / PORTS));
    source.sin_port = htons((uint16_t)(FIRST_PORT + place % PORTS));
    return bind(fd, (struct sockaddr *)&source, sizeof source) == 0;
}

static void arrive(int at, uint64_t sequence) {
    int fd = client_socket();
    while (!bind_fresh(fd)) continue;
    if (connect(fd, (struct sockaddr *)&options.target, sizeof options.target)) die("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)at};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    fill(buffer, (struct header){run_id, sequence, (uint32_t)at, (uint32_t)at});
    visitors[at] = (struct visitor){sequence, now_ns(), fd};
    counts.sent++;
    if (send(fd, buffer, (size_t)options.size, 0) < 0) counts.errors++;
}

static void leave(int at) {
    close(visitors[at].fd);
    visitors[at].fd = -1;
}

static void read_visitor(int at) {
    struct header header;
    ssize_t length = recv(visitors[at].fd, buffer, BUFFER, 0);
    uint64_t now = now_ns();
    if (length < 0) {
        counts.errors++;
        counts.lost++;
    } else if (!whole(buffer, (int)length, &header)) {
        counts.corrupt++;
    } else if (header.sequence != visitors[at].sequence) {
        counts.misdelivered++;
    } else {
        counts.received++;
        answered_after(now - visitors[at].sent_ns);
    }
    leave(at);
}

static int give_up_old(uint64_t now) {
    int gone = 0;
    uint64_t timeout = (uint64_t)(options.timeout * 1e9);
    for (int at = 0; at < options.inflight; at++)
        if (visitors[at].fd >= 0 && now - visitors[at].sent_ns > timeout) {
            leave(at);
            counts.lost++;
            gone++;
        }
    return gone;
}

void churn(void) {
    struct epoll_event events[EVENTS];
    visitors = calloc((size_t)options.inflight, sizeof *visitors);
    if (!visitors) die("calloc");
    for (int at = 0; at < options.inflight; at++) visitors[at].fd = -1;
    say_primed(0);
    start_window();
    uint64_t start = now_ns(), scanned = start, last = start;
    long come = 0, present = 0;
    while (come < options.count || present) {
        for (int at = 0; at < options.inflight && come < options.count && present < options.inflight; at++)
            if (visitors[at].fd < 0) {
                arrive(at, (uint64_t)come++);
                present++;
            }
        int ready = epoll_wait(poller, events, EVENTS, 20);
        for (int at = 0; at < ready; at++) read_visitor((int)events[at].data.u32);
        present -= ready > 0 ? ready : 0;
        uint64_t now = now_ns();
        if (ready > 0) last = now;
        if (now - scanned > SCAN_NS) {
            scanned = now;
            present -= give_up_old(now);
        }
    }
    print_result("churn", (double)(last - start) / 1e9, come);
}
