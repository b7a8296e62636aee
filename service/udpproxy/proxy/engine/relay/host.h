// What passes between the relay and the host: the native engine's Python side, which is one thread.
#ifndef UDPPROXY_HOST_H
#define UDPPROXY_HOST_H

#include "address.h"

#include <stdbool.h>
#include <stddef.h>

struct decision;
struct listener;
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
    SILENT,
    EVICTED_BY_NEWCOMER,
    KILLED,
    TERMINATED,
    FAULT,
    BY_EXTENSION,
};

#define NEVER ((uint64_t)1 << 63)

// See Pace in session/limits.py.
struct pace {
    uint64_t interval, slack;
};

struct budget {
    uint64_t idle, lifetime;
    uint64_t upload_datagrams, download_datagrams, upload_bytes, download_bytes;
    uint64_t silent;
    struct pace new_sessions, datagrams;
    uint64_t amplification; // 0: a reply may be as large as it likes
};

// interface.Verdict; `number` is its place in the list that Python keeps.
//
// Its life: the host has it made (relay_verdict), fills it in, and gives it to decisions and
// sessions; once none of them and no event uses it, the host's next sweep frees it (relay_sweep).
//
//   uses        book
//   mirrors     see there
//   the rest    the host's, until a decision or a session has it; never changes after that
enum { MOST_SOURCES = 64, MOST_MIRRORS = 8 }; // as in config/rules.py

// Our address towards a server; size 0: the client's own.
struct source {
    uint8_t size, packed[16];
};

// interface.Candidate: a server of a group; `identity` is what it draws its numbers with.
struct candidate {
    union address server;
    uint64_t identity;
    uint32_t weight, member;
    bool standby;
};

enum {
    MOST_CANDIDATES = 64, // as in config/groups.py
    MOST_MEMBERS = 8192,  // as in session/balance.py
};

// In the order of model.BALANCES.
enum balance { BY_CLIENT, BY_CLIENT_PORT, LEAST_SESSIONS, TWO_CHOICES };

// How a server of a group does, as the host reads it.
//
//   all of it    atomic
struct member {
    uint8_t state, trial;
    uint32_t sessions;
    uint32_t errors, unanswered; // sessions since its last answer
    uint64_t answered;           // first answers
};
// In the place of our port towards a server: the client's own.
enum { CLIENTS_PORT = -1 };

// Who gets copies, and the socket that they leave from, -1: none. `told` is the moment when the host
// heard last of one that could not be sent, `untold` how many there were since. All but `to` atomic.
struct mirror {
    union address to;
    int fd;
    uint32_t untold;
    uint64_t told;
};

struct verdict {
    struct budget budget;
    uint64_t generation;
    uint64_t rule; // the same as long as its name is
    uint32_t number, acl;
    uint32_t member; // that `server` is, 0: of no group
    uint8_t balance, candidate_count;
    struct candidate *candidates; // one of them, in the place of `server`; freed with it
    uint32_t uses; // sessions, kept decisions and events
    union address server;
    uint8_t type, any_port, close_on_unreachable, handed, header;
    uint8_t network_size, network_first[16], network_last[16];
    // Tried in that order; `fallback`: where none is there, the one that the system chooses.
    uint8_t fallback, source_count;
    struct source sources[MOST_SOURCES];
    int32_t source_port; // 0: the system chooses
    // Of all datagrams, both ways, unless each keeps its own.
    uint8_t tos, keeps_dscp, mirror_count;
    struct mirror mirrors[MOST_MIRRORS];
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
    SERVER_SILENT,
    SERVER_UNREACHABLE,
    SERVER_ANSWERS,
    NOT_COPIED,
};

enum what { FROM_CLIENTS, TO_SERVER, TO_CLIENT, FIX_PEER, FOLLOW_SERVER, PUT_HEADER };

// interface.Arrival; `via` of the family AF_UNSPEC: the client sent it himself.
struct way {
    uint8_t addressed[16], local[16];
    uint32_t interface;
    uint16_t port;
    union address via;
    uint8_t tos;
};

// From the first to the last address, both of so many bytes.
struct network {
    uint8_t size, first[16], last[16];
};

struct networks {
    struct network *each;
    uint32_t count;
};

// Something to tell the host. `counter` is one of enum total, `problem` an errno or 0.
//
//   all of it    book; the host's once it has taken it (relay_news)
struct event {
    struct event *next;
    struct decision *decision; // DENIED: while more may be added to `count`
    struct verdict *of;        // what `verdict` is the number of, kept for it
    uint64_t session;
    enum kind kind;
    uint32_t listener, verdict, counter, what, count, size, slot;
    int problem, upload;
    union address who, to; // `to`: OPENED
    uint8_t addressed_size, addressed[16];
    uint16_t port;
    uint8_t data[];
};

// The first datagram of a session that nobody has decided about yet.
//
//   all of it    book; the host's once it has taken it (relay_news)
struct question {
    struct question *next;
    union address client;
    uint32_t listener;
    uint8_t addressed_size, addressed[16];
    uint16_t port;
};

// A datagram that waits for a decision or a slot.
//
//   listener     worker; kept by its `uses`
//   the rest     worker: the one that it waits with; the host's once that has pulled it
//                (relay_pull), and then it has no listener
struct held {
    struct held *next;
    struct listener *listener;
    union address client;
    struct way way;
    uint32_t size, hash;
    int asked, injected;
    uint8_t data[];
};

// What one turn of Python's thread takes on. Whoever runs its loop has other things to do, and what
// strangers cause may come faster than it can be told: the rest stays where it is, which is
// bounded.
struct portion {
    uint32_t events, questions, ended;
};

struct news {
    struct event *events;
    struct question *questions;
    uint32_t ended; // slots
    uint32_t more;  // there is something left
    int scarce;     // sockets for more slots are wanted
    int spent;      // and for those whose sockets keep a port (relay_take_spent)
};

typedef void (*seen)(void *context, uint64_t session, int upload, const void *data, uint32_t size);

#endif
