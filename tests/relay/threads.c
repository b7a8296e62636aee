// The relay with its threads, as the host sees it, under load: listeners come and go, sessions
// open, are judged anew, evicted, killed and expire. Built by tools/sanitize --thread.
//
//     threads SECONDS
//
// Fails with what was wrong; the sanitizer says what else was.
#include "harness.h"

enum {
    WORKERS = 3,
    CAPACITY = 16384, // looked through whenever a listener goes, so that others have time
    SLOTS = 48,       // of which there are sockets, and thus sessions
    LISTENERS = 3,
    CLIENTS = 24,
    VERDICTS = 3, // the last one from the clients' ports
};

struct place {
    uint32_t number;
    int fds[WORKERS];
    union address bound;
};

static struct relay *relay;
static int late[CLIENTS];
static struct place places[LISTENERS];
static struct verdict *verdicts[VERDICTS];
static union address receiver;
static int mirror;
static union address server;
static int over;
static uint64_t removed, told, carried, found, replaced;

// ---- the network's part ----

static void *answer(void *argument)
{
    int fd = *(int *)argument;
    while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE)) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        union address from;
        socklen_t size = sizeof from;
        char data[64];
        poll(&ready, 1, 10);
        ssize_t length;
        while ((length = recvfrom(fd, data, sizeof data, 0, &from.any, &size)) >= 0)
            (void)!sendto(fd, data, (size_t)length, 0, &from.any, size);
    }
    return NULL;
}

// Each client writes to each listener, wherever that is just now; nobody waits for answers.
static void *send_all(void *argument)
{
    const union address *bound = argument;
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = udp();
        bind_to(fds[i], 0);
    }
    while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE))
        for (int i = 0; i < CLIENTS; i++)
            for (int at = 0; at < LISTENERS; at++) {
                char data[64] = "question";
                (void)!sendto(fds[i], data, 8, 0, &bound[at].any, sizeof bound[at].v4);
                while (recv(fds[i], data, sizeof data, 0) >= 0)
                    __atomic_add_fetch(&carried, 1, __ATOMIC_RELAXED);
            }
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    return NULL;
}

// ---- whoever else has the table ----

// As session/table.py reads a record. Plain words, for which the thread sanitizer is not to look:
// that they may be half-written is what the sequence number is for.
__attribute__((no_sanitize("thread"))) static bool read_record(const struct record *record,
                                                               struct record *copy)
{
    const volatile uint64_t *from = (const volatile uint64_t *)record;
    uint64_t *to = (uint64_t *)copy;
    uint64_t before = __atomic_load_n(&record->sequence, __ATOMIC_ACQUIRE);
    for (size_t i = 0; i < RECORD_SIZE / sizeof *to; i++)
        to[i] = from[i];
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return !(before & 1) && __atomic_load_n(&record->sequence, __ATOMIC_RELAXED) == before;
}

static void *read_all(void *argument)
{
    const struct record *records = argument;
    struct record copy;
    for (uint32_t slot = 0; !__atomic_load_n(&over, __ATOMIC_ACQUIRE); slot = (slot + 1) % SLOTS) {
        if (!read_record(records + slot, &copy) || copy.state == FREE)
            continue;
        check(copy.sum == sum_of(&copy), "a record that is whole by its number, and is not");
        found++;
    }
    return NULL;
}

// ---- the host's part ----

static struct verdict *decide(uint64_t moment)
{
    return verdicts[moment / 1000 % VERDICTS];
}

static void answer_questions(const struct question *one)
{
    for (; one; one = one->next) {
        uint64_t now = clock_now();
        relay_answer(relay, one, decide(now), 32, now % 3 ? now + SECOND / 100 : 0);
    }
}

// The sanitizer takes a socket that is connected anew for a new one. The kernel has its own locks.
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:^disconnect$\nrace:^associate$";
}

