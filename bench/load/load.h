// What the load generator's modes share: options, counts, the datagram, the latencies.
// Every datagram names its run, client and sequence number and is filled with a pattern made of
// them, so that a reply is accepted only when it is whole, of this run and for this client.
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

enum { BATCH = 64, BUFFER = 2048, SMALLEST = 40, LARGEST = 1472, EVENTS = 256 };

struct options {
    struct sockaddr_in target;
    int clients, size, inflight, burst;
    long count;                    // churn: how many new sessions
    double seconds, rate, timeout; // timeout: unanswered for this long is lost
    bool sync;                     // after priming: say so, and wait for a line on stdin
};

struct counts {
    uint64_t sent, received;
    uint64_t lost;         // no answer within the timeout
    uint64_t late;         // an answer nobody waits for: a second one, or after the timeout
    uint64_t corrupt;      // not what any client of this run sent
    uint64_t misdelivered; // whole, but another client's
    uint64_t errors;       // failed system calls, and datagrams that could not be sent in time
};

struct header {
    uint64_t run, sequence;
    uint32_t client, slot;
};

extern struct options options;
extern struct counts counts;
extern uint64_t run_id;
extern int poller; // the epoll descriptor of all client sockets

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t mixed(uint64_t value) {
    value ^= value >> 31;
    value *= 0x9E3779B97F4A7C15u;
    return value ^ value >> 29;
}

static inline uint64_t pattern_of(const struct header *header) {
    return mixed(header->run ^ header->sequence * 1000003u ^ (uint64_t)header->client << 40);
}

// The pattern is words of 8, each one more than the last; the datagram's end cuts the last one.
static inline void fill(char *datagram, struct header header) {
    memcpy(datagram, &header, sizeof header);
    uint64_t word = pattern_of(&header);
    int at = sizeof header;
    for (; at + 8 <= options.size; at += 8, word++) memcpy(datagram + at, &word, 8);
    memcpy(datagram + at, &word, (size_t)(options.size - at));
}

static inline bool whole(const char *datagram, int length, struct header *header) {
    if (length != options.size) return false;
    memcpy(header, datagram, sizeof *header);
    if (header->run != run_id) return false;
    uint64_t word = pattern_of(header), found;
    int at = sizeof *header;
    for (; at + 8 <= length; at += 8, word++) {
        memcpy(&found, datagram + at, 8);
        if (found != word) return false;
    }
    return memcmp(datagram + at, &word, (size_t)(length - at)) == 0;
}

// common.c
_Noreturn void die(const char *what);
int client_socket(void);
void start_window(void);        // measuring begins: counts, latencies and CPU time from zero
void answered_after(uint64_t ns);
void behind_schedule(uint64_t ns);
void print_result(const char *mode, double seconds, long primed);

// flight.c: client sockets and the datagrams under way, for the closed and the open loop
void open_clients(int slots);
long prime(void);               // one answered datagram for every client; how many succeeded
int free_slots(void);
void send_burst(int client, int datagrams);
void collect(uint64_t wait_ns);
uint64_t land(uint64_t limit_ns); // wait for what is under way; when the last answer came
void say_primed(long primed);

// One file each; all end with print_result().
void closed_loop(void);
void open_loop(void);
void churn(void);

#endif
