// A worker's loop, and the ways into it from Python's thread.
#include "inside.h"

#include <signal.h>
#include <sys/epoll.h>
#include <time.h>

enum { EVENTS = 256, AHEAD = 8, MOST_EXPIRED = 64, MOST_ENDED = 256, LONGEST = 1000 };
enum { LOOKS = 8 }; // for each that may expire
enum { OVERSLEPT = 500 };
enum { WAKE, SESSION, LISTENER };

uint64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

// Two locks, so that a busy worker cannot keep Python's thread out for ever: whoever waits for
// `lock` holds `door`.
void enter(struct worker *worker)
{
    pthread_mutex_lock(&worker->door);
    pthread_mutex_lock(&worker->lock);
    pthread_mutex_unlock(&worker->door);
}

void leave(struct worker *worker)
{
    pthread_mutex_unlock(&worker->lock);
}

// The worker that has this session, live or ended, with its lock; NULL: it is not there any more.
struct worker *enter_session(struct session *session, uint64_t id)
{
    enum life life = life_of(session);
    struct worker *worker = __atomic_load_n(&session->worker, __ATOMIC_ACQUIRE);
    if ((life != LIVE && life != ENDED) || !worker)
        return NULL;
    enter(worker);
    life = life_of(session);
    if ((life == LIVE || life == ENDED) && id_of(session) == id && is_of(session, worker))
        return worker;
    leave(worker);
    return NULL;
}

static void expire(struct worker *worker, uint64_t now, int most)
{
    enum reason reason;
    int looks = most * LOOKS;
    for (struct session *session; most-- && (session = next_due(worker, now, &reason, &looks));)
        close_session(worker, session, reason);
}

// Python's thread hears of what there is to tell.
void say(struct relay *relay)
{
    if (!__atomic_load_n(&relay->notify, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&relay->book);
    notify(relay);
    pthread_mutex_unlock(&relay->book);
}

// What a session will need comes while those before it are served.
static void look_ahead(const struct relay *relay, uint64_t data)
{
    uint32_t slot = (uint32_t)data;
    if (data >> 32 != SESSION)
        return;
    __builtin_prefetch(relay->sessions + slot);
    __builtin_prefetch(&relay->sessions[slot].worker);
    __builtin_prefetch(&relay->records[slot].last_download);
}

static void serve(struct worker *worker, uint32_t slot)
{
    struct session *session = worker->relay->sessions + slot;
    if (life_of(session) == LIVE && is_of(session, worker))
        read_server(worker, session);
    else if (life_of(session) == ENDED && is_of(session, worker))
        unpoll_ended(worker, session);
}

// After far more time than was asked for this process was stopped. If a watchdog woke it with
// SIGABRT and SIGCONT, another thread is about to die of that, and so would all that we read.
static void doze(uint64_t before, int patience)
{
    struct timespec moment = {.tv_nsec = 50000000};
    if (clock_now() - before > (uint64_t)(patience + OVERSLEPT) * 1000000)
        nanosleep(&moment, NULL);
}

static int turn(struct worker *worker, int patience)
{
    struct relay *relay = worker->relay;
    struct epoll_event events[EVENTS];
    uint64_t before = clock_now();
    int count = epoll_wait(worker->epoll, events, EVENTS, patience);
    doze(before, patience);
    enter(worker);
    worker->now = clock_now();
    worker->turn++;
    if (has_answers(worker))
        retry_held(worker);
    for (int i = 0; i < count; i++) {
        uint64_t rung;
        uint32_t kind = (uint32_t)(events[i].data.u64 >> 32), at = (uint32_t)events[i].data.u64;
        if (i + AHEAD < count)
            look_ahead(relay, events[i + AHEAD].data.u64);
        if (kind == SESSION)
            serve(worker, at);
        else if (kind == WAKE)
            (void)!read(worker->wake, &rung, sizeof rung);
    }
    if (worker->out.count)
        flush(worker);
    worker->out.used = 0;
    for (int i = 0; i < count; i++) {
        uint32_t kind = (uint32_t)(events[i].data.u64 >> 32), at = (uint32_t)events[i].data.u64;
        if (kind == LISTENER && !relay->listeners[at]->gone)
            read_clients(worker, relay->listeners[at]);
    }
    expire(worker, worker->now, MOST_EXPIRED);
    leave(worker);
    say(relay);
    return count;
}

static int patience_of(const struct worker *worker)
{
    uint64_t due = first_due(worker);
    // The answer came before it waited, and so woke nobody.
    if (has_answers(worker))
        return 0;
    if (due >= NEVER)
        return LONGEST;
    uint64_t now = clock_now();
    if (due <= now)
        return 0;
    uint64_t left = (due - now) / 1000000 + 1;
    return left < LONGEST ? (int)left : LONGEST;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    while (!__atomic_load_n(&worker->relay->stop, __ATOMIC_ACQUIRE)) {
        enter(worker);
        int patience = patience_of(worker);
        leave(worker);
        turn(worker, patience);
    }
    return NULL;
}

static void rouse(struct worker *worker)
{
    uint64_t one = 1;
    (void)!write(worker->wake, &one, sizeof one);
}

// An errno; 0: every worker has its thread, which no signal disturbs.
int relay_start(struct relay *relay)
{
    sigset_t all, before;
    int problem = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 0; i < relay->worker_count && !problem; i++) {
        struct worker *worker = relay->workers + i;
        problem = worker->running ? 0 : pthread_create(&worker->thread, NULL, work, worker);
        worker->running = !problem;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return problem;
}

void relay_stop(struct relay *relay)
{
    __atomic_store_n(&relay->stop, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        if (!worker->running)
            continue;
        rouse(worker);
        pthread_join(worker->thread, NULL);
        worker->running = false;
    }
}

// Without threads: Python's own calls relay_turn when relay_poller is readable.
void relay_inline(struct relay *relay, seen callback, void *context)
{
    relay->seen = callback;
    relay->context = context;
}

int relay_turn(struct relay *relay, uint32_t number)
{
    return turn(relay->workers + number, 0);
}

int relay_poller(struct relay *relay, uint32_t number)
{
    return relay->workers[number].epoll;
}

// What is due at `now`; when something will be due next.
uint64_t relay_work(struct relay *relay, uint64_t now)
{
    uint64_t next = NEVER;
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        enter(worker);
        worker->now = clock_now();
        expire(worker, now, MOST_ENDED);
        uint64_t due = first_due(worker);
        next = due < next ? due : next;
        leave(worker);
    }
    say(relay);
    return next;
}

