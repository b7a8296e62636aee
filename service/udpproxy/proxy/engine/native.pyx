# cython: language_level=3
"""The native engine: the relay in C (relay/), which runs in threads of its own without the GIL.

Here is only what joins it to Python: commands go in as calls that take a worker's lock, news come
out as a list that is read after an eventfd rang. The host is only ever called from here, in the
thread of whoever runs the reactor.

By subject: native_relay.pxi declares the C side, native_endpoints.pxi has addresses,
native_verdicts.pxi what the host decided, native_news.pxi what it is told. Included, they are one
module, and calls between them cost what calls in C cost.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import functools
import hashlib
import os
import socket
import time

from udpproxy.proxy.config.model import BALANCES, SessionType
from udpproxy.proxy.engine import dscp, sockets
from udpproxy.proxy.engine.adopting import Stock
from udpproxy.proxy.engine.interface import SEGMENTATION_REST, PendingName, Arrival
from udpproxy.proxy.session.balance import Member
from udpproxy.proxy.session.peers import network_bounds
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.sense import Damaged
from udpproxy.proxy.session.layout import Record, of_session
from udpproxy.proxy.session.proxy_header import KINDS
from udpproxy.proxy.session.table import TOTALS

include "native_relay.pxi"

_SECOND = 1_000_000_000
_REASONS = list(Reason)
_FAMILIES = ((4, socket.AF_INET), (6, socket.AF_INET6))
_SPARE = 4096
"""Descriptors beside the sockets of sessions."""
_MOST_SPARED = 1 << 16
"""Those for which there is room from the start: 512 KiB. Beyond, each doubling costs a wait."""

cdef enum:
    _INET6 = 10
    RECORD_BYTES = 320

include "native_endpoints.pxi"
include "native_verdicts.pxi"
include "native_news.pxi"


@cython.no_gc_clear
cdef class NativeEngine(_News):
    """See engine.interface.Engine.

    `threads`: False runs the relay inside of the reactor's own calls, for tests and debuggers.
    `lasting`: who knows for how long decisions hold; None: each holds for one session.
    """

    cdef Py_buffer _memory
    cdef readonly str name
    cdef object __weakref__
    cdef dict _drops
    cdef list _lent
    cdef bint _mapped
    cdef uint32_t _workers
    cdef object _next_second, _retry_at
    cdef bint _segmented

    def __cinit__(self):
        self._relay = NULL
        self._mapped = False

    def __init__(self, reactor, table, pool, host, *, per_client, prefix6, evict, workers, threads,
                 lasting):
        self.name = "native"
        self._reactor = reactor
        self._table = table
        self._pool = pool
        self._host = host
        self._lasting = lasting
        self._listeners = {}
        self._drops = {}
        self._numbers = {}
        self._verdicts = []
        self._mirrors = {}
        self._threads = threads
        self._workers = workers
        self._next_second = 0
        self._segmented = True
        self._retry_at = 0
        # Of the mapping itself: the collector clears a memoryview that a cycle holds, whoever else
        # still has its buffer, and Python crashes when that view is freed.
        PyObject_GetBuffer(table.memory.obj, &self._memory, PyBUF_WRITABLE)
        self._mapped = True
        table.make_balance_key()
        relay_spare_descriptors(min(2 * table.capacity + _SPARE, _MOST_SPARED))
        self._relay = relay_new(self._memory.buf, table.capacity, workers, per_client, prefix6,
                                evict)
        if self._relay == NULL:
            raise OSError(errno, os.strerror(errno))
        self._lent = [0, 0]
        self._lend_sockets()
        self._reactor.add_reader(relay_bell(self._relay), self._noticed)
        if threads:
            relay_ring(self._relay)
            return
        relay_inline(self._relay, _seen, <void *>self)
        for number in range(workers):
            turn = functools.partial(self._turn, number)
            self._reactor.add_reader(relay_poller(self._relay, number), turn)

    def __dealloc__(self):
        if self._relay != NULL:
            relay_free(self._relay)
        if self._mapped:
            PyBuffer_Release(&self._memory)

    # ---- engine.interface.Engine ----

    def settle(self):
        """Whatever the workers were at is done, and the host knows of it."""
        with nogil:
            relay_settle(self._relay)
        self._tell_all()

    def watch(self, *, on):
        """Tell the host of each datagram from now on, or no more."""
        cdef int flag = on
        with nogil:
            relay_watch(self._relay, flag)

    def announce(self, *, openings):
        """Whether the host hears of each session that opens."""
        cdef int flag = openings
        with nogil:
            relay_tell_openings(self._relay, flag)

    def await_answers(self, *, on):
        """Whether the host hears of each session's first reply."""
        cdef int flag = on
        with nogil:
            relay_tell_answers(self._relay, flag)

    def segment(self, *, on):
        """UDP_SEGMENT, from now on."""
        self._segmented, self._retry_at = on, 0
        relay_segment(self._relay, on)
        return True

    def forget_decisions(self):
        """What the host said about clients may not hold any more: ask again."""
        with nogil:
            relay_forget(self._relay)

    @property
    def sessions(self):
        """How many there are now."""
        return relay_sessions(self._relay)

    def limit_ports(self, most, each):
        """How many of the host's ports sessions may have; 0: no limit."""
        cdef uint32_t sessions = min(most or self._table.capacity, self._table.capacity)
        cdef uint32_t of_address = each
        with nogil:
            relay_limit(self._relay, sessions, of_address)

    def limit_openings(self, given):
        """How fast sessions may open, all together."""
        cdef pace how
        _to_pace(&how, given)
        with nogil:
            relay_limit_openings(self._relay, &how)

    def extend(self, carriers, slots):
        """Those that waited for sockets go on."""
        self._pool.extend(carriers)
        self._table.grown = slots
        self._lend_sockets()

    def lack(self, problem):
        """Those that waited for sockets are refused."""
        cdef int why = problem
        with nogil:
            relay_lack(self._relay, why)

    def replace(self, fresh):
        """Their slots are free again."""
        cdef uint32_t place
        cdef int version, fd, wanted
        for family, slot, sock in fresh:
            place, version, fd = slot, 6 if family == socket.AF_INET6 else 4, sock.fileno()
            with nogil:
                wanted = relay_replace(self._relay, version, place, fd)
            if wanted:
                self._pool.replace(family, slot, sock)
            else:
                sock.close()
        with nogil:
            relay_replaced(self._relay)

    cdef _lend_sockets(self):
        """What the pool has got since the last time."""
        cdef uint32_t slots = self._table.grown
        for version, family in _FAMILIES:
            first, end = self._lent[version == 6], self._pool.size(family)
            for slot in range(first, min(end, self._table.capacity)):
                relay_socket(self._relay, version, slot, self._pool.get(family, slot).fileno())
            self._lent[version == 6] = end
        with nogil:
            relay_extend(self._relay, slots)

    def add_listener(self, listener):
        """Take clients' datagrams from it."""
        cdef address bound
        cdef int problem = 0
        cdef int *fds = <int *>calloc(self._workers, sizeof(int))
        _to_address(&bound, (str(listener.address), listener.port))
        cdef uint32_t number = listener.number, sole = 0
        each = [sock.fileno() for sock in listener.sockets]
        if len(each) == 1 and self._workers > 1:  # by turns, where there are several such
            at = number % self._workers
            each = [-1] * at + each + [-1] * (self._workers - at - 1)
            sole = at + 1
        cdef networks headers
        _to_networks(&headers, listener.header_from)
        try:
            for i in range(self._workers):
                fds[i] = each[i]
            with nogil:
                problem = relay_listen(self._relay, number, fds, sole, &bound, &headers)
        finally:
            free(fds)
            free(headers.each)
        if problem:
            raise OSError(problem, os.strerror(problem))
        before = self._listeners.get(number)
        self._listeners[number] = listener
        self.tell_dscp(number, on=listener.tells_dscp)
        self._drops[number] = _drops(listener)
        for sock in before.sockets if before else ():
            sock.close()

    def expect_headers(self, number, header_from):
        """PROXY headers of these, or none, from now on."""
        cdef networks headers
        cdef uint32_t place = number
        cdef int problem
        _to_networks(&headers, header_from)
        with nogil:
            problem = relay_expect_headers(self._relay, place, &headers)
        free(headers.each)
        if problem:
            raise OSError(problem, os.strerror(problem))

    def tell_dscp(self, number, *, on):
        """The DSCP of what comes in, from now on or no more."""
        cdef uint32_t place = number
        cdef int flag = on
        listener = self._listeners[number]
        for sock in () if listener.absent else listener.sockets:
            dscp.tell(sock, on=on)
        with nogil:
            relay_tell_dscp(self._relay, place, flag)

    def take_mirrors(self, mirrors):
        """Copies leave from these from now on, also those of verdicts that there are."""
        cdef uint16_t *ports = <uint16_t *>calloc(len(mirrors) + 1, sizeof(uint16_t))
        cdef uint32_t count = len(mirrors)
        if ports == NULL:
            raise MemoryError("ports")
        self._mirrors = dict(mirrors)
        for at, sock in enumerate(mirrors.values()):
            ports[at] = sock.getsockname()[1]
        with nogil:
            relay_copy_from(self._relay, ports, count)
        free(ports)
        for decided, made in self._numbers.items():
            self._copy_by(<verdict *><size_t>made, decided)

    def remove_listener(self, number):
        """Its sessions end as `policy`; how many."""
        cdef uint32_t ended, wanted = number
        with nogil:
            ended = relay_unlisten(self._relay, wanted)
        self.settle()
        listener = self._listeners.pop(number)
        del self._drops[number]
        for sock in listener.sockets:
            sock.close()
        return ended

    def adopt(self):
        """Go on with the sessions in the table; how many there were."""
        stock = Stock(self._table, self._pool, self._host, self._clear)
        taken = bytearray(self._table.grown)
        accepted = []
        for slot, record in stock.take():
            known = record.listener in self._listeners
            decided = self._host.decided(record) if known else None
            if decided is not None:
                try:
                    stock.join(slot, record, decided)
                except Damaged as problem:
                    stock.lose(slot, str(problem))
                    continue
            if decided is None:
                self._table.add(record)
                self._host.ended(record, "-", Reason.POLICY)
                relay_clear(self._relay, slot)
            else:
                taken[slot] = 1
                accepted.append((slot, decided))
        relay_reserve(self._relay, taken)
        for slot, decided in accepted:
            if not relay_adopt(self._relay, slot, self._intern(decided)):
                stock.lose(slot, "its socket or listener cannot be used")
                relay_free_slot(self._relay, slot)
        return self.sessions

    def _clear(self, slot):
        """Nobody's session is here any more."""
        relay_clear(self._relay, slot)

    def reconsider(self):
        """The rules have changed: ask the host about every session; how many ended."""
        cdef uint64_t id
        cdef uint32_t at
        cdef int found, gone, why
        cdef verdict *answer
        cdef uint8_t[RECORD_BYTES] raw
        self.forget_decisions()
        self.settle()
        ended = 0
        for slot in range(self._table.grown):
            at = slot
            with nogil:
                found = relay_copy(self._relay, at, &id, raw)
            if not found:
                continue
            why = POLICY
            try:
                decided = self._host.decided(of_session(raw[:RECORD_BYTES], id))
            except Damaged as problem:
                self._table.count("sessions-lost")
                self._host.lost(slot, str(problem))
                decided, why = None, FAULT
            if decided is None:
                with nogil:
                    gone = relay_end(self._relay, id, at, why)
                ended += gone
            else:
                answer = self._intern(decided)
                with nogil:
                    relay_judge_by(self._relay, id, at, answer)
        self.settle()
        self._sweep()
        return ended

    def kill(self, number, reason=Reason.KILLED):
        """End one session; False: there is none of that number."""
        cdef uint64_t id = number
        cdef int found, why = _REASONS.index(reason)
        with nogil:
            found = relay_kill(self._relay, id, why)
        self._tell()
        return bool(found)

    def end(self, slot, number):
        """The same, of the session whose slot is known; False: it is there no more."""
        cdef uint64_t id = number
        cdef uint32_t place = slot
        cdef int found, why = _REASONS.index(Reason.KILLED)
        if not 0 <= slot < self._table.capacity:
            return False
        with nogil:
            found = relay_end(self._relay, id, place, why)
        self._tell()
        return bool(found)

    def inject(self, listener, client, arrival, datagrams):
        """Treat these, which the host kept, as if they came now."""
        for data in datagrams:
            self._inject(listener, client, arrival, data)
        if self._threads:
            # Their question comes first, and is the only one to be answered now: whoever lets many
            # go on would otherwise answer every stranger's besides. The worker hears of the answer.
            self._tell_part(0, 1, 0)
            return
        for _ in range(MOST_PARTS):
            if not self._tell():
                break
            with nogil:
                relay_retry(self._relay)

    def redirect(self, number, server, member=0):
        """The session goes on to another server."""
        cdef address where
        cdef uint64_t id = number
        cdef uint32_t its = member
        cdef int found
        _to_address(&where, server)
        with nogil:
            found = relay_redirect(self._relay, id, &where, its)
        self._tell()
        return bool(found)

    def choose(self, verdict, record):
        """Which server the record's session would get now."""
        cdef address client
        cdef uint64_t id = record.id
        cdef const candidate *found
        _to_address(&client, (sockets.unpack(record.client[0]), record.client[1]))
        if not verdict.candidates:
            return verdict.server, verdict.member
        found = choose_server(self._relay, self._intern(verdict), &client, id)
        if found == NULL:
            return None
        return next((one.server, one.member) for one in verdict.candidates
                    if one.member == found.member)

    def set_member(self, number, state, *, trial=False):
        """How a server of a group does from now on."""
        relay_member_state(self._relay, number, state, trial)

    def member(self, number):
        """How it does."""
        cdef member found
        relay_member_figures(self._relay, number, &found)
        return Member(
            found.state,
            bool(found.trial),
            found.sessions,
            found.errors,
            found.unanswered,
            found.answered,
        )

    def reconnect(self, slot, number):
        """The session goes on from what the system gives now."""
        cdef uint64_t id = number
        cdef uint32_t place
        cdef int found
        if not 0 <= slot < self._table.capacity:
            return False
        place = slot
        with nogil:
            found = relay_reconnect(self._relay, id, place)
        self._tell()
        return bool(found)

    def work(self, now):
        """Expire what is due; once a second see what the kernel dropped."""
        cdef uint64_t moment = now, due
        with nogil:
            due = relay_expire(self._relay, moment)
        self._tell()
        if now >= self._next_second:
            self._next_second = now + _SECOND
            self._count_drops()
            self._look_at_segmentation(now)
            with nogil:
                relay_look_for_spent(self._relay)
        return min(due, self._next_second)

    def _look_at_segmentation(self, now):
        """The relay does without where the device cannot; the device may be another one day."""
        cdef relay_figures_ figures
        if not self._segmented:
            return
        if self._retry_at and now >= self._retry_at:
            self._retry_at = 0
            relay_segment(self._relay, True)
            return
        relay_figures(self._relay, &figures)
        if not figures.segmentation and not self._retry_at:
            self._retry_at = now + SEGMENTATION_REST
            self._host.unsegmented(figures.unable)

    def _count_drops(self):
        for number, listener in self._listeners.items():
            seen = _drops(listener)
            new = (seen - self._drops[number]) & 0xFFFFFFFF
            if new:
                self._drops[number] = seen
                relay_count(self._relay, TOTALS.index("drops-listeners"), new)

    def figures(self):
        """Sessions now, all totals with what the live sessions have carried so far, and how the
        relay does."""
        cdef relay_figures_ figures
        with nogil:
            relay_settle(self._relay)
        relay_figures(self._relay, &figures)
        return {
            "sessions": self.sessions,
            **self._table.figures(),
            "workers": self._workers,
            "segmentation": figures.segmentation,
            "segmentation-refused": figures.unsegmented,
            "waiting-dropped": figures.waiting_dropped,
            "events-dropped": figures.events_dropped,
        }

    def close(self):
        """Stop carrying datagrams; the sessions stay in the table for the next one."""
        with nogil:
            relay_stop(self._relay)
        self._tell_all()
        with nogil:
            relay_retry(self._relay)
        self._tell_all()
        self._reactor.remove_reader(relay_bell(self._relay))
        if not self._threads:
            for number in range(self._workers):
                self._reactor.remove_reader(relay_poller(self._relay, number))
        for listener in self._listeners.values():
            for sock in listener.sockets:
                sock.close()
        relay_close(self._relay)
        self._listeners.clear()
        self._pool.close()


def _drops(listener):
    if listener.absent:
        return 0
    return sum(map(sockets.drops, listener.sockets)) & 0xFFFFFFFF
