// All that a relay keeps, and which lock guards what of it. It stands together because its parts
// point at each other: from a worker one comes to the relay, and from there to everything.
//
// Locks. A worker's lock guards everything of that worker and of its sessions; the relay's `book`
// guards what workers share: free slots, clients' counts, ports, decisions, events. Order: worker,
// then book; never two workers, except by trying or all of them in their order. Nobody waits for
// the network or for Python while holding one.
//
// The table at each struct says which lock a field is written and read with: "worker" (the one that
// has the session), "book", "fixed" for what never changes once others can see it, "host" for what
// only the host's thread touches, or "atomic" for what needs no lock. While there are no threads
// the host needs none at all.
#ifndef UDPPROXY_STATE_H
#define UDPPROXY_STATE_H

#include "address.h"
#include "host.h"
#include "table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    BATCH = 64,      // datagrams read from a listener, or gathered for the clients, at a time
    LARGEST = 65535, // no datagram is larger, so a receive of this size truncates nothing
    // Not a power of two: buffers must not share the same few lines of the cache.
    STRIDE = 65536 + 4096 + 192,
    CONTROL = 128, // bytes of control messages: an address, a DSCP, the size of segments
    NOBODY = UINT32_MAX,
    WAITING = 4096, // a power of two
    LENGTHS = 129,  // of a decision's block, in bits
};

// Its life: the host adds it (relay_listen), and it is gone when the host takes it away
// (relay_unlisten). What is gone stays in memory while sessions or datagrams that wait refer to it,
// and is freed when its place is needed for another.
//
//   gone, tells, fds, networks    written with all locks, read with any of them, or by the host
//   uses                          atomic
//   the rest                      fixed
struct listener {
    uint32_t number, index;
    uint32_t uses; // sessions, until the host has heard of their end, and datagrams held
    uint16_t port;
    bool wildcard, gone, tells; // the DSCP of what comes in
    uint32_t sole; // the worker, plus 1, that has all of it; 0: all have their part
    uint8_t size, packed[16];
    sa_family_t family;
    struct networks networks; // whose PROXY headers are believed; none: there are none
    int fds[]; // one for each worker; -1: its interface is absent
};

// UNUSED: nobody's, or kept for a session of the table. TAKEN: a worker is opening one there.
// ENDED: until the host has heard of the end.
enum life { UNUSED, TAKEN, LIVE, ENDED };

// With thousands of them each line of the cache that a datagram needs comes from afar: one of a
// client needs the first alone, one of a server both.
//
//   record             fixed; what it points to: worker, and the host's while ENDED or UNUSED (for
//                      whoever reads meanwhile see table.h)
//   life               atomic; set with the worker's lock, to TAKEN and to UNUSED with the book;
//                      looked at without any, and again with the worker's (life_of)
//   worker, id         atomic; set while the slot is TAKEN or UNUSED; looked at in the same way
//   polled             book: another worker may take the slot while this one finds that it ended
//   next, told_after, same_port, port    book
//   listener           worker; kept by its `uses` until the host has heard of the end
//   verdict            worker; kept by its `uses` for as long
//   the rest           worker; the host's while ENDED, for nobody changes it then
struct session {
    struct record *record;
    struct listener *listener;
    struct verdict *verdict;
    union address client;
    int fd;
    uint8_t life, patience;
    bool plain, pinned, careful_up, careful_down, answered, listed : 1;
    bool proxied : 1; // its record says who sends the client's datagrams

    struct worker *worker;
    uint64_t id;
    uint32_t last_turn;      // when it was served last
    uint32_t gathered_bytes; // replies that are not sent yet
    uint16_t gathered;
    uint8_t reason, polled[2]; // by which worker + 1, for each family
    bool keyed : 1, singly : 1;
    bool unreachable : 1; // ICMP errors came, and no reply since
    bool tallied : 1;     // under its source address
    uint8_t kept : 2;     // by family: the slot's socket has a port for good, see fixed.c
    bool placed : 1;      // its port is noted, see ports.c
    bool claimed : 1;     // as one that it may share
    bool tells : 1;       // its socket tells the DSCP of what comes in
    uint8_t tos, tos_down; // of what goes to the server, and to the client
    uint16_t port;         // of ours
    uint32_t hash;
    uint32_t due_at;         // its place in the worker's heap, NOBODY: none
    uint32_t older, younger; // among those without an answer
    uint32_t next;           // ended
    uint32_t same_port;      // claimed: of the same hash
    uint32_t told_after;     // ended: so many events come first
};

_Static_assert(offsetof(struct session, worker) == 64, "the first line");
_Static_assert(sizeof(struct session) <= 128, "two lines");

// What is known of a client's datagram; `hash` is of its session's key.
struct arrival {
    struct listener *listener;
    const union address *client;
    const uint8_t *addressed, *local;
    uint32_t interface, hash;
    uint16_t port;            // written to
    bool injected;            // the host kept it
    uint8_t tos;              // its DSCP, where the listener tells that
    const union address *via; // who sent it; NULL: the client
};

static inline const union address *sender_of(const struct arrival *arrival)
{
    return arrival->via ? arrival->via : arrival->client;
}

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
    uint8_t tos;
};