uint32_t relay_sessions(struct relay *relay)
{
    return __atomic_load_n(&relay->live, __ATOMIC_RELAXED);
}

// 0: it is not there any more.
int relay_end(struct relay *relay, uint64_t id, uint32_t slot, enum reason reason)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = enter_session(session, id);
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE;
    if (found)
        close_session(worker, session, reason);
    leave(worker);
    say(relay);
    return found;
}

// 0: there is none of that number.
int relay_kill(struct relay *relay, uint64_t id, enum reason reason)
{
    for (uint32_t slot = 0; slot < relay->capacity; slot++) {
        const struct session *session = relay->sessions + slot;
        if (life_of(session) == LIVE && id_of(session) == id)
            return relay_end(relay, id, slot, reason);
    }
    return 0;
}

// What waits for decisions that have come, for the last time.
void relay_retry(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        enter(relay->workers + i);
        relay->workers[i].now = clock_now();
        retry_held(relay->workers + i);
        leave(relay->workers + i);
    }
}

// When it returns, whatever a worker was at is done.
void relay_settle(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        enter(relay->workers + i);
        leave(relay->workers + i);
    }
}

// The record of a live session while nobody writes it; 0: there is none in that slot.
int relay_copy(struct relay *relay, uint32_t slot, uint64_t *id, void *record)
{
    struct session *session = relay->sessions + slot;
    if (life_of(session) != LIVE)
        return 0;
    *id = id_of(session);
    struct worker *worker = enter_session(session, *id);
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE;
    if (found)
        memcpy(record, session->record, RECORD_SIZE);
    leave(worker);
    return found;
}

// The rules that hold from now on; 0: the session has ended meanwhile.
int relay_judge_by(struct relay *relay, uint64_t id, uint32_t slot, struct verdict *verdict)
{
    struct session *session = relay->sessions + slot;
    struct worker *worker = enter_session(session, id);
    if (!worker)
        return 0;
    bool found = life_of(session) == LIVE;
    if (found) {
        pthread_mutex_lock(&relay->book);
        session->verdict->uses--;
        verdict->uses++;
        pthread_mutex_unlock(&relay->book);
        session->verdict = verdict;
        begin_change(session->record);
        session->record->acl = verdict->acl;
        session->record->generation = verdict->generation;
        end_change(session->record);
        be_careful(relay, session);
        plan(worker, session);
        rouse(worker);
    }
    leave(worker);
    return found;
}

void relay_watch(struct relay *relay, int on)
{
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        enter(worker);
        __atomic_store_n(&relay->watched, on, __ATOMIC_RELAXED);
        for (uint32_t slot = 0; slot < relay->capacity; slot++) {
            struct session *session = relay->sessions + slot;
            if (life_of(session) == LIVE && is_of(session, worker))
                be_careful(relay, session);
        }
        leave(worker);
    }
}

void relay_tell(struct relay *relay, int openings)
{
    pthread_mutex_lock(&relay->book);
    relay->openings = openings;
    pthread_mutex_unlock(&relay->book);
}

// Whether each session's first reply is told.
void relay_await(struct relay *relay, int answers)
{
    __atomic_store_n(&relay->awaiting, answers, __ATOMIC_RELAXED);
}
