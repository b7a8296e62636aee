// What the native engine's Python side (native.pyx) knows of the relay.
//
// The relay is one or more workers, each with its own sockets towards clients, its own epoll and
// usually its own thread. Python calls what stands here, from one thread, and without the GIL
// wherever a lock may be waited for; the relay never calls Python, except for `seen` while it runs
// inside of Python's own thread.
#ifndef UDPPROXY_RELAY_H
#define UDPPROXY_RELAY_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct relay;

// In the order of model.SessionType.
enum type { NORMAL, ONE_WAY, ANY_PORT, ANY_SOCK, BROADCAST };

// In the order of reasons.Reason.
enum reason {
    IDLE,
    LIFETIME,
    OVER_UPLOAD_BYTES,
    ALL_UPLOAD_DATAGRAMS,
    OVER_DOWNLOAD_BYTES,
    OVER_DOWNLOAD_DATAGRAMS,
    UNEXPECTED_REPLY,
    UNREACHABLE,
    UNRESOLVED,
    POLICY,
    EVICTED_BY_NEWCOMER,
    KILLED,
    TERMINATED,
    FAULT,
    BY_EXTENSION,
};

#define NEVER ((uint64_t)1 << 63)

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct budget {
    uint64_t idle, lifetime;
    uint64_t upload_datagrams, download_datagrams, upload_bytes, download_bytes;
};

// interface.Verdict; `number` is its place in the list that Python keeps.
struct verdict {
    struct budget budget;
    uint64_t generation;
    uint32_t number, acl;
    uint32_t uses; // sessions, kept decisions and events
    union address server;
    uint8_t type, any_port, close_on_unreachable, handed;
    uint8_t network_size, first[16], last[16];
};

enum kind {
    OPENED,
    REFUSED,
    DENIED,
    STRAYED,
    FAILED,
    SEEN,
    HANDED,
    REROUTED,
    SERVER_UNREACHABLE,
    SERVER_ANSWERS,
};

enum what { FROM_CLIENTS, TO_SERVER, TO_CLIENT, FIX_PEER, FOLLOW_SERVER };

struct decision;
struct listener;

// Something to tell the host. `counter` is one of enum total, `problem` an errno or 0.
struct event {
    struct event *next;
    struct decision *decision; // DENIED: while more may be added to `count`
    struct verdict *of;        // what `verdict` is the number of, kept for it
    uint64_t session;
    enum kind kind;
    uint32_t listener, verdict, counter, what, count, size, slot;
    int problem, upload;
    union address who;
    uint8_t addressed_size, addressed[16];
    uint8_t data[];
};

// The first datagram of a session that nobody has decided about yet.
struct question {
    struct question *next;
    union address client;
    uint32_t listener;
    uint8_t addressed_size, addressed[16];
};

// A datagram that waits for a decision or a slot.
struct held {
    struct held *next;
    struct listener *listener;
    union address client;
    uint8_t addressed[16], local[16];
    uint32_t interface, size, hash;
    int asked, injected;
    uint8_t data[];
};

// What one turn of Python's thread takes on. Whoever runs its loop has other things to do, and what
// strangers cause may come faster than it can be told: the rest stays where it is, which is bounded.
struct portion {
    uint32_t events, questions, ended;
};

struct news {
    struct event *events;
    struct question *questions;
    uint32_t ended; // slots
    uint32_t more;  // there is something left
};

typedef void (*seen)(void *context, uint64_t session, int upload, const void *data, uint32_t size);

// NULL without memory. `table` is the whole shared memory.
struct relay *relay_new(void *table, uint32_t capacity, uint32_t workers, uint32_t per_client,
                        int evict);
void relay_free(struct relay *relay);
void relay_silence(struct relay *relay);
void relay_spare_descriptors(uint32_t wanted);

int relay_start(struct relay *relay);
void relay_stop(struct relay *relay);
void relay_inline(struct relay *relay, seen callback, void *context);
int relay_turn(struct relay *relay, uint32_t worker);
int relay_notice(struct relay *relay);
int relay_poller(struct relay *relay, uint32_t worker);

void relay_socket(struct relay *relay, int version, uint32_t slot, int fd);
int relay_listen(struct relay *relay, uint32_t number, const int *fds, const union address *bound);
uint32_t relay_unlisten(struct relay *relay, uint32_t number);

void relay_news(struct relay *relay, struct news *news, uint32_t *slots,
                const struct portion *most);
void relay_free_news(struct relay *relay, struct news *news);
void relay_answer(struct relay *relay, const struct question *question, struct verdict *verdict,
                  unsigned bits, uint64_t until);
void relay_forget(struct relay *relay);
uint32_t relay_drops(struct relay *relay, uint32_t slot);
int relay_describe(struct relay *relay, uint32_t slot, const char *rule, uint64_t now, char *text,
                   size_t size);
int relay_ended(struct relay *relay, uint32_t slot, uint32_t *verdict, uint64_t *id,
                int *answered);
void relay_finish(struct relay *relay, const uint32_t *slots, uint32_t count);

struct verdict *relay_verdict(struct relay *relay);
uint32_t relay_sweep(struct relay *relay, uint32_t *numbers, uint32_t most);

struct held *relay_pull(struct relay *relay, const struct question *question);
void relay_inject(struct relay *relay, uint32_t listener, const union address *client,
                  const uint8_t *addressed, const uint8_t *local, uint32_t interface,
                  const void *data, uint32_t size);
int relay_redirect(struct relay *relay, uint64_t id, const union address *server);
int relay_kill(struct relay *relay, uint64_t id, enum reason reason);
int relay_end(struct relay *relay, uint64_t id, uint32_t slot, enum reason reason);
int relay_asks(struct relay *relay, uint32_t slot, uint64_t id, int up, const void *data,
               uint32_t size);
void relay_pass(struct relay *relay, uint32_t slot, uint64_t id, int up, const void *data,
                uint32_t size);
void relay_retry(struct relay *relay);
void relay_settle(struct relay *relay);
void relay_ring(struct relay *relay);
void relay_hush(struct relay *relay);
int relay_copy(struct relay *relay, uint32_t slot, uint64_t *id, void *record);
int relay_judge_by(struct relay *relay, uint64_t id, uint32_t slot, struct verdict *verdict);
int relay_adopt(struct relay *relay, uint32_t slot, struct verdict *verdict);
void relay_clear(struct relay *relay, uint32_t slot);
void relay_free_slot(struct relay *relay, uint32_t slot);
void relay_reserve(struct relay *relay, const uint8_t *taken);
void relay_limit(struct relay *relay, uint32_t most);
uint64_t relay_work(struct relay *relay, uint64_t now);
uint32_t relay_sessions(struct relay *relay);
void relay_watch(struct relay *relay, int on);
void relay_tell(struct relay *relay, int openings);
void relay_await(struct relay *relay, int answers);
void relay_segment(struct relay *relay, int on);
void relay_count(struct relay *relay, uint32_t total, uint64_t amount);

void make_address(union address *address, const uint8_t *packed, unsigned size, uint16_t port,
                  uint32_t scope);

struct relay_figures {
    uint64_t segmentation, unsegmented, unable, waiting_dropped, events_dropped;
};
void relay_figures(struct relay *relay, struct relay_figures *figures);

#endif