// What recvmmsg fills.
struct incoming {
    struct mmsghdr messages[BATCH];
    struct iovec iov[BATCH];
    union address clients[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL];
    struct whereto to[BATCH];
    bool marked; // a `tos` is left of another listener
    uint8_t *buffers;
};

//   relay, number, mask, epoll, bell    fixed
//   running, thread                     host
//   held_count                          atomic; set with its lock, looked at without (ring_if_held)
//   the rest                            its lock, whoever has it: also the host for a command, and
//                                       another worker that makes room (evict_one)
struct worker {
    pthread_mutex_t lock, door;
    struct relay *relay;
    uint32_t number, turns;
    int epoll, bell;
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

struct tallied {
    uint8_t address[16];
    uint32_t count; // 0: an empty cell
};

// How many sessions there are, by address.
struct tally {
    struct tallied *cells;
    uint32_t mask;
};

// What a client has used of a rule's rates: until when it has paid. One for each client and rule, as
// long as that is to come or a session has it.
//
//   sent        atomic
//   the rest    book
struct meter {
    uint8_t client[16]; // as count_as() has it
    uint64_t rule;
    uint64_t opened, sent;
    uint32_t sessions;
    uint32_t next; // in its bucket, or free; plus 1
    bool taken;
};

//   by_slot     worker, of the slot's session
//   each, buckets, most, mask    fixed
//   the rest    book
struct meters {
    struct meter *each;
    uint32_t *buckets, *by_slot; // plus 1
    uint32_t most, mask;
    uint32_t made; // from the first on
    uint32_t free, hand;
};

// Its life: a question makes one that is `asked`, and the answer puts another in its place, or the
// host pulls what waits for it. The other one goes when its session has used it up (`once`), when a
// datagram finds it over, when the host forgets all or there is no room. Both go with their
// listener.
//
//   all of it    book
struct decision {
    struct decision *next;
    struct event *denied;
    struct verdict *verdict;
    uint64_t until;
    uint32_t listener;
    uint8_t client[16], addressed[16], bits;
    uint16_t port;
    bool asked, once;
};

//   records, header, capacity, worker_count, per_client, prefix6, evict, sessions, workers, key,
//   steering, bell                  fixed
//   sockets                         host, while workers may not have the slot: before relay_extend,
//                                   or with the book while it is spent
//   seen, context                   host, before there are threads; fixed after that
//   grown                           written by the host with the book; read with it, or by the host
//   listeners, listener_count       written with all locks, read with any of them, or by the host
//   verdicts, verdict_count, no_gap_before    host
//   live, stop, watched, awaiting, segmentation, unsegmented, unable, waiting_dropped    atomic
//   answers, given_back, given_back_count, rest, has_news    set with the book locked, by atomic
//                                   operations, for they are looked at without
//   events_dropped                  book; the host looks at it without
//   the rest                        book
struct relay {
    struct record *records;
    uint64_t *header;
    struct session *sessions;
    uint32_t capacity, worker_count, per_client, prefix6;
    bool evict;
    uint64_t evictions_paid, chances_paid; // until then, see first.c
    uint32_t live;
    struct worker *workers;
    int *sockets[2]; // IPv4, IPv6: by slot, the descriptor + 1; 0: none (socket_of)
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
    uint32_t grown; // slots with sockets: from the first on, and what is beyond is not touched
    uint32_t most;  // sessions at a time: the host has other uses for ports
    bool wants_more, scarce; // sockets: asked for; the host has not heard of it yet
    int lacking;    // why there are no more for now
    // Slots whose sockets keep a port: these the host has yet to hear of, and it has heard of so many
    // more, which wait for other sockets.
    uint32_t *spent, unsaid, awaited;
    bool spent_due; // the host is to hear now
    uint32_t ended, ended_last, ended_count;
    uint32_t *ports; // our own: the first session of each
    uint32_t *given_back, given_back_count, rest; // ports, see ports.c
    uint32_t *claims, claims_mask; // ends of ours that may be shared, by hash: the first session
    struct tally clients, sources, ends;
    struct member *members; // by number; each atomic
    struct meters meters;
    struct pace all; // of sessions that open
    uint64_t all_paid;
    uint32_t each; // sessions of a source address; 0: no limit
    uint8_t copies[65536 / 8]; // by bit: ports that copies leave from
    struct decision **decisions;
    uint32_t decision_count, lengths[LENGTHS], answers;
    struct verdict **verdicts;
    uint32_t verdict_count, no_gap_before; // in `verdicts`
    struct event *events, **events_end;
    struct event *refusals[TOTALS]; // those that more may be added to
    uint32_t event_count, events_told, events_taken; // now; ever
    size_t event_bytes;
    struct question *questions, **questions_end;
    int bell;            // the host's
    bool rung, has_news; // and not heard yet; and not rung for yet
};

static inline uint32_t slot_of(const struct relay *relay, const struct session *session)
{
    return (uint32_t)(session - relay->sessions);
}

// The slot's socket towards servers of that family; -1: none.
static inline int socket_of(const struct relay *relay, bool v6, uint32_t slot)
{
    return relay->sockets[v6][slot] - 1;
}

// `life`, `worker` and `id` may be looked at without a lock. `life` is set last and read first;
// what was seen so holds only once the worker's lock is held and it is seen again.
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

#endif
