// What the relay's own files know of each other.
//
// Locks. A worker's lock guards everything of that worker and of its sessions; the relay's `book`
// guards what workers share: free slots, clients' counts, ports, decisions, events. Order: worker,
// then book; never two workers, except by trying. Nobody waits for the network or for Python
// while holding one.
//
// Which lock guards what, where it is not simply that of the worker whose session it is:
//
//   session   life            written under the worker's lock or, while the slot is nobody's, the
//                             book; looked at without (life_of), then again under the worker's
//             worker, id      written while the slot is TAKEN; looked at in the same way
//             polled          book
//             next, told_after, same_port   book
//             verdict         worker; what it points to is kept by `uses`
//             listener        worker; kept by `uses`, until the host has heard of the end
//   listener  gone            written under all locks, read under any
//             uses            atomic: sessions, and datagrams held; freed when gone and not used
//             the rest        never changes
//   verdict   uses            book: sessions, decisions, events; freed by a sweep
//             the rest        never changes once a session or a decision has it
//   decision  all of it       book; freed when it is used up, over, forgotten or its listener goes
//   relay     watched, awaiting, segmentation, the counters   atomic
//             records' counters   the worker; read by anybody, see table.h
#ifndef UDPPROXY_INSIDE_H
#define UDPPROXY_INSIDE_H

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "relay.h"
#include "table.h"

enum {
    BATCH = 64,      // datagrams read from a listener, or gathered for the clients, at a time
    BURST = 32,      // datagrams read from a session at a time
    PATIENCE = 16,   // a session that had nothing more is read singly for so many turns
    LARGEST = 65535, // no datagram is larger, so a receive of this size truncates nothing
    // Not a power of two: buffers must not share the same few lines of the cache.
    STRIDE = 65536 + 4096 + 192,
    CONTROL = 64,
    TOGETHER = 64000, // bytes in a run of datagrams that are handed over in one go
    NOBODY = UINT32_MAX,
    WAITING = 4096,      // a power of two
    MOST_RESTING = 4096, // ports, of 28,232 that the kernel has by default
};

struct listener {
    uint32_t number, index;
    uint32_t uses; // sessions, until the host has heard of their end, and datagrams held
    uint16_t port;
    bool wildcard, gone;
    uint8_t size, packed[16];
    sa_family_t family;
    int fds[]; // one for each worker
};

enum life { UNUSED, TAKEN, LIVE, ENDED };

// With thousands of them each line of the cache that a datagram needs comes from afar: one of a
// client needs the first alone, one of a server both.
struct session {
    struct record *record;
    struct listener *listener;
    struct verdict *verdict;
    union address client;
    int fd;
    uint8_t life, patience;
    bool plain, pinned, careful_up, careful_down, answered, listed;

    struct worker *worker;
    uint64_t id;
    uint32_t turn;           // when it was served last
    uint32_t gathered_bytes; // replies that are not sent yet
    uint16_t gathered;
    uint8_t reason, polled[2]; // by which worker + 1, for each family
    bool keyed, singly, unreachable; // ICMP errors came, and no reply since
    uint32_t hash;
    uint32_t due_at;         // its place in the worker's heap, NOBODY: none
    uint32_t older, younger; // among those without an answer
    uint32_t next;           // ended, or of the same port of ours
    uint32_t same_port;
    uint16_t port; // that one
    uint32_t told_after; // ended: so many events come first
};

_Static_assert(offsetof(struct session, worker) == 64, "the first line");
_Static_assert(sizeof(struct session) <= 128, "two lines");

// What is known of a client's datagram; `hash` is of its session's key.
struct first {
    struct listener *listener;
    const union address *client;
    const uint8_t *addressed, *local;
    uint32_t interface, hash;
    bool injected; // the host kept it
};

struct cell {
    uint32_t hash, slot; // slot + 1; 0: empty
};

// Replies on their way to clients.
struct outgoing {
    uint32_t count, used; // messages; buffers
    struct session *who[BATCH];
    struct iovec iov[BATCH];
    uint8_t *buffers;
};

// The heap holds moments beside slots, for a session's deadline moves with every datagram.
struct due {
    uint64_t moment;
    uint32_t slot;
};

// Where a client's datagram was sent.
struct whereto {
    uint8_t addressed[16], local[16];
    uint32_t interface, hash;
};

// What recvmmsg fills.
struct incoming {
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    union address clients[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL];
    struct whereto to[BATCH];
    uint8_t *buffers;
};

struct worker {
    pthread_mutex_t lock, door;
    struct relay *relay;
    uint32_t number, turn;
    int epoll, wake;
    bool running;
    pthread_t thread;
    uint64_t now;
    struct cell *cells;
    uint32_t mask;
    struct due *due;
    uint32_t due_count;
    uint32_t oldest, youngest; // without an answer
    struct held *held, **held_end;
    uint32_t held_count, answers_seen, slot_waiters;
    uint16_t waiting[WAITING]; // how many of those held have such a hash
    size_t held_bytes;
    struct incoming in;
    struct outgoing out;
};

