// A worker's loop.
#include "loop.h"

#include <sys/epoll.h>
#include <time.h>

#include "worker.h"
#include "book.h"
#include "events.h"
#include "replies.h"
#include "sessions.h"
#include "moves.h"
#include "held.h"
#include "first.h"
#include "servers.h"
#include "clients.h"

enum { EVENTS = 256, AHEAD = 8, MOST_EXPIRED = 64, LONGEST = 1000 };
enum { LOOKS = 8 }; // for each that may expire
enum { OVERSLEPT = 500 };

// Its server does not answer. An answer may have come while nobody looked: it is here, or there is
// none. The first time the session is connected afresh, for it may be the way; then it ends.
static void end_patience(struct worker *worker, struct session *session, uint64_t now)
{
    int problem = 0;
    read_all(worker, session);
    if (life_of(session) != LIVE)
        return;
    struct record *record = session->record;
    if (record->asked & TRIED) {
        close_session(worker, session, SILENT);
        return;
    }
    if (record->asked) {
        put(&record->asked, record->asked | TRIED);
        connect_afresh(worker, session, &problem);
        tell_server(worker, session, SERVER_SILENT, problem);
    }
    set_due(worker, session, now);
}

void expire_sessions(struct worker *worker, uint64_t now, int most)
{
    enum reason reason;
    int looks = most * LOOKS;
    for (struct session *session; most-- && (session = next_due(worker, now, &reason, &looks));)
        if (reason == SILENT)
            end_patience(worker, session, now);
        else
            close_session(worker, session, reason);
}

// What a session will need comes while those before it are served.
static void prefetch_session(const struct relay *relay, uint64_t data)
{
    uint32_t slot = (uint32_t)data;
    if (data >> 32 != SESSION)
        return;
    __builtin_prefetch(relay->sessions + slot);
    __builtin_prefetch(&relay->sessions[slot].worker);
    __builtin_prefetch(&relay->records[slot].last_download);
}

static void serve_session(struct worker *worker, uint32_t slot)
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

int take_turn(struct worker *worker, int patience)
{
    struct relay *relay = worker->relay;
    struct epoll_event events[EVENTS];
    uint64_t before = clock_now();
    int count = epoll_wait(worker->epoll, events, EVENTS, patience);
    doze(before, patience);
    lock_worker(worker);
    worker->now = clock_now();
    worker->turns++;
    if (has_answers(worker))
        retry_held(worker);
    for (int i = 0; i < count; i++) {
        uint64_t rung;
        uint32_t kind = (uint32_t)(events[i].data.u64 >> 32), at = (uint32_t)events[i].data.u64;
        if (i + AHEAD < count)
            prefetch_session(relay, events[i + AHEAD].data.u64);
        if (kind == SESSION)
            serve_session(worker, at);
        else if (kind == BELL)
            (void)!read(worker->bell, &rung, sizeof rung);
    }
    if (worker->out.count)
        send_replies(worker);
    worker->out.used = 0;
    for (int i = 0; i < count; i++) {
        uint32_t kind = (uint32_t)(events[i].data.u64 >> 32), at = (uint32_t)events[i].data.u64;
        if (kind == LISTENER && !relay->listeners[at]->gone)
            read_clients(worker, relay->listeners[at]);
    }
    expire_sessions(worker, worker->now, MOST_EXPIRED);
    unlock_worker(worker);
    ring_host(relay);
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

void *run_worker(void *argument)
{
    struct worker *worker = argument;
    while (!__atomic_load_n(&worker->relay->stop, __ATOMIC_ACQUIRE)) {
        lock_worker(worker);
        int patience = patience_of(worker);
        unlock_worker(worker);
        take_turn(worker, patience);
    }
    return NULL;
}
