// What the host decides: verdicts, answers to questions, and what becomes of datagrams that wait.
#include "answers.h"

#include "state.h"
#include "address.h"
#include "worker.h"
#include "book.h"
#include "decisions.h"
#include "upload.h"
#include "held.h"
#include "first.h"

// ---- verdicts: made for Python, which fills them in; used by decisions and sessions ----

void free_verdict(struct verdict *verdict)
{
    if (verdict)
        free(verdict->candidates);
    free(verdict);
}

// NULL without memory. So many candidates are to be filled in as well.
struct verdict *relay_verdict(struct relay *relay, uint32_t candidates)
{
    struct verdict *verdict = calloc(1, sizeof *verdict);
    if (!verdict)
        return NULL;
    verdict->candidates = candidates ? calloc(candidates, sizeof *verdict->candidates) : NULL;
    verdict->candidate_count = (uint8_t)candidates;
    if (candidates && !verdict->candidates) {
        free(verdict);
        return NULL;
    }
    for (uint32_t i = relay->no_gap_before; i < relay->verdict_count; i++)
        if (!relay->verdicts[i]) {
            relay->no_gap_before = i + 1;
            verdict->number = i;
            return relay->verdicts[i] = verdict;
        }
    struct verdict **more =
        realloc(relay->verdicts, (relay->verdict_count + 1) * sizeof *relay->verdicts);
    if (!more) {
        free_verdict(verdict);
        return NULL;
    }
    relay->verdicts = more;
    relay->no_gap_before = relay->verdict_count + 1;
    verdict->number = relay->verdict_count++;
    return relay->verdicts[verdict->number] = verdict;
}

// The socket that copies for its `at`-th receiver leave from, from now on; -1: none.
void relay_copy_by(struct verdict *verdict, uint32_t at, int fd)
{
    __atomic_store_n(&verdict->mirrors[at].fd, fd, __ATOMIC_RELAXED);
}

// Frees those that nobody uses any more; their numbers, at most so many.
uint32_t relay_sweep(struct relay *relay, uint32_t *numbers, uint32_t most)
{
    uint32_t count = 0;
    pthread_mutex_lock(&relay->book);
    for (uint32_t i = 0; i < relay->verdict_count && count < most; i++)
        if (relay->verdicts[i] && !relay->verdicts[i]->uses) {
            free_verdict(relay->verdicts[i]);
            relay->verdicts[i] = NULL;
            if (i < relay->no_gap_before)
                relay->no_gap_before = i;
            numbers[count++] = i;
        }
    pthread_mutex_unlock(&relay->book);
    return count;
}

// ---- decisions ----

// `until` 0: for one session only. `verdict` NULL: refused.
void relay_answer(struct relay *relay, const struct question *question, struct verdict *verdict,
                  unsigned bits, uint64_t until)
{
    uint8_t wide[16], to[16];
    if (until <= clock_now())
        until = 0; // over already: who asked has it all the same
    pthread_mutex_lock(&relay->book);
    widen(wide, packed_of(&question->client), packed_size(&question->client));
    widen(to, question->addressed, question->addressed_size);
    struct decision *asked = find_question(relay, question);
    if (asked)
        drop_decision(relay, asked);
    if (packed_size(&question->client) == 4)
        bits += 96;
    unsigned leading = until && bits < 128 ? bits : 128;
    struct decision *one =
        add_decision(relay, question->listener, wide, to, question->port, leading);
    if (one) {
        one->verdict = verdict;
        one->until = until;
        one->once = !until;
        if (verdict)
            verdict->uses++;
    }
    __atomic_add_fetch(&relay->answers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&relay->book);
    for (uint32_t i = 0; i < relay->worker_count; i++)
        ring_if_held(relay->workers + i);
}

void relay_forget(struct relay *relay)
{
    pthread_mutex_lock(&relay->book);
    forget_decisions(relay, false);
    pthread_mutex_unlock(&relay->book);
}

// ---- what waits ----

static bool is_asked(const struct held *held, const struct question *question)
{
    unsigned size = packed_size(&question->client);
    return held->listener->number == question->listener && packed_size(&held->client) == size &&
           memcmp(packed_of(&held->client), packed_of(&question->client), size) == 0 &&
           held->way.port == question->port &&
           memcmp(held->way.addressed, question->addressed, size) == 0;
}

// The question has no answer so far: what waits for it, for the caller to free, in order.
struct held *relay_pull(struct relay *relay, const struct question *question)
{
    struct held *pulled = NULL, **end = &pulled;
    pthread_mutex_lock(&relay->book);
    struct decision *asked = find_question(relay, question);
    if (asked)
        drop_decision(relay, asked);
    pthread_mutex_unlock(&relay->book);
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct worker *worker = relay->workers + i;
        lock_worker(worker);
        for (struct held **link = &worker->held, *held; (held = *link);) {
            if (!is_asked(held, question)) {
                link = &held->next;
                continue;
            }
            unlink_held(worker, link);
            held->next = NULL;
            release_listener(held->listener);
            held->listener = NULL;
            *end = held;
            end = &held->next;
        }
        unlock_worker(worker);
    }
    return pulled;
}

// As if it came now.
void relay_inject(struct relay *relay, uint32_t number, const union address *client,
                  const struct way *way, const void *data, uint32_t size)
{
    struct listener *listener = listener_of(relay, number);
    if (!listener)
        return;
    struct arrival arrival = arrival_by(listener, client, way);
    struct worker *worker = relay->workers + worker_of(relay, listener, sender_of(&arrival));
    arrival.injected = true;
    arrival.hash = hash_arrival(relay, &arrival);
    lock_worker(worker);
    worker->now = clock_now();
    struct session *session = find_session(worker, &arrival);
    if (!session || !upload(worker, session, &arrival, data, size))
        take_first(worker, &arrival, data, size, NULL);
    unlock_worker(worker);
}

// What waits for decisions that have come, for the last time.
void relay_retry(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        lock_worker(relay->workers + i);
        relay->workers[i].now = clock_now();
        retry_held(relay->workers + i);
        unlock_worker(relay->workers + i);
    }
}