struct client {
    uint8_t address[16];
    uint32_t count;
};

struct decision {
    struct decision *next;
    struct event *denied;
    struct verdict *verdict;
    uint64_t until;
    uint32_t listener;
    uint8_t client[16], addressed[16], bits;
    bool asked, once;
};

enum { DECISION_BUCKETS = 1 << 14, MOST_DECISIONS = 1 << 16, LENGTHS = 129 };

struct relay {
    struct record *records;
    uint64_t *header;
    struct session *sessions;
    uint32_t capacity, worker_count, per_client;
    bool evict;
    uint64_t evictions_paid, chances_paid; // until then, see first.c
    uint32_t live;
    struct worker *workers;
    int *sockets[2]; // IPv4, IPv6: by slot, -1: none
    struct listener **listeners;
    uint32_t listener_count;
    uint64_t key[2];
    uint32_t steering[2];
    int stop, watched, openings, awaiting, segmentation;
    uint64_t unsegmented, unable, waiting_dropped, events_dropped;
    seen seen;
    void *context;

    pthread_mutex_t book;
    uint32_t *free, free_count;
    uint32_t most; // sessions at a time: the host has other uses for ports
    uint32_t ended, ended_last, ended_count;
    uint32_t *ports; // our own: the first session of each
    uint32_t *given_back, given_back_count, rest; // ports, see book.c
    struct client *clients;
    uint32_t client_mask;
    struct decision **decisions;
    uint32_t decision_count, lengths[LENGTHS], answers;
    struct verdict **verdicts;
    uint32_t verdict_count, no_gap_before; // in `verdicts`
    struct event *events, **events_end;
    struct event *refusals[TOTALS]; // those that more may be added to
    uint32_t event_count, events_told, events_taken; // now; ever
    size_t event_bytes;
    struct question *questions, **questions_end;
    int notice;
    bool notified, notify;
};

static inline uint32_t slot_of(const struct relay *relay, const struct session *session)
{
    return (uint32_t)(session - relay->sessions);
}

// `life`, `worker` and `id` may be looked at without a lock. `life` is set last and read first; what
// was seen so holds only once the worker's lock is held and it is seen again.
static inline enum life life_of(const struct session *session)
{
    return (enum life)__atomic_load_n(&session->life, __ATOMIC_ACQUIRE);
}

static inline void set_life(struct session *session, enum life life)
{
    __atomic_store_n(&session->life, (uint8_t)life, __ATOMIC_RELEASE);
}

static inline uint64_t id_of(const struct session *session)
{
    return __atomic_load_n(&session->id, __ATOMIC_RELAXED);
}

static inline bool is_of(const struct session *session, const struct worker *worker)
{
    return __atomic_load_n(&session->worker, __ATOMIC_ACQUIRE) == worker;
}

static inline bool is_watched(const struct relay *relay)
{
    return __atomic_load_n(&relay->watched, __ATOMIC_RELAXED);
}

// There is news for Python's thread; with the book locked.
static inline void note_news(struct relay *relay)
{
    __atomic_store_n(&relay->notify, true, __ATOMIC_RELAXED);
}

static inline bool is_v6(const union address *address)
{
    return address->any.sa_family == AF_INET6;
}

static inline socklen_t length_of(const union address *address)
{
    return is_v6(address) ? sizeof address->v6 : sizeof address->v4;
}

static inline uint16_t port_of(const union address *address)
{
    return ntohs(is_v6(address) ? address->v6.sin6_port : address->v4.sin_port);
}

static inline unsigned packed_size(const union address *address)
{
    return is_v6(address) ? 16 : 4;
}

static inline const void *packed_of(const union address *address)
{
    return is_v6(address) ? (const void *)&address->v6.sin6_addr
                          : (const void *)&address->v4.sin_addr;
}

static inline bool same_endpoint(const union address *one, const union address *other)
{
    return one->any.sa_family == other->any.sa_family && port_of(one) == port_of(other) &&
           memcmp(packed_of(one), packed_of(other), packed_size(one)) == 0;
}

// libc's own are points of cancellation, which in a process with threads cost two atomic
// operations each; nobody cancels ours.
static inline ssize_t send_datagram(int fd, const struct iovec *iov)
{
    return syscall(SYS_sendto, fd, iov->iov_base, iov->iov_len, 0, NULL, 0);
}

static inline ssize_t receive_datagram(int fd, void *data, size_t size)
{
    return syscall(SYS_recvfrom, fd, data, size, MSG_DONTWAIT, NULL, NULL);
}

uint64_t clock_now(void);
void enter(struct worker *worker);
void leave(struct worker *worker);
struct worker *enter_session(struct session *session, uint64_t id);

// sockets.c
int attach(struct relay *relay, int fd, enum type type, const union address *server,
           union address *own);
