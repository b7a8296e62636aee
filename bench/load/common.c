// Sockets, latencies and the result line.
#define _GNU_SOURCE
#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

// 64 steps to each power of two: a quantile is right to 1.6 %.
struct latencies {
    uint64_t steps[64 * 64], total, worst;
};

struct counts counts;
static struct latencies answers, lags;
static double cpu_before;

_Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

int client_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    return fd;
}

static double cpu_seconds(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static void add(struct latencies *all, uint64_t ns) {
    int scale = ns < 64 ? 0 : 63 - __builtin_clzll(ns) - 5;
    all->steps[scale * 64 + (int)(ns >> scale & 63)]++;
    all->total++;
    if (ns > all->worst) all->worst = ns;
}

static double quantile_us(const struct latencies *all, double share) {
    uint64_t wanted = (uint64_t)(share * (double)all->total), seen = 0;
    for (int step = 0; step < 64 * 64; step++) {
        seen += all->steps[step];
        if (seen > wanted) return (double)((uint64_t)(step & 63) << (step >> 6)) / 1000;
    }
    return (double)all->worst / 1000;
}

void start_window(void) {
    counts = (struct counts){0};
    answers = lags = (struct latencies){0};
    cpu_before = cpu_seconds();
}

void answered_after(uint64_t ns) { add(&answers, ns); }

void behind_schedule(uint64_t ns) { add(&lags, ns); }

void print_result(const char *mode, double seconds, long primed) {
    double cpu = cpu_seconds() - cpu_before;
    printf("{\"mode\": \"%s\", \"clients\": %d, \"size\": %d, \"primed\": %ld, ", mode,
           options.clients, options.size, primed);
    printf("\"sent\": %" PRIu64 ", \"received\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"late\": %" PRIu64 ", \"corrupt\": %" PRIu64 ", \"misdelivered\": %" PRIu64
           ", \"errors\": %" PRIu64 ", ",
           counts.sent, counts.received, counts.lost, counts.late, counts.corrupt,
           counts.misdelivered, counts.errors);
    printf("\"seconds\": %.6f, \"per_second\": %.1f, \"cpu_seconds\": %.6f, ", seconds,
           seconds > 0 ? (double)counts.received / seconds : 0, cpu);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, "
           "\"lag_p99_us\": %.1f}\n",
           quantile_us(&answers, .5), quantile_us(&answers, .99), quantile_us(&answers, .999),
           (double)answers.worst / 1000, quantile_us(&lags, .99));
    fflush(stdout);
}
