// Making and unmaking a relay.
#include "relay.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "state.h"
#include "tally.h"
#include "worker.h"
#include "book.h"
#include "meters.h"
#include "decisions.h"
#include "held.h"
#include "news.h"
#include "running.h"

static void *map_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static uint32_t power_of_two(uint32_t least)
{
    uint32_t size = 64;
    while (size < least)
        size *= 2;
    return size;
}

// In a process with threads each growth of the descriptor table waits for everybody to have left
// the old one (RCU): 10 ms without a datagram. So it grows once, before there are threads.
void relay_spare_descriptors(uint32_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || !limit.rlim_cur)
        return;
    rlim_t most = limit.rlim_cur - 1 < wanted ? limit.rlim_cur - 1 : wanted;
    int somebody = epoll_create1(EPOLL_CLOEXEC);
    int high = fcntl(somebody, F_DUPFD_CLOEXEC, (int)most);
    if (high >= 0)
        close(high);
    if (somebody >= 0)
        close(somebody);
}

static bool make_worker(struct relay *relay, uint32_t number)
{
    struct worker *worker = relay->workers + number;
    uint32_t cells = power_of_two(2 * relay->capacity);
    worker->relay = relay;
    worker->number = number;
    worker->oldest = worker->youngest = NOBODY;
    worker->held_end = &worker->held;
    worker->mask = cells - 1;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_mutex_init(&worker->door, NULL);
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    worker->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    worker->cells = calloc(cells, sizeof *worker->cells);
    worker->due = calloc(relay->capacity, sizeof *worker->due);
    worker->in.buffers = map_memory((size_t)BATCH * STRIDE);
    worker->out.buffers = map_memory((size_t)BATCH * STRIDE);
    if (worker->epoll < 0 || worker->bell < 0 || !worker->cells || !worker->due ||
        !worker->in.buffers || !worker->out.buffers)
        return false;
    for (uint32_t i = 0; i < BATCH; i++) {
        struct msghdr *message = &worker->in.messages[i].msg_hdr;
        worker->in.iov[i] = (struct iovec){worker->in.buffers + (size_t)i * STRIDE, LARGEST};
        message->msg_iov = worker->in.iov + i;
        message->msg_iovlen = 1;
        message->msg_name = worker->in.clients + i;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = polled_as(BELL, 0)};
    return epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->bell, &event) == 0;
}

// By slot, and as large as they can become: memory that nobody has touched is none.
static bool make_shared(struct relay *relay)
{
    uint32_t capacity = relay->capacity;
    relay->sessions = map_memory(capacity * sizeof *relay->sessions);
    relay->free = calloc(capacity, sizeof *relay->free);
    relay->ports = calloc(65536, sizeof *relay->ports);
    relay->given_back = calloc(65536, sizeof *relay->given_back);
    relay->spent = calloc(capacity, sizeof *relay->spent);
    relay->claims_mask = power_of_two(2 * capacity) - 1;
    relay->claims = calloc((size_t)relay->claims_mask + 1, sizeof *relay->claims);
    relay->decisions = calloc(DECISION_BUCKETS, sizeof(struct decision *));
    relay->members = map_memory(MOST_MEMBERS * sizeof *relay->members);
    relay->workers = calloc(relay->worker_count, sizeof *relay->workers);
    for (uint32_t i = 0; relay->workers && i < relay->worker_count; i++)
        relay->workers[i].epoll = relay->workers[i].bell = -1;
    relay->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    bool tallied = make_tally(&relay->sources, capacity) && make_tally(&relay->ends, 2 * capacity) &&
                   (!relay->per_client || make_tally(&relay->clients, capacity)) &&
                   make_meters(&relay->meters, capacity);
    for (int family = 0; family < 2; family++)
        relay->sockets[family] = calloc(capacity, sizeof(int));
    return relay->sessions && relay->free && relay->spent && relay->claims && relay->ports && relay->given_back &&
           relay->decisions && relay->members && relay->workers && relay->bell >= 0 &&
           tallied && relay->sockets[0] && relay->sockets[1];
}

// It has no slot yet: see relay_extend.
struct relay *relay_new(void *table, uint32_t capacity, uint32_t workers, uint32_t per_client,
                        uint32_t prefix6, int evict)
{
    struct relay *relay = calloc(1, sizeof *relay);
    if (!relay)
        return NULL;
    relay->header = table;
    relay->records = (struct record *)((uint8_t *)table + HEADER_SIZE);
    relay->steering[0] = (uint32_t)relay->header[STEERING];
    relay->steering[1] = (uint32_t)(relay->header[STEERING] >> 32);
    relay->capacity = relay->most = capacity;
    relay->worker_count = workers;
    relay->per_client = per_client;
    relay->prefix6 = prefix6;
    relay->evict = evict;
    relay->openings = relay->segmentation = 1;
    relay->ended = NOBODY;
    relay->bell = -1;
    relay->events_end = &relay->events;
    relay->questions_end = &relay->questions;
    pthread_mutex_init(&relay->book, NULL);
    bool made = make_shared(relay) && getrandom(relay->key, sizeof relay->key, 0) > 0;
    for (uint32_t i = 0; made && i < workers; i++)
        made = make_worker(relay, i);
    if (!made) {
        int problem = errno;
        relay_free(relay);
        errno = problem;
        return NULL;
    }
    return relay;
}

static void free_worker(struct worker *worker)
{
    if (!worker->relay)
        return;
    drop_held(worker, NULL);
    free(worker->cells);
    free(worker->due);
    if (worker->in.buffers)
        munmap(worker->in.buffers, (size_t)BATCH * STRIDE);
    if (worker->out.buffers)
        munmap(worker->out.buffers, (size_t)BATCH * STRIDE);
    pthread_mutex_destroy(&worker->lock);
    pthread_mutex_destroy(&worker->door);
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

// Its own descriptors are closed: it carries nothing any more.
void relay_close(struct relay *relay)
{
    relay_stop(relay);
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        shut(&relay->workers[i].epoll);
        shut(&relay->workers[i].bell);
    }
    shut(&relay->bell);
}

// The sockets that it was lent are Python's to close.
void relay_free(struct relay *relay)
{
    const struct portion everything = {.events = UINT32_MAX, .questions = UINT32_MAX};
    struct news news;
    if (relay->workers)
        relay_close(relay);
    for (uint32_t i = 0; relay->workers && i < relay->worker_count; i++)
        free_worker(relay->workers + i);
    if (relay->decisions) {
        relay_news(relay, &news, NULL, &everything);
        relay_free_news(relay, &news);
        forget_decisions(relay, true);
    }
    for (uint32_t i = 0; i < relay->listener_count; i++)
        free_listener(relay->listeners[i]);
    for (uint32_t i = 0; i < relay->verdict_count; i++)
        free_verdict(relay->verdicts[i]);
    pthread_mutex_destroy(&relay->book);
    free(relay->listeners);
    free(relay->verdicts);
    free(relay->workers);
    free(relay->decisions);
    free(relay->clients.cells);
    free(relay->sources.cells);
    free(relay->ends.cells);
    free(relay->claims);
    free(relay->spent);
    free_meters(&relay->meters);
    free(relay->ports);
    free(relay->given_back);
    free(relay->free);
    if (relay->members)
        munmap(relay->members, MOST_MEMBERS * sizeof *relay->members);
    if (relay->sessions)
        munmap(relay->sessions, relay->capacity * sizeof *relay->sessions);
    free(relay->sockets[0]);
    free(relay->sockets[1]);
    free(relay);
}