int fix_peer(int fd, const union address *peer);
int fix_peer_again(int fd, const union address *peer, union address *own);
void disconnect(int fd);
void reset_socket(int fd, bool plain);
uint32_t worker_of(const struct relay *relay, const union address *client);
struct listener *listener_of(const struct relay *relay, uint32_t number);
uint32_t take_errors(int fd, int *problem);
uint32_t socket_drops(int fd);
bool means_unreachable(int problem);
bool means_cut_off(int problem);

// book.c: which sessions there are
uint32_t hash_of(const struct relay *relay, const struct listener *listener,
                 const union address *client, const uint8_t *addressed);
struct session *find(struct worker *worker, const struct first *first);
void enter_key(struct worker *worker, struct session *session);
void leave_key(struct worker *worker, struct session *session);
void plan(struct worker *worker, struct session *session);
void unplan(struct worker *worker, struct session *session);
struct session *next_due(struct worker *worker, uint64_t now, enum reason *reason,
                         int *looks);
uint64_t first_due(const struct worker *worker);
void list_unanswered(struct worker *worker, struct session *session);
void unlist_unanswered(struct worker *worker, struct session *session);
void enter_port(struct relay *relay, struct session *session);
void leave_port(struct relay *relay, struct session *session);
bool is_resting(const struct relay *relay, const union address *own);
void rest_less(struct relay *relay);
bool is_ours(struct relay *relay, const union address *client, const struct listener *listener,
             const uint8_t *local);
void widen(uint8_t wide[16], const void *packed, unsigned size);
uint32_t *client_count(struct relay *relay, const union address *client);
void client_left(struct relay *relay, const union address *client);

// decisions.c, with the book locked
struct decision *find_decision(struct relay *relay, const struct listener *listener,
                               const union address *client, const uint8_t *addressed, uint64_t now);
bool ask(struct relay *relay, const struct first *first);
struct decision *find_question(struct relay *relay, const struct question *question);
void drop_decision(struct relay *relay, struct decision *decision);
void forget_decisions(struct relay *relay, bool everything);
void forget_listener(struct relay *relay, const struct listener *listener);

// events.c
struct event *tell(struct relay *relay, enum kind kind, uint32_t size);
void name_verdict(struct event *event, struct verdict *verdict);
void tell_refused(struct worker *worker, enum total counter, const struct first *first, int problem);
void tell_failed(struct worker *worker, const struct session *session, enum what what, int problem);
void tell_rerouted(struct worker *worker, const struct session *session);
void tell_server(struct worker *worker, const struct session *session, enum kind kind,
                 int problem);
void tell_seen(struct worker *worker, const struct session *session, bool upload, const void *data,
               uint32_t size);
void tell_handed(struct worker *worker, const struct session *session, bool upload,
                 const void *data, uint32_t size);
void notify(struct relay *relay);
void say(struct relay *relay);
void wake(struct worker *worker);
void count_total(struct relay *relay, enum total total, uint64_t amount);

// sessions.c: births and deaths
struct session *open_session(struct worker *worker, const struct first *first,
                             struct verdict *verdict, uint32_t slot);
void close_session(struct worker *worker, struct session *session, enum reason reason);
bool reconnect(struct worker *worker, struct session *session, int *problem);
void be_careful(struct relay *relay, struct session *session);
bool poll_session(struct worker *worker, struct session *session);
void unpoll_ended(struct worker *worker, struct session *session);
void give_back(struct relay *relay, uint32_t slot);
void free_record(struct record *record);
bool unreachable(struct worker *worker, struct session *session);
void lost(struct worker *worker, struct session *session, enum what what, int problem);
bool is_icmp(struct worker *worker, struct session *session, int problem);
void count_icmp(struct worker *worker, struct session *session, uint32_t count, int problem);

// first.c: datagrams without a session
bool take_first(struct worker *worker, const struct first *first, const void *data, uint32_t size,
                struct held *held);
bool has_answers(const struct worker *worker);
void retry_held(struct worker *worker);
void drop_held(struct worker *worker, const struct listener *listener);
void use_listener(struct listener *listener);
void leave_listener(struct listener *listener);

// upload.c, download.c, segments.c
void read_clients(struct worker *worker, struct listener *listener);
bool upload(struct worker *worker, struct session *session, const void *data, uint32_t size);
uint32_t upload_run(struct worker *worker, struct session *session, struct iovec *iov,
                    uint32_t count);
bool pass_up(struct worker *worker, struct session *session, const void *data, uint32_t size);
bool pass_down(struct worker *worker, struct session *session, void *data, uint32_t size);
void read_server(struct worker *worker, struct session *session);
void flush(struct worker *worker);
// UNSENT: the session is gone, and the datagram is the first of another one.
enum outcome { SENT, LOST, GONE, UNSENT };
enum outcome after_failed_send(struct worker *worker, struct session *session,
                               const struct iovec *iov, int problem);
bool may_segment(const struct relay *relay, const struct session *session);
uint32_t run_of(const struct iovec *iov, uint32_t count);
void add_segment(struct msghdr *message, uint8_t *control, size_t size);
bool means_unsegmented(int problem);
void refuse_segments(struct relay *relay, struct session *session, int problem);

#endif
