// What clients have used of their rates: how many are remembered, and that none makes another be
// forgotten.
#include "harness.h"

#include "relay/meters.h"

enum { SLOTS = 100, RESTING = 1 << 16, MOST = SLOTS + RESTING };

static const uint64_t HOUR = 3600 * (uint64_t)SECOND, NOW = 77 * (uint64_t)SECOND;

static struct relay *relay;
static struct verdict *verdict;

static union address numbered(uint32_t number)
{
    union address client;
    const uint8_t packed[4] = {10, (uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number};
    make_address(&client, packed, 4, 1000, 0);
    return client;
}

static bool opens(uint32_t number, uint64_t now)
{
    const union address client = numbered(number);
    return may_open(relay, &client, verdict, now) && pay_opening(relay, &client, verdict, now);
}

static void make(void)
{
    union address nowhere = {.any.sa_family = AF_INET};
    relay = make_relay(SLOTS, 0, 1);
    verdict = make_verdict(relay, &nowhere);
    verdict->budget.new_sessions = (struct pace){HOUR, HOUR};
    verdict->rule = 5;
}

static void a_flood_is_refused_and_forgets_nobody(void)
{
    uint32_t opened = 0;
    make();
    check(opens(0, NOW), "the first may not open");
    for (uint32_t number = 1; number < 3 * MOST; number++)
        opened += opens(number, NOW + number);
    check(opened == MOST - 1, "another number has opened");
    check(relay->meters.made == MOST, "another number is remembered");
    check(!opens(0, NOW + HOUR - 1), "a known client is forgotten");
    check(opens(0, NOW + HOUR), "it is remembered for too long");
    relay_free(relay);
}

static void those_that_say_nothing_make_room(void)
{
    make();
    for (uint32_t number = 0; number < MOST; number++)
        check(opens(number, NOW), "there is no room");
    check(!opens(MOST, NOW), "there is more room than there should be");
    for (uint32_t number = 0; number < 10 * MOST; number++)
        check(opens(MOST + number, NOW + HOUR + number * HOUR / 1000), "nothing makes room");
    check(relay->meters.made == MOST, "there are more than there may be");
    relay_free(relay);
}

// What is forgotten is looked up no more, what is not is found: chains of a table that is full.
static void nobody_gets_anothers(void)
{
    make();
    for (uint32_t number = 0; number < MOST; number++)
        check(opens(number, NOW + number % 2 * HOUR), "there is no room");
    // The even ones say nothing an hour later; the odd ones do.
    for (uint32_t number = 0; number < 1000; number++)
        check(opens(MOST + number, NOW + HOUR + number), "nothing makes room");
    for (uint32_t number = 1; number < MOST; number += 2)
        check(!opens(number, NOW + HOUR + 1000), "one that says something is forgotten");
    for (uint32_t number = 0; number < 1000; number++)
        check(!opens(MOST + number, NOW + HOUR + 2000), "a new one is not found");
    relay_free(relay);
}

static void rules_and_prefixes(void)
{
    const uint8_t packed[2][16] = {{0x20, 1, [7] = 3, [15] = 1}, {0x20, 1, [7] = 3, [8] = 9}};
    union address clients[2];
    make();
    for (int i = 0; i < 2; i++)
        make_address(clients + i, packed[i], 16, 1000, 0);
    check(may_open(relay, clients, verdict, NOW), "nobody may open");
    check(pay_opening(relay, clients, verdict, NOW), "nobody may pay");
    check(!may_open(relay, clients + 1, verdict, NOW), "a /64 is evaded");
    verdict->rule = 6;
    check(may_open(relay, clients + 1, verdict, NOW), "another rule counts as well");
    relay_free(relay);
}

int main(void)
{
    a_flood_is_refused_and_forgets_nobody();
    those_that_say_nothing_make_room();
    nobody_gets_anothers();
    rules_and_prefixes();
    return 0;
}
