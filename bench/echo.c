// echo: the server behind the proxies. Sends every datagram back to where it came from.
// Usage: echo PORT (on 127.0.0.1). Batches of 64; lives until it is killed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BATCH = 64, BUFFER = 65536, SOCKET_BUFFER = 4 << 20 };

static char buffers[BATCH][BUFFER];
static struct iovec parts[BATCH];
static struct sockaddr_in sources[BATCH];
static struct mmsghdr messages[BATCH];

static _Noreturn void die(const char *what) {
    perror(what);
    exit(1);
}

static int open_server(int port) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = SOCKET_BUFFER;
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&own, sizeof own)) die("bind");
    return fd;
}

static void answer(int fd, int count) {
    for (int at = 0; at < count; at++) parts[at].iov_len = messages[at].msg_len;
    for (int done = 0; done < count;) {
        int sent = sendmmsg(fd, messages + done, (unsigned)(count - done), 0);
        if (sent > 0) done += sent;
        // A client that is gone costs its own datagram only.
        else if (errno != EINTR) done++;
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    int fd = open_server(atoi(argv[1]));
    for (;;) {
        for (int at = 0; at < BATCH; at++) {
            parts[at] = (struct iovec){buffers[at], BUFFER};
            messages[at].msg_hdr = (struct msghdr){.msg_name = &sources[at],
                                                   .msg_namelen = sizeof sources[at],
                                                   .msg_iov = &parts[at],
                                                   .msg_iovlen = 1};
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (count > 0) answer(fd, count);
        else if (count < 0 && errno != EINTR && errno != ECONNREFUSED) die("recvmmsg");
    }
}
