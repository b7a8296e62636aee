// Which server of a group a new session gets (SPEC 10); session/balance.py says the same in Python.
//
// `client` and `client-port` are a weighted rendezvous: each server draws a number by a hash of the
// client and of itself, and the lowest one has it. So a client always meets the same server, and
// one that comes or goes moves its own share alone.
#include "balance.h"

#include <math.h>

#include "address.h"
#include "siphash.h"

// Not one session more for it; or only while none is up.
enum { DOWN = 1, DRAINED = 2 };

static struct member *member_of(struct relay *relay, uint32_t number)
{
    return relay->members + (number < MOST_MEMBERS ? number : 0);
}

static int state_of(struct relay *relay, const struct candidate *one)
{
    return __atomic_load_n(&member_of(relay, one->member)->state, __ATOMIC_RELAXED);
}

// ---- which one ----

// Exponentially distributed, by its weight.
static double draw(const struct relay *relay, const struct candidate *one, uint64_t *words,
                   unsigned count)
{
    const uint64_t key[2] = {relay->header[BALANCE], relay->header[BALANCE + 1]};
    words[count] = one->identity;
    double drawn = ((double)(siphash(key, words, count + 1) >> 11) + 0.5) / 9007199254740992.0;
    return -log(drawn) / one->weight;
}

static double load_of(struct relay *relay, const struct candidate *one)
{
    uint32_t sessions = __atomic_load_n(&member_of(relay, one->member)->sessions, __ATOMIC_RELAXED);
    return (double)sessions / one->weight;
}

// A server that is down may have the next session, to show whether it lives.
static const struct candidate *take_trial(struct relay *relay, const struct verdict *verdict)
{
    for (unsigned i = 0; i < verdict->candidate_count; i++) {
        const struct candidate *one = verdict->candidates + i;
        struct member *member = member_of(relay, one->member);
        if (!__atomic_load_n(&member->trial, __ATOMIC_RELAXED) || state_of(relay, one) & DRAINED)
            continue;
        if (__atomic_exchange_n(&member->trial, 0, __ATOMIC_RELAXED))
            return one;
    }
    return NULL;
}

// Those that are up; else standby ones that are; else all but the drained.
static unsigned usable(struct relay *relay, const struct verdict *verdict,
                       const struct candidate **found)
{
    for (int pass = 0; pass < 3; pass++) {
        unsigned count = 0;
        for (unsigned i = 0; i < verdict->candidate_count; i++) {
            const struct candidate *one = verdict->candidates + i;
            int state = state_of(relay, one);
            if (state & DRAINED || (pass < 2 && (state || one->standby != (pass == 1))))
                continue;
            found[count++] = one;
        }
        if (count)
            return count;
    }
    return 0;
}

static const struct candidate *best(const struct relay *relay, const struct candidate **among,
                                    unsigned count, uint64_t *words, unsigned word_count,
                                    const struct candidate *but)
{
    const struct candidate *found = NULL;
    double lowest = 0;
    for (unsigned i = 0; i < count; i++) {
        if (among[i] == but)
            continue;
        double drawn = draw(relay, among[i], words, word_count);
        if (!found || drawn < lowest) {
            found = among[i];
            lowest = drawn;
        }
    }
    return found;
}

// Of those that have the fewest sessions for their weight.
static unsigned least(struct relay *relay, const struct candidate **among, unsigned count)
{
    double lowest = load_of(relay, among[0]);
    unsigned kept = 0;
    for (unsigned i = 1; i < count; i++)
        lowest = fmin(lowest, load_of(relay, among[i]));
    for (unsigned i = 0; i < count; i++)
        if (load_of(relay, among[i]) <= lowest)
            among[kept++] = among[i];
    return kept ? kept : 1;
}

// NULL: all are drained.
const struct candidate *choose_server(struct relay *relay, const struct verdict *verdict,
                                      const union address *client, uint64_t id)
{
    const struct candidate *among[MOST_CANDIDATES], *one = take_trial(relay, verdict);
    uint64_t words[3] = {0};
    if (one)
        return one;
    unsigned count = usable(relay, verdict, among);
    if (!count)
        return NULL;
    if (verdict->balance == TWO_CHOICES) {
        words[0] = id;
        one = best(relay, among, count, words, 1, NULL);
        const struct candidate *other = best(relay, among, count, words, 1, one);
        return other && load_of(relay, other) < load_of(relay, one) ? other : one;
    }
    if (verdict->balance == LEAST_SESSIONS) {
        // Of equal ones in turn, as far as chance goes: the same client may have many sessions.
        words[0] = id;
        return best(relay, among, least(relay, among, count), words, 1, NULL);
    }
    // IPv6 clients count by their network.
    memcpy(words, packed_of(client), is_v6(client) ? 8 : 4);
    words[1] = port_of(client);
    return best(relay, among, count, words, verdict->balance == BY_CLIENT ? 1 : 2, NULL);
}

// ---- how they do ----

// The session is its from now on; 0: nobody's.
void join_member(struct relay *relay, struct record *record, uint32_t number)
{
    if (record->member != number) {
        begin_change(record);
        record->member = number;
        end_change(record);
    }
    if (number)
        __atomic_add_fetch(&member_of(relay, number)->sessions, 1, __ATOMIC_RELAXED);
}

void leave_member(struct relay *relay, const struct record *record)
{
    if (record->member)
        __atomic_sub_fetch(&member_of(relay, record->member)->sessions, 1, __ATOMIC_RELAXED);
}

// A session's first one, or the first since ICMP errors came.
void note_answer(struct relay *relay, const struct record *record)
{
    struct member *member = member_of(relay, record->member);
    if (!record->member)
        return;
    __atomic_store_n(&member->errors, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&member->unanswered, 0, __ATOMIC_RELAXED);
    __atomic_add_fetch(&member->answered, 1, __ATOMIC_RELAXED);
}

void note_error(struct relay *relay, const struct record *record)
{
    if (record->member)
        __atomic_add_fetch(&member_of(relay, record->member)->errors, 1, __ATOMIC_RELAXED);
}

void note_unanswered(struct relay *relay, const struct record *record)
{
    if (record->member)
        __atomic_add_fetch(&member_of(relay, record->member)->unanswered, 1, __ATOMIC_RELAXED);
}

// `trial`: the next session is one for it.
void relay_member_state(struct relay *relay, uint32_t number, int state, int trial)
{
    struct member *member = member_of(relay, number);
    __atomic_store_n(&member->state, (uint8_t)state, __ATOMIC_RELAXED);
    __atomic_store_n(&member->trial, (uint8_t)trial, __ATOMIC_RELAXED);
}

void relay_member_figures(struct relay *relay, uint32_t number, struct member *figures)
{
    const struct member *member = member_of(relay, number);
    figures->state = __atomic_load_n(&member->state, __ATOMIC_RELAXED);
    figures->trial = __atomic_load_n(&member->trial, __ATOMIC_RELAXED);
    figures->sessions = __atomic_load_n(&member->sessions, __ATOMIC_RELAXED);
    figures->errors = __atomic_load_n(&member->errors, __ATOMIC_RELAXED);
    figures->unanswered = __atomic_load_n(&member->unanswered, __ATOMIC_RELAXED);
    figures->answered = __atomic_load_n(&member->answered, __ATOMIC_RELAXED);
}
