// The relay with its thread, and what the host does in the one moment where it could be missed.
#include "harness.h"

#include <sys/epoll.h>

enum { SLOTS = 1, UNKNOWN = -2 };

static struct relay *relay;
static struct verdict *verdict; // the answer to all questions
static bool armed;
static int patience; // of the worker, after that moment

static bool is_readable(int fd, int milliseconds)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    return poll(&ready, 1, milliseconds) == 1;
}

static void hear(void)
{
    const struct portion most = {.events = 64, .questions = 64, .ended = SLOTS};
    struct news news;
    uint32_t slots[SLOTS];
    relay_news(relay, &news, slots, &most);
    check(news.questions || news.ended, "nothing waits for the host");
    for (const struct question *one = news.questions; one; one = one->next)
        relay_answer(relay, one, verdict, 0, clock_now() + 1000 * (uint64_t)SECOND);
    relay_free_ended(relay, slots, news.ended);
    relay_free_news(relay, &news);
}

// A datagram is about to be held: what it waits for is known to the host, and it is not yet known
// to wait.
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    if (size == sizeof(struct held) + 1 && __atomic_exchange_n(&armed, false, __ATOMIC_ACQ_REL)) {
        hear();
        check(!is_readable(relay->workers->bell, 0), "it is known to wait");
        __atomic_store_n(&patience, UNKNOWN, __ATOMIC_RELEASE);
    }
    return __real_calloc(count, size);
}

int __real_epoll_wait(int fd, struct epoll_event *events, int most, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int most, int timeout)
{
    int unknown = UNKNOWN;
    __atomic_compare_exchange_n(&patience, &unknown, timeout, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    return __real_epoll_wait(fd, events, most, timeout);
}

static void does_not_oversleep(const union address *listening, int server)
{
    int client = udp();
    char data[8];
    bind_to(client, 0);
    __atomic_store_n(&armed, true, __ATOMIC_RELEASE);
    sendto(client, "x", 1, 0, &listening->any, sizeof listening->v4);
    check(is_readable(server, 10000), "it was never looked at again");
    check(recv(server, data, sizeof data, 0) == 1, "it is another one");
    check(!armed, "it was not held");
    check(!__atomic_load_n(&patience, __ATOMIC_ACQUIRE), "the worker slept meanwhile");
    close(client);
}

int main(void)
{
    int server = udp(), listener = udp();
    union address where = bind_to(server, 0), listening = bind_to(listener, 0);
    relay = make_relay(SLOTS, SLOTS, 1);
    verdict = make_verdict(relay, &where);
    check(!relay_listen(relay, 1, &listener, 0, &listening, NULL), "cannot listen");
    check(!relay_start(relay), "no thread");
    does_not_oversleep(&listening, server); // it waits for a decision
    check(relay_kill(relay, id_of(relay->sessions), KILLED), "no session");
    does_not_oversleep(&listening, server); // it waits for the slot
    relay_stop(relay);
    relay_free(relay);
    return 0;
}
