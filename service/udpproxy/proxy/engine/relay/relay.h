// What the native engine's Python side (native.pyx) knows of the relay.
//
// The relay is one or more workers, each with its own sockets towards clients, its own epoll and
// usually its own thread. Python calls what stands here and in the headers that are included, from
// one thread, and without the GIL wherever a lock may be waited for; the relay never calls Python,
// except for `seen` while it runs inside of Python's own thread.
//
// The files, lowest first. Each includes only what stands above it here, and so calls nothing else;
// tests/unit/test_native_order.py looks.
//
//   siphash      a keyed hash
//   table        the session table, and the sum over a record
//   address      addresses as the system, the table and the keys have them
//   proxy_header    headers that say whose a datagram is
//   host         what passes between relay and host
//   state        all that is kept, and which lock guards what
//   tally        how many sessions there are, by an address
//   ports        our own ports towards servers
//   sockets      the sockets towards servers
//   balance      which server of a group, and how they do
//   fixed        those whose rule names their port
//   worker       locks, clock, bells, which client is whose
//   slots        which are free, and whether sockets are wanted for more
//   book         which sessions there are, when they are due
//   meters       what clients have used of their rates
//   events       what the host is told
//   decisions    what the host has decided
//   dscp         the DSCP of datagrams, and what the sockets towards servers do with it
//   segments     several datagrams in one piece
//   replies      to clients
//   sessions     their births and deaths
//   moves        to another server, or by another way
//   copies       of uploads, to others
//   upload       to servers
//   held         datagrams that wait
//   first        datagrams without a session
//   servers      what servers sent
//   clients      what clients sent
//   loop         a worker's turn
//
// and what only the host calls, in parts, for all of it in one file would be the largest by far:
//
//   running      start and stop
//   listeners    come and go
//   adoption     sockets for slots, and sessions found in the table
//   answers      verdicts, decisions, datagrams that wait for one
//   handed       datagrams that the host treats
//   news         what it hears
//   commands     what it does with sessions
//   records      of ended sessions, as text
//   relay        making and unmaking all of it
#ifndef UDPPROXY_RELAY_H
#define UDPPROXY_RELAY_H

#include "host.h"
#include "running.h"
#include "listeners.h"
#include "adoption.h"
#include "balance.h"
#include "answers.h"
#include "handed.h"
#include "news.h"
#include "commands.h"
#include "records.h"

// NULL without memory. `table` is the whole shared memory.
struct relay *relay_new(void *table, uint32_t capacity, uint32_t workers, uint32_t per_client,
                        uint32_t prefix6, int evict);
void relay_close(struct relay *relay);
void relay_free(struct relay *relay);
void relay_spare_descriptors(uint32_t wanted);

#endif
