// The relay without threads, for what no test can bring about through sockets alone.
#include "harness.h"

enum { SLOTS = 8, DATAGRAMS = 6, BLOCK = 8192 };

static struct relay *relay;
static struct verdict *verdict; // the answer to all questions
static union address listening;
static int listener, stops;

// What the kernel does where its buffer is full for a moment: some leave, and it keeps why the
// others do not to itself. When it is asked again there is room.
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    if (stops && count > 1) {
        stops--;
        count /= 2;
    }
    return __real_sendmmsg(fd, messages, count, flags);
}

static void turn(void)
{
    const struct portion most = {.events = 64, .questions = 64, .ended = SLOTS};
    struct news news;
    uint32_t slots[SLOTS];
    relay_turn(relay, 0);
    relay_news(relay, &news, slots, &most);
    for (const struct question *one = news.questions; one; one = one->next)
        relay_answer(relay, one, verdict, 32, clock_now() + SECOND);
    relay_free_ended(relay, slots, news.ended);
    relay_free_news(relay, &news);
}

static void make(void)
{
    relay = make_relay(SLOTS, SLOTS, 1);
    listener = udp();
    listening = bind_to(listener, 0);
    relay_inline(relay, NULL, NULL);
    check(!relay_listen(relay, 1, &listener, 0, &listening, NULL), "cannot listen");
}

static void a_full_buffer_is_no_icmp_error(void)
{
    int server = udp(), client = udp();
    union address where = bind_to(server, 0);
    char data[100] = "datagram";
    make();
    verdict = make_verdict(relay, &where);
    verdict->close_on_unreachable = 1;
    bind_to(client, 0);
    relay_segment(relay, 0);
    sendto(client, data, 1, 0, &listening.any, sizeof listening.v4);
    turn();
    turn();
    check(relay_sessions(relay) == 1, "no session");
    for (size_t i = 1; i <= DATAGRAMS; i++)
        sendto(client, data, 10 * i, 0, &listening.any, sizeof listening.v4);
    stops = 1;
    turn();
    check(!stops, "all went in one go");
    check(relay_sessions(relay) == 1, "a healthy session ended");
    check(!relay->records->icmp && !relay->records->send_errors, "an error that was none");
    check(relay->records->uploads == 1 + DATAGRAMS, "not all were counted");
    for (size_t i = 0; i <= DATAGRAMS; i++)
        check(recv(server, data, sizeof data, 0) == (ssize_t)(i ? 10 * i : 1), "not in order");
    relay_free(relay);
}

static uint64_t ask_some(uint32_t first)
{
    static const struct way way = {.addressed = {127, 0, 0, 1}, .local = {127, 0, 0, 1}};
    uint64_t before = clock_now();
    for (uint32_t i = first; i < first + BLOCK; i++) {
        union address client;
        uint8_t packed[4] = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        make_address(&client, packed, 4, 1000, 0);
        relay_inject(relay, 1, &client, &way, "x", 1);
    }
    return clock_now() - before;
}

// Nobody answers; those who come when there is no room for a question cost no more.
static void many_questions_cost_what_few_do(void)
{
    uint64_t first, worst = 0;
    make();
    first = ask_some(0);
    for (uint32_t i = 1; i < 12; i++) {
        uint64_t took = ask_some(i * BLOCK);
        worst = took > worst ? took : worst;
    }
    check(worst < 50 * first + SECOND / 20, "questions beyond the limit are dear");
    check(relay->decision_count <= MOST_DECISIONS, "too many questions");
    relay_free(relay);
}

static struct question waiting;

// Runs inside of a turn, as another thread's answer may come at any time.
static void answer_now(void *context, uint64_t session, int up, const void *data, uint32_t size)
{
    (void)context, (void)session, (void)up, (void)data, (void)size;
    relay_answer(relay, &waiting, verdict, 32, clock_now() + SECOND);
}

// An answer in the middle of a turn: what waits for it has its turn in the next one, once, and
// nothing of the same client overtakes it.
static void those_that_wait_are_looked_at_once_a_turn(void)
{
    int server = udp(), known = udp(), client = udp();
    union address where = bind_to(server, 0);
    const struct portion most = {.questions = 64};
    struct news news;
    char data[8];
    make();
    relay_inline(relay, answer_now, NULL);
    verdict = make_verdict(relay, &where);
    bind_to(known, 0);
    waiting.client = bind_to(client, 0);
    waiting.listener = 1;
    waiting.addressed_size = 4;
    waiting.port = port_of(&listening);
    memcpy(waiting.addressed, packed_of(&listening), 4);
    sendto(known, "k", 1, 0, &listening.any, sizeof listening.v4);
    turn();
    turn();
    check(relay_sessions(relay) == 1, "no session");
    relay_forget(relay);
    sendto(client, "1", 1, 0, &listening.any, sizeof listening.v4);
    relay_turn(relay, 0);
    relay_news(relay, &news, NULL, &most);
    check(news.questions != NULL, "nobody asks");
    relay_free_news(relay, &news);
    relay_watch(relay, 1);
    sendto(known, "k", 1, 0, &listening.any, sizeof listening.v4);
    sendto(client, "2", 1, 0, &listening.any, sizeof listening.v4);
    relay_turn(relay, 0);
    check(relay_sessions(relay) == 1, "it was looked at in between");
    relay_turn(relay, 0);
    check(relay_sessions(relay) == 2, "it was not looked at");
    for (const char *sent = "kk12"; *sent; sent++)
        check(recv(server, data, sizeof data, 0) == 1 && data[0] == *sent, "not in order");
    relay_free(relay);
}

// Sessions that were busy when their moment came have another; not all of them in one turn.
static void busy_sessions_are_planned_anew_in_parts(void)
{
    enum { MANY = 16384 };
    uint64_t then = clock_now(), late = then + 2 * (uint64_t)SECOND;
    relay = make_relay(MANY, 0, 1);
    struct worker *worker = relay->workers;
    union address nowhere = {.any.sa_family = AF_INET};
    verdict = make_verdict(relay, &nowhere);
    verdict->budget.idle = SECOND;
    for (uint32_t slot = 0; slot < MANY; slot++) {
        struct session *session = relay->sessions + slot;
        session->verdict = verdict;
        session->due_at = NOBODY;
        session->record->last_upload = then;
        set_due(worker, session, worker->now);
        session->record->last_upload = late;
    }
    check(relay_expire(relay, late) <= late, "all of them at once");
    int turns = 1;
    while (turns < MANY && relay_expire(relay, late) <= late)
        turns++;
    check(turns > 1 && turns < 100, "not in a few turns");
    check(first_due(worker) == late + SECOND, "not planned");
    relay_free(relay);
}

static void a_listener_takes_its_questions_with_it(void)
{
    make();
    ask_some(0);
    check(relay->decision_count && relay->questions, "nobody asks");
    relay_unlisten(relay, 1);
    check(!relay->decision_count && !relay->questions, "a question is left");
    check(relay->questions_end == &relay->questions, "the list has another end");
    relay_free(relay);
}

int main(void)
{
    busy_sessions_are_planned_anew_in_parts();
    a_listener_takes_its_questions_with_it();
    those_that_wait_are_looked_at_once_a_turn();
    a_full_buffer_is_no_icmp_error();
    many_questions_cost_what_few_do();
    return 0;
}
