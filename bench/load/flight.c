// The clients' connected sockets and the datagrams under way.
// A datagram under way holds a slot until its answer comes or the timeout ends; the slot's number
// travels in the datagram, so an answer finds its slot without a search.
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { SCAN_NS = 20000000, PRIME_ATTEMPTS = 3, FEW_CLIENTS = 100 };

struct slot {
    uint64_t sequence, sent_ns;
    uint32_t client;
    bool waiting;
};

static int *sockets;
static bool *primed_clients, reads_batches;
static struct slot *slots;
static int *unused, unused_count, slot_count;
static uint64_t next_sequence, last_scan_ns, last_answer_ns;

static char buffers[BATCH][BUFFER];
static struct iovec parts[BATCH];
static struct mmsghdr messages[BATCH];

static void open_client(int client) {
    int fd = sockets[client] = client_socket(), size = 1 << 20;
    // With few clients each has many datagrams under way: more than a default buffer holds.
    if (options.clients <= FEW_CLIENTS) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (connect(fd, (struct sockaddr *)&options.target, sizeof options.target)) die("connect");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)client};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

void open_clients(int slots_wanted) {
    slot_count = unused_count = slots_wanted;
    slots = calloc((size_t)slot_count, sizeof *slots);
    unused = calloc((size_t)slot_count, sizeof *unused);
    sockets = calloc((size_t)options.clients, sizeof *sockets);
    primed_clients = calloc((size_t)options.clients, sizeof *primed_clients);
    if (!slots || !unused || !sockets || !primed_clients) die("calloc");
    for (int slot = 0; slot < slot_count; slot++) unused[slot] = slot_count - 1 - slot;
    for (int at = 0; at < BATCH; at++) {
        parts[at].iov_base = buffers[at];
        messages[at].msg_hdr = (struct msghdr){.msg_iov = &parts[at], .msg_iovlen = 1};
    }
    reads_batches = options.inflight > options.clients || options.burst > 1;
    for (int client = 0; client < options.clients; client++) open_client(client);
}

int free_slots(void) { return unused_count; }

void send_burst(int client, int datagrams) {
    uint64_t now = now_ns();
    for (int at = 0; at < datagrams; at++) {
        int slot = unused[--unused_count];
        slots[slot] = (struct slot){next_sequence, now, (uint32_t)client, true};
        fill(buffers[at], (struct header){run_id, next_sequence++, (uint32_t)client, (uint32_t)slot});
        parts[at].iov_len = (size_t)options.size;
    }
    int done;
    if (datagrams == 1) done = send(sockets[client], buffers[0], (size_t)options.size, 0) < 0 ? 0 : 1;
    else done = sendmmsg(sockets[client], messages, (unsigned)datagrams, 0);
    if (done < 0) done = 0;
    // What could not be sent keeps its slot until the timeout, so a dead proxy is no busy loop.
    counts.sent += (uint64_t)datagrams;
    counts.errors += (uint64_t)(datagrams - done);
}

static void release(int slot) {
    slots[slot].waiting = false;
    unused[unused_count++] = slot;
}

static void answered(int client, const char *datagram, int length, uint64_t now) {
    struct header header;
    if (!whole(datagram, length, &header)) {
        counts.corrupt++;
    } else if (header.client != (uint32_t)client) {
        counts.misdelivered++;
    } else if (header.slot >= (uint32_t)slot_count || !slots[header.slot].waiting ||
               slots[header.slot].sequence != header.sequence) {
        counts.late++;
    } else {
        answered_after(now - slots[header.slot].sent_ns);
        release((int)header.slot);
        counts.received++;
        last_answer_ns = now;
        primed_clients[client] = true;
    }
}

static void read_client(int client) {
    int count = 1;
    if (reads_batches) {
        for (int at = 0; at < BATCH; at++) parts[at].iov_len = BUFFER;
        count = recvmmsg(sockets[client], messages, BATCH, 0, NULL);
    } else {
        ssize_t length = recv(sockets[client], buffers[0], BUFFER, 0);
        if (length < 0) count = -1;
        else messages[0].msg_len = (unsigned)length;
    }
    if (count < 0 && errno != EAGAIN) counts.errors++;
    uint64_t now = now_ns();
    for (int at = 0; at < count; at++) answered(client, buffers[at], (int)messages[at].msg_len, now);
}

static void give_up_old(uint64_t now) {
    if (now - last_scan_ns < SCAN_NS) return;
    last_scan_ns = now;
    uint64_t timeout = (uint64_t)(options.timeout * 1e9);
    for (int slot = 0; slot < slot_count; slot++)
        if (slots[slot].waiting && now - slots[slot].sent_ns > timeout) {
            release(slot);
            counts.lost++;
        }
}

void collect(uint64_t wait_ns) {
    struct epoll_event events[EVENTS];
    struct timespec wait = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
    int ready = epoll_pwait2(poller, events, EVENTS, &wait, NULL);
    for (int at = 0; at < ready; at++) read_client((int)events[at].data.u32);
    give_up_old(now_ns());
}

uint64_t land(uint64_t limit_ns) {
    uint64_t deadline = now_ns() + limit_ns;
    while (unused_count < slot_count && now_ns() < deadline) collect(SCAN_NS);
    counts.lost += (uint64_t)(slot_count - unused_count);
    return last_answer_ns;
}

static long primed_count(void) {
    long primed = 0;
    for (int client = 0; client < options.clients; client++) primed += primed_clients[client];
    return primed;
}

long prime(void) {
    uint64_t limit = (uint64_t)(options.timeout * 2e9);
    int at_once = options.inflight < slot_count ? options.inflight : slot_count;
    for (int attempt = 0; attempt < PRIME_ATTEMPTS && primed_count() < options.clients; attempt++) {
        for (int client = 0; client < options.clients; client++) {
            if (primed_clients[client]) continue;
            while (slot_count - unused_count >= at_once) collect(SCAN_NS);
            send_burst(client, 1);
        }
        land(limit);
    }
    return primed_count();
}

void say_primed(long primed) {
    if (!options.sync) return;
    char line[8];
    printf("primed %ld\n", primed);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) exit(1);
}