// As the parent does.
static void replace_spent(void)
{
    uint32_t slots[SLOTS];
    relay_look_for_spent(relay);
    uint32_t count = relay_take_spent(relay, slots, SLOTS);
    for (uint32_t i = 0; i < count; i++) {
        int old = socket_of(relay, false, slots[i]);
        check(relay_replace(relay, 4, slots[i], udp()), "a slot that is not spent");
        close(old);
    }
    if (count)
        relay_replaced(relay);
    replaced += count;
}

static bool hear(void)
{
    const struct portion most = {.events = 256, .questions = 64, .ended = 64};
    struct news news;
    uint32_t slots[64];
    relay_hush(relay);
    relay_news(relay, &news, slots, &most);
    bool any = news.events || news.questions || news.ended;
    if (news.spent)
        replace_spent();
    answer_questions(news.questions);
    for (const struct event *event = news.events; event; event = event->next)
        told++;
    relay_free_ended(relay, slots, news.ended);
    relay_free_news(relay, &news);
    return any;
}

static void listen_at(struct place *place)
{
    static uint32_t numbers;
    place->number = ++numbers;
    for (int i = 0; i < WORKERS; i++) {
        place->fds[i] = listening_socket();
        place->bound = bind_to(place->fds[i], i ? port_of(&place->bound) : 0);
    }
    check(!relay_listen(relay, place->number, place->fds, 0, &place->bound, NULL), "cannot listen");
}

// The same port again, so that its clients come to the next one.
static void change_listener(struct place *place)
{
    uint16_t port = port_of(&place->bound);
    uint32_t old = place->number;
    int next[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        next[i] = listening_socket();
    // They wake its workers, who come in when its sessions are being closed.
    for (int i = 0; i < CLIENTS; i++)
        (void)!sendto(late[i], "late", 4, 0, &place->bound.any, sizeof place->bound.v4);
    relay_unlisten(relay, old);
    relay_settle(relay);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        struct session *session = relay->sessions + slot;
        struct worker *worker = __atomic_load_n(&session->worker, __ATOMIC_ACQUIRE);
        if (!worker)
            continue;
        lock_worker(worker);
        check(!is_of(session, worker) || life_of(session) != LIVE ||
                  session->listener->number != old,
              "a session of a listener that is gone");
        unlock_worker(worker);
    }
    for (int i = 0; i < WORKERS; i++)
        close(place->fds[i]);
    place->number = old + LISTENERS;
    for (int i = 0; i < WORKERS; i++) {
        place->fds[i] = next[i];
        bind_to(next[i], port);
    }
    check(!relay_listen(relay, place->number, place->fds, 0, &place->bound, NULL), "cannot listen again");
    removed++;
}

// As a reload does with every session.
static void judge_anew(uint64_t moment)
{
    relay_forget(relay);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint64_t id = id_of(relay->sessions + slot);
        if (id % 5 == 0)
            relay_end(relay, id, slot, KILLED);
        else
            relay_judge_by(relay, id, slot, decide(moment));
    }
}

// What copies for the first receiver leave from; -1: nothing.
static void copy_from(int fd)
{
    uint16_t port = 9;
    relay_copy_from(relay, &port, 1);
    for (int i = 0; i < 2; i++) {
        relay_copy_by(verdicts[i], 0, fd);
        relay_copy_by(verdicts[i], 1, -1);
    }
}

static void make(void)
{
    relay = make_relay(CAPACITY, SLOTS, WORKERS);
    for (int i = 0; i < VERDICTS; i++) {
        struct verdict *verdict = verdicts[i] = make_verdict(relay, &server);
        verdict->budget.idle = SECOND / 50;
        verdict->budget.download_datagrams = i ? NEVER : 40;
        verdict->type = i ? NORMAL : ANY_PORT;
        // All clients have one address, and so one meter for each rule, whichever workers they have.
        verdict->rule = (uint64_t)i;
        verdict->budget.datagrams = (struct pace){50000, SECOND};
        verdict->budget.new_sessions = (struct pace){50000, SECOND};
        verdict->budget.amplification = 1;
        verdict->keeps_dscp = i == 0;
        verdict->tos = i ? 184 : 0;
        // A port that nobody has gets a copy, and what has none is told.
        verdict->mirror_count = 2;
        verdict->mirrors[0].to = verdict->mirrors[1].to = receiver;
    }
    mirror = udp();
    copy_from(mirror);
    verdicts[2]->source_count = 1;
    verdicts[2]->sources[0] = (struct source){4, {127, 0, 0, 5}};
    verdicts[2]->source_port = CLIENTS_PORT;
}

