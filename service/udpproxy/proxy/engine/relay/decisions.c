// What the host has decided about first datagrams, so that it is asked once for a whole block of
// clients: (listener, the leading bits of the client's address, the address and port it wrote to).
//
// The blocks of one configuration do not overlap, so the first that fits is the right one. A
// decision that does not last is used up by one session. All of it with the book locked.
#include "decisions.h"

#include "siphash.h"
#include "address.h"
#include "worker.h"

static struct decision **bucket_of(struct relay *relay, uint32_t listener, const uint8_t client[16],
                                   const uint8_t addressed[16], uint16_t port, unsigned bits)
{
    uint64_t words[5];
    memcpy(words, client, 16);
    memcpy(words + 2, addressed, 16);
    words[4] = listener | (uint64_t)bits << 32 | (uint64_t)port << 48;
    return relay->decisions + (siphash(relay->key, words, 5) & (DECISION_BUCKETS - 1));
}

static struct decision *look_up(struct relay *relay, uint32_t listener, const uint8_t client[16],
                                const uint8_t addressed[16], uint16_t port, unsigned bits)
{
    struct decision *one = *bucket_of(relay, listener, client, addressed, port, bits);
    while (one && (one->listener != listener || one->bits != bits || one->port != port ||
                   memcmp(one->client, client, 16) || memcmp(one->addressed, addressed, 16)))
        one = one->next;
    return one;
}

struct decision *find_decision(struct relay *relay, const struct arrival *arrival, uint64_t now)
{
    const union address *client = arrival->client;
    uint32_t listener = arrival->listener->number;
    uint8_t wide[16], to[16];
    widen(wide, packed_of(client), packed_size(client));
    widen(to, arrival->addressed, packed_size(client));
    for (int bits = LENGTHS - 1; bits >= 0; bits--) {
        if (!relay->lengths[bits])
            continue;
        mask_bits(wide, (unsigned)bits);
        struct decision *found = look_up(relay, listener, wide, to, arrival->port, (unsigned)bits);
        if (found && !found->asked && !found->once && found->until <= now) {
            drop_decision(relay, found);
            found = NULL;
        }
        if (found)
            return found;
    }
    return NULL;
}

struct decision *add_decision(struct relay *relay, uint32_t listener, uint8_t client[16],
                              const uint8_t addressed[16], uint16_t port, unsigned bits)
{
    mask_bits(client, bits);
    struct decision *one = look_up(relay, listener, client, addressed, port, bits);
    if (one)
        drop_decision(relay, one);
    if (relay->decision_count >= MOST_DECISIONS)
        forget_decisions(relay, false);
    one = calloc(1, sizeof *one);
    if (!one)
        return NULL;
    struct decision **bucket = bucket_of(relay, listener, client, addressed, port, bits);
    one->listener = listener;
    one->port = port;
    one->bits = (uint8_t)bits;
    memcpy(one->client, client, 16);
    memcpy(one->addressed, addressed, 16);
    one->next = *bucket;
    *bucket = one;
    relay->decision_count++;
    relay->lengths[bits]++;
    return one;
}

// The host is asked; meanwhile the client's datagrams wait. False: too much waits already.
bool ask_host(struct relay *relay, const struct arrival *arrival)
{
    const union address *client = arrival->client;
    const struct listener *listener = arrival->listener;
    const uint8_t *addressed = arrival->addressed;
    uint8_t wide[16], to[16];
    if (relay->decision_count >= MOST_DECISIONS)
        forget_decisions(relay, false);
    struct question *question =
        relay->decision_count < MOST_DECISIONS ? calloc(1, sizeof *question) : NULL;
    if (!question)
        return false;
    widen(wide, packed_of(client), packed_size(client));
    widen(to, addressed, packed_size(client));
    struct decision *one = add_decision(relay, listener->number, wide, to, arrival->port, 128);
    if (!one) {
        free(question);
        return false;
    }
    one->asked = true;
    question->client = *client;
    question->listener = listener->number;
    question->port = arrival->port;
    question->addressed_size = (uint8_t)packed_size(client);
    memcpy(question->addressed, addressed, packed_size(client));
    if (arrival->injected) {
        // Whoever has just put it back waits for the answer, and its client has waited for long.
        question->next = relay->questions;
        relay->questions = question;
        if (!question->next)
            relay->questions_end = &question->next;
    } else {
        *relay->questions_end = question;
        relay->questions_end = &question->next;
    }
    note_news(relay);
    return true;
}

void drop_decision(struct relay *relay, struct decision *decision)
{
    struct decision **link =
        bucket_of(relay, decision->listener, decision->client, decision->addressed,
                  decision->port, decision->bits);
    while (*link != decision)
        link = &(*link)->next;
    *link = decision->next;
    relay->decision_count--;
    relay->lengths[decision->bits]--;
    if (decision->denied)
        decision->denied->decision = NULL;
    if (decision->verdict)
        decision->verdict->uses--;
    free(decision);
}

// Questions that wait for their answer stay, unless `everything` is to go.
void forget_decisions(struct relay *relay, bool everything)
{
    for (unsigned i = 0; i < DECISION_BUCKETS && relay->decision_count; i++)
        for (struct decision *one = relay->decisions[i], *next; one; one = next) {
            next = one->next;
            if (everything || !one->asked)
                drop_decision(relay, one);
        }
}

// Its questions have nobody left who could answer them.
void forget_listener(struct relay *relay, const struct listener *listener)
{
    for (unsigned i = 0; i < DECISION_BUCKETS && relay->decision_count; i++)
        for (struct decision *one = relay->decisions[i], *next; one; one = next) {
            next = one->next;
            if (one->listener == listener->number)
                drop_decision(relay, one);
        }
    relay->questions_end = &relay->questions;
    for (struct question *one; (one = *relay->questions_end);) {
        if (one->listener == listener->number) {
            *relay->questions_end = one->next;
            free(one);
        } else {
            relay->questions_end = &one->next;
        }
    }
}

struct decision *find_question(struct relay *relay, const struct question *question)
{
    uint8_t wide[16], to[16];
    widen(wide, packed_of(&question->client), packed_size(&question->client));
    widen(to, question->addressed, question->addressed_size);
    return look_up(relay, question->listener, wide, to, question->port, 128);
}
