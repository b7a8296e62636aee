// udpload: puts load on a UDP proxy and checks every answer. Loopback only.
//
//   udpload closed --target 127.0.0.1:9201 --clients 100 --size 64 --inflight 256 --seconds 1
//   udpload open   --target 127.0.0.1:9201 --clients 100 --size 64 --rate 20000 --seconds 1
//   udpload churn  --target 127.0.0.1:9201 --count 8000 --inflight 64 --size 64
//
// One line of JSON goes to stdout. With --sync it prints "primed N" when every client has had an
// answer, and measures after it has read a line from stdin. The modes are in load/.
#define _GNU_SOURCE
#include "load/load.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { SLACK_NS = 1000 };

struct options options = {.clients = 1, .size = 64, .inflight = 64, .burst = 1, .count = 8000,
                          .seconds = 1, .rate = 20000, .timeout = 0.3};
uint64_t run_id;
int poller;

static _Noreturn void refuse(const char *why) {
    fprintf(stderr, "udpload: %s\n", why);
    exit(2);
}

static struct sockaddr_in loopback(const char *text) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[INET_ADDRSTRLEN];
    int port;
    if (sscanf(text, "%15[0-9.]:%d", host, &port) != 2 || port < 1 || port > 65535 ||
        !inet_aton(host, &address.sin_addr))
        refuse("the target is ADDRESS:PORT");
    if (ntohl(address.sin_addr.s_addr) >> 24 != 127) refuse("the target must be in 127.0.0.0/8");
    address.sin_port = htons((uint16_t)port);
    return address;
}

static const struct option known[] = {
    {"target", 1, 0, 't'}, {"clients", 1, 0, 'c'},  {"size", 1, 0, 's'},    {"seconds", 1, 0, 'd'},
    {"inflight", 1, 0, 'i'}, {"burst", 1, 0, 'b'},  {"rate", 1, 0, 'r'},    {"count", 1, 0, 'n'},
    {"timeout", 1, 0, 'o'}, {"sync", 0, 0, 'y'},    {0, 0, 0, 0},
};

static void parse(int argc, char **argv) {
    for (int key; (key = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (key) {
        case 't': options.target = loopback(optarg); break;
        case 'c': options.clients = atoi(optarg); break;
        case 's': options.size = atoi(optarg); break;
        case 'd': options.seconds = atof(optarg); break;
        case 'i': options.inflight = atoi(optarg); break;
        case 'b': options.burst = atoi(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'n': options.count = atol(optarg); break;
        case 'o': options.timeout = atof(optarg); break;
        case 'y': options.sync = true; break;
        default: exit(2);
        }
    }
}

static void check(void) {
    if (!options.target.sin_port) refuse("--target is missing");
    if (options.size < SMALLEST || options.size > LARGEST) refuse("--size is 40 to 1472");
    if (options.clients < 1 || options.clients > 60000) refuse("--clients is 1 to 60000");
    if (options.burst < 1 || options.burst > BATCH) refuse("--burst is 1 to 64");
    if (options.inflight < options.burst) refuse("--inflight is at least --burst");
    if (options.seconds <= 0 || options.seconds > 60) refuse("--seconds is more than 0, at most 60");
    if (options.rate < 1 || options.rate > 1e6) refuse("--rate is 1 to 1000000");
    if (options.timeout <= 0 || options.timeout > 10) refuse("--timeout is more than 0, at most 10");
    if (options.count < 1 || options.count > 1000000) refuse("--count is 1 to 1000000");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    check();
    prctl(PR_SET_TIMERSLACK, SLACK_NS);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    run_id = now_ns();
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create1");
    const char *mode = optind == argc - 1 ? argv[optind] : "";
    if (!strcmp(mode, "closed")) closed_loop();
    else if (!strcmp(mode, "open")) open_loop();
    else if (!strcmp(mode, "churn")) churn();
    else refuse("the mode is closed, open or churn");
    return 0;
}