// Each meter knows how many sessions have it.
static void check_meters(void)
{
    const struct meters *meters = &relay->meters;
    for (uint32_t number = 1; number <= meters->made; number++) {
        uint32_t sessions = 0;
        for (uint32_t slot = 0; slot < SLOTS; slot++)
            sessions += meters->by_slot[slot] == number;
        check(meters->each[number - 1].sessions == sessions, "a meter has another number of sessions");
    }
    check(meters->made == VERDICTS, "not one meter for each rule");
}

static void serve_for(uint64_t seconds)
{
    uint64_t end = clock_now() + seconds * SECOND;
    for (uint64_t turns = 0, now; (now = clock_now()) < end; turns++) {
        struct pollfd ready = {.fd = relay_bell(relay), .events = POLLIN};
        poll(&ready, 1, 1);
        hear();
        if (turns % 2 == 0)
            change_listener(places + turns / 2 % LISTENERS);
        if (turns % 50 == 7)
            judge_anew(now);
        if (turns % 20 == 3)
            replace_spent();
        if (turns % 20 == 3)
            relay_expire(relay, now);
        if (turns % 100 == 4)
            relay_watch(relay, turns % 200 == 4);
        if (turns % 16 == 6)
            relay_tell_dscp(relay, places[turns / 16 % LISTENERS].number, turns % 32 == 6);
        if (turns % 30 == 8)
            copy_from(turns % 60 == 8 ? -1 : mirror);
        if (turns % 64 == 5)
            relay_kill(relay, id_of(relay->sessions + turns % SLOTS), KILLED);
    }
}

int main(int count, char **words)
{
    static union address bound[LISTENERS];
    pthread_t echo, sender, reader;
    int server_socket = udp();
    check(count == 2, "say for how many seconds");
    server = bind_to(server_socket, 0);
    make_address(&receiver, (const uint8_t[]){127, 0, 0, 1}, 4, 9, 0);
    make();
    for (int i = 0; i < CLIENTS; i++) {
        late[i] = udp();
        bind_to(late[i], 0);
    }
    for (int i = 0; i < LISTENERS; i++) {
        listen_at(places + i);
        bound[i] = places[i].bound;
    }
    check(!relay_start(relay), "no thread");
    check(!pthread_create(&echo, NULL, answer, &server_socket), "no thread");
    check(!pthread_create(&sender, NULL, send_all, bound), "no thread");
    check(!pthread_create(&reader, NULL, read_all, relay->records), "no thread");
    serve_for((uint64_t)atoi(words[1]));
    __atomic_store_n(&over, 1, __ATOMIC_RELEASE);
    pthread_join(sender, NULL);
    pthread_join(echo, NULL);
    pthread_join(reader, NULL);
    relay_stop(relay);
    while (hear())
        ;
    check_meters();
    check(relay->header[TOTALS_AT + MIRRORED] && relay->header[TOTALS_AT + MIRROR_ERRORS],
          "no copy was sent, or none was lost");
    check(removed > 20 && told > 20 && carried > 20 && found > 20 && replaced > 20, "too little came to pass");
    printf("%lu listeners removed, %lu sessions, %lu replies, %lu records read, %lu sockets replaced\n",
           removed, relay->header[TOTALS_AT + SESSIONS_OPENED], carried, found, replaced);
    relay_free(relay);
    return 0;
}
