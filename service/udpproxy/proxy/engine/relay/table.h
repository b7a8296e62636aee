// The session table as session/layout.py lays it out;
// tests/edge/test_inherited_table.py compares.
//
// Rules, as there: a record is valid while its sequence number is even; counters and times are
// single aligned words, written in place. Totals have more than one writer, so they are added to
// atomically.
#ifndef UDPPROXY_TABLE_H
#define UDPPROXY_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { RECORD_SIZE = 320, HEADER_SIZE = 16 * RECORD_SIZE };
enum { NEXT_ID = 5, STEERING = 6, SOURCED = 8, PORTED = 9, BALANCE = 10, MARKED = 12, TOTALS_AT = 16 }; // words

// In the order of TOTALS.
enum total {
    SESSIONS_OPENED,
    SESSIONS_ENDED,
    REFUSED_BY_ACL,
    REFUSED_TABLE_FULL,
    REFUSED_PER_CLIENT,
    REFUSED_NO_PORT,
    REFUSED_OWN_SOCKET,
    EVICTED,
    UPLOAD_DATAGRAMS,
    UPLOAD_BYTES,
    DOWNLOAD_DATAGRAMS,
    DOWNLOAD_BYTES,
    STRAY_REPLIES,
    ICMP_ERRORS,
    SEND_ERRORS,
    DROPS_LISTENERS,
    DROPS_SESSIONS,
    RECORDS_DROPPED,
    SESSIONS_LOST,
    REFUSED_PORTS_KEPT,
    BAD_HEADER,
    TOO_LONG,
    REFUSED_NO_SERVER,
    REFUSED_RATE,
    DROPPED_RATE,
    DROPPED_AMPLIFICATION,
    MIRRORED,
    MIRROR_ERRORS,
    TOTALS
};

// In `asked`, the moment since which the client has been waiting for an answer, 0: it does not. Such
// a moment is even; odd: the session was connected afresh meanwhile.
#define TRIED ((uint64_t)1)

enum state { FREE, OPENING, OPEN, UPLOAD_CLOSED, CLOSING };

struct record {
    uint64_t sequence;
    uint64_t id;
    uint8_t state, type, client_size, server_size;
    uint32_t acl;
    uint64_t generation;
    uint32_t listener;
    // Of a broadcast session, which has no peer, `peer` has the first and the last IPv4 address
    // that may reply, and `peer_port` says whether they may from any port.
    uint16_t client_port, server_port, source_port, peer_port;
    uint8_t pinned, unused[3];
    uint8_t client[16], addressed[16], local[16], server[16], peer[16], source[16];
    uint32_t interface, scope;
    uint64_t opened, opened_wall;
    uint16_t addressed_port, via_port;
    uint32_t member;
    uint8_t via[16];
    uint32_t spare, server_scope;
    uint8_t via_size, room[7];
    uint64_t stray, icmp, send_errors, drops_base, asked, dropped;
    uint64_t last_upload, uploads, upload_bytes;
    uint64_t last_download, downloads, download_bytes;
    uint64_t most_room;
    uint64_t sum;
};

_Static_assert(sizeof(struct record) == RECORD_SIZE, "a record has its size");
_Static_assert(offsetof(struct record, stray) == 26 * 8, "the identity stands together");
_Static_assert(offsetof(struct record, asked) == 30 * 8, "when the client began to wait");
_Static_assert(offsetof(struct record, last_upload) == 4 * 64, "each datagram's in one line");
_Static_assert(offsetof(struct record, download_bytes) == 37 * 8, "each datagram's stands together");
_Static_assert(offsetof(struct record, sum) == 39 * 8, "the sum is the last word");

// Between these two a reader sees a half-written record.
static inline void begin_change(struct record *record)
{
    __atomic_store_n(&record->sequence, record->sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#define SUMMED ((uint64_t)1 << 32) // in `sum`: there is one

// Over what says whose session it is, as session/sense.py has it; the state is left out.
uint64_t sum_of(const struct record *record);

static inline void end_change(struct record *record)
{
    record->sum = sum_of(record);
    __atomic_store_n(&record->sequence, record->sequence + 1, __ATOMIC_RELEASE);
}

// A word that somebody may be reading; compiles to a plain store.
static inline void put(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void more(uint64_t *word, uint64_t amount)
{
    put(word, *word + amount);
}

#endif
