# cython: language_level=3
"""The native engine: the relay in C (relay/), which runs in threads of its own without the GIL.

Here is only what joins it to Python: commands go in as calls that take a worker's lock, news come
out as a list that is read after an eventfd rang. The host is only ever called from here, in the
thread of whoever runs the reactor.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import functools
import os
import socket
import time

from udpproxy.config.model import SessionType
from udpproxy.engine import sockets
from udpproxy.engine.interface import Wait, Way
from udpproxy.session.reasons import Reason
from udpproxy.session.table import TOTALS, Record, State

cdef extern from "netinet/in.h" nogil:
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_in:
        uint16_t sin_port
        uint32_t sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_scope_id
        uint8_t sin6_addr
    uint16_t ntohs(uint16_t)

cdef extern from "relay/relay.h" nogil:
    cdef union address:
        sockaddr any
        sockaddr_in v4
        sockaddr_in6 v6
    cdef struct budget_ "budget":
        uint64_t idle, lifetime
        uint64_t upload_datagrams, download_datagrams, upload_bytes, download_bytes
    cdef struct verdict:
        budget_ budget
        uint64_t generation
        uint32_t number, acl
        address server
        uint8_t type, any_port, close_on_unreachable, network_size, handed
        uint8_t *first
        uint8_t *last
    cdef struct event:
        event *next
        uint64_t session
        int kind
        uint32_t listener, verdict, counter, what, count, size, slot
        int problem, upload
        address who
        uint8_t addressed_size
        uint8_t *addressed
        uint8_t *data
    cdef struct question:
        question *next
        address client
        uint32_t listener
        uint8_t addressed_size
        uint8_t *addressed
    cdef struct held_ "held":
        held_ *next
        address client
        uint8_t *addressed
        uint8_t *local
        uint32_t interface, size
        uint8_t *data
    cdef struct news:
        event *events
        question *questions
        uint32_t ended
    cdef struct relay_figures_ "relay_figures":
        uint64_t segmentation, unsegmented, waiting_dropped, events_dropped
    cdef struct relay_ "relay":
        pass
    int OPENED, REFUSED, DENIED, STRAYED, FAILED, SEEN, HANDED
    int POLICY
    ctypedef void (*seen)(void *, uint64_t, int, const void *, uint32_t) noexcept

    relay_ *relay_new(void *, uint32_t, uint32_t, uint32_t, int)
    void relay_free(relay_ *)
    void relay_spare_descriptors(uint32_t)
    int relay_start(relay_ *)
    void relay_stop(relay_ *)
    void relay_inline(relay_ *, seen, void *)
    int relay_turn(relay_ *, uint32_t)
    int relay_notice(relay_ *)
    int relay_poller(relay_ *, uint32_t)
    void relay_socket(relay_ *, int, uint32_t, int)
    int relay_listen(relay_ *, uint32_t, const int *, const address *)
    int relay_unlisten(relay_ *, uint32_t)
    void relay_ring(relay_ *)
    void relay_hush(relay_ *)
    void relay_news(relay_ *, news *, uint32_t *, uint32_t)
    void relay_free_news(news *)
    void relay_answer(relay_ *, const question *, verdict *, unsigned, uint64_t)
    void relay_forget(relay_ *)
    uint32_t relay_drops(relay_ *, uint32_t)
    int relay_describe(relay_ *, uint32_t, const char *, uint64_t, char *, size_t)
    int relay_ended(relay_ *, uint32_t, uint32_t *, uint64_t *)
    void relay_finish(relay_ *, const uint32_t *, uint32_t)
    verdict *relay_verdict(relay_ *)
    uint32_t relay_sweep(relay_ *, uint32_t *, uint32_t)
    held_ *relay_pull(relay_ *, const question *)
    void relay_inject(relay_ *, uint32_t, const address *, const uint8_t *, const uint8_t *,
                      uint32_t, const void *, uint32_t)
    int relay_redirect(relay_ *, uint64_t, const address *)
    int relay_kill(relay_ *, uint64_t, int)
    int relay_end(relay_ *, uint64_t, uint32_t, int)
    int relay_asks(relay_ *, uint32_t, uint64_t, int, const void *, uint32_t)
    void relay_pass(relay_ *, uint32_t, uint64_t, int, const void *, uint32_t)
    void relay_retry(relay_ *)
    void relay_settle(relay_ *)
    int relay_judge_by(relay_ *, uint64_t, uint32_t, verdict *)
    int relay_adopt(relay_ *, uint32_t, verdict *)
    void relay_clear(relay_ *, uint32_t)
    void relay_reserve(relay_ *, const uint8_t *)
    uint64_t relay_work(relay_ *, uint64_t)
    uint32_t relay_sessions(relay_ *)
    void relay_watch(relay_ *, int)
    void relay_tell(relay_ *, int)
    void relay_segment(relay_ *, int)
    void relay_count(relay_ *, uint32_t, uint64_t)
    void relay_figures(relay_ *, relay_figures_ *)
    void relay_silence(relay_ *)
    void make_address(address *, const uint8_t *, unsigned, uint16_t, uint32_t)

_SECOND = 1_000_000_000
_NEVER = 1 << 63
_TYPES = list(SessionType)
_REASONS = list(Reason)
_WHAT = (
    "receive from clients",
    "send to a server",
    "send to a client",
    "open a session",
    "fix the peer of a session",
    "follow a server to its new address",
)
_SPARE = 4096
"""Descriptors beside the sockets of sessions."""

cdef enum:
    MOST_ENDED = 256
    MOST_SWEPT = 256
    MOST_TEXT = 2048
    _INET6 = 10


cdef object _endpoint(const address *where):
    """As the socket module has it."""
    cdef const uint8_t *packed
    if where.any.sa_family != _INET6:
        packed = <const uint8_t *>&where.v4.sin_addr
        return socket.inet_ntop(socket.AF_INET, packed[:4]), ntohs(where.v4.sin_port)
    packed = <const uint8_t *>&where.v6.sin6_addr
    name = socket.inet_ntop(socket.AF_INET6, packed[:16])
    scope = where.v6.sin6_scope_id
    if scope:
        try:
            name = f"{name}%{socket.if_indextoname(scope)}"
        except OSError:
            name = f"{name}%{scope}"
    return name, ntohs(where.v6.sin6_port), 0, scope


cdef int _to_address(address *where, endpoint) except -1:
    packed = sockets.pack(endpoint[0])
    scope = sockets.scope_of(endpoint)
    make_address(where, packed, len(packed), endpoint[1], scope)
    return 0


cdef void _seen(void *context, uint64_t number, int upload, const void *data,
                uint32_t size) noexcept with gil:
    """While the relay runs in our own thread the host sees each datagram before it goes on."""
    payload = (<const uint8_t *>data)[:size]
    host = (<NativeEngine>context)._host
    host.datagram(number, "upload" if upload else "download", memoryview(payload))


@cython.no_gc_clear
cdef class NativeEngine:
    """See engine.interface.Engine.

    `threads`: False runs the relay inside of the reactor's own calls, for tests and debuggers.
    `lasting`: who knows for how long decisions hold; None: each holds for one session.
    """

    cdef relay_ *_relay
    cdef Py_buffer _memory
    cdef readonly str name
    cdef object __weakref__
    cdef object _reactor, _table, _pool, _host, _lasting
    cdef dict _listeners, _drops, _numbers
    cdef list _verdicts
    cdef bint _threads, _started, _mapped
    cdef uint32_t _workers
    cdef uint64_t _dropped
    cdef object _next_second

    def __cinit__(self):
        self._relay = NULL
        self._mapped = False

    def __init__(self, reactor, table, pool, host, *, per_client, evict, workers, threads, lasting):
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
        self._threads = threads
        self._workers = workers
        self._next_second = 0
        # Of the mapping itself: the collector clears a memoryview that a cycle holds, whoever else
        # still has its buffer, and Python crashes when that view is freed.
        PyObject_GetBuffer(table.memory.obj, &self._memory, PyBUF_WRITABLE)
        self._mapped = True
        relay_spare_descriptors(2 * table.capacity + _SPARE)
        self._relay = relay_new(self._memory.buf, table.capacity, workers, per_client, evict)
        if self._relay == NULL:
            raise MemoryError("the native engine's tables")
        self._lend_sockets()
        self._reactor.add_reader(relay_notice(self._relay), self._noticed)
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

    # ---- what comes out ----

    def _noticed(self):
        """The relay has news; the first time it only wants to begin."""
        relay_hush(self._relay)
        if self._threads and not self._started:
            self._start()
        self._tell(once=self._threads)

    def _start(self):
        problem = relay_start(self._relay)
        if problem:
            raise OSError(problem, os.strerror(problem))
        self._started = True

    def _turn(self, number):
        """Without threads: datagrams, what they led to, and those that had to wait for it."""
        cdef uint32_t worker = number
        with nogil:
            relay_turn(self._relay, worker)
        while self._tell(once=False):
            with nogil:
                relay_turn(self._relay, worker)

    def _tell(self, *, once):
        """Tell the host what happened, until nothing more does; was there anything?"""
        cdef news told
        cdef uint32_t[MOST_ENDED] slots  # a host that calls us back meanwhile has its own
        cdef bint any_news, heard = False
        while True:
            with nogil:
                relay_news(self._relay, &told, slots, MOST_ENDED)
            any_news = told.events != NULL or told.questions != NULL or told.ended
            if not any_news:
                return heard
            heard = True
            try:
                self._tell_events(told.events)
                self._answer_all(told.questions)
            finally:
                relay_free_news(&told)
            self._tell_ended(slots, told.ended)
            if once:
                return True

    cdef _tell_events(self, event *one):
        while one != NULL:
            self._tell_event(one)
            one = one.next

    cdef _tell_event(self, event *one):
        host = self._host
        if one.kind == SEEN:
            payload = one.data[:one.size]
            direction = "upload" if one.upload else "download"
            host.datagram(one.session, direction, memoryview(payload))
        elif one.kind == HANDED:
            self._treat(one)
        elif one.kind == OPENED:
            host.opened(one.session, self._verdicts[one.verdict], _endpoint(&one.who))
        elif one.kind == STRAYED:
            sender = _endpoint(&one.who)[:2]
            host.strayed(one.session, self._verdicts[one.verdict].rule, sender)
        elif one.kind == FAILED:
            host.failed(_WHAT[one.what], OSError(one.problem, os.strerror(one.problem)))
        elif one.listener not in self._listeners:
            pass
        elif one.kind == REFUSED:
            listener = self._listeners[one.listener]
            host.refused(TOTALS[one.counter], _endpoint(&one.who), listener)
        elif one.kind == DENIED and self._lasting is not None:
            addressed = sockets.unpack(one.addressed[:one.addressed_size])
            listener = self._listeners[one.listener]
            self._lasting.denied(listener, _endpoint(&one.who)[0], addressed, one.count)

    cdef _treat(self, event *one):
        """The host says what becomes of the datagram."""
        cdef int asks, up
        cdef uint32_t size
        cdef const uint8_t *payload
        with nogil:
            asks = relay_asks(
                self._relay, one.slot, one.session, one.upload, one.data, one.size
            )
        if not asks:
            return
        verdict = self._verdicts[one.verdict]
        direction = "upload" if one.upload else "download"
        data = one.data[:one.size]
        treatment = self._host.handed(verdict, one.slot, one.session, direction, data)
        if treatment is None:
            return
        if isinstance(treatment, Reason):
            up = _REASONS.index(treatment)
            with nogil:
                relay_end(self._relay, one.session, one.slot, up)
            return
        whither, treated = treatment
        up, size, payload = whither == "upload", len(treated), treated
        with nogil:
            relay_pass(self._relay, one.slot, one.session, up, payload, size)

    cdef _answer_all(self, question *one):
        cdef verdict *answer
        cdef uint64_t until
        cdef unsigned bits
        while one != NULL:
            listener = self._listeners.get(one.listener)
            if listener is not None:
                client = _endpoint(&one.client)[0]
                addressed = sockets.unpack(one.addressed[:one.addressed_size])
                decided = self._host.decide(listener, client, addressed)
                if isinstance(decided, Wait):
                    self._hand_over(listener, one, decided)
                    one = one.next
                    continue
                answer = NULL if decided is None else self._intern(decided)
                bits, until = 128, 0
                if self._lasting is not None:
                    bits, until = self._lasting.lasting(listener, client, addressed)
                with nogil:
                    relay_answer(self._relay, one, answer, bits, until)
            one = one.next

    cdef _hand_over(self, listener, question *one, waiting):
        """The host keeps what came for a session that needs a name."""
        cdef held_ *held
        cdef held_ *rest
        with nogil:
            held = relay_pull(self._relay, one)
        rest = held
        came = []
        while rest != NULL:
            size = 16 if rest.client.any.sa_family == _INET6 else 4
            way = Way(rest.addressed[:size], rest.local[:size], rest.interface)
            came.append((_endpoint(&rest.client), way, rest.data[:rest.size]))
            rest = rest.next
        while held != NULL:
            rest = held.next
            free(held)
            held = rest
        for client, way, data in came:
            if waiting is None:
                waiting = self._host.decide(listener, client[0], sockets.unpack(way.addressed))
            if isinstance(waiting, Wait):
                self._host.wait(waiting, listener, client, way, data)
                waiting = None  # the next one asks for itself
            else:
                self._inject(listener.number, client, way, data)

    cdef _inject(self, uint32_t number, client, way, data):
        cdef address where
        cdef uint8_t[16] addressed
        cdef uint8_t[16] local
        cdef uint32_t interface = way.interface, size = len(data)
        cdef const uint8_t *payload = data
        memset(addressed, 0, 16)
        memset(local, 0, 16)
        memcpy(addressed, <const uint8_t *>way.addressed, len(way.addressed))
        memcpy(local, <const uint8_t *>way.local, len(way.local))
        _to_address(&where, client)
        with nogil:
            relay_inject(self._relay, number, &where, addressed, local, interface, payload, size)

    cdef _tell_ended(self, const uint32_t *slots, uint32_t count):
        """The host hears of each; then their slots are free."""
        if count and self._lasting is not None and self._lasting.wants_texts():
            self._lasting.ended_texts(self._texts(slots, count))
        else:
            for i in range(count):
                self._tell_one_ended(slots[i])
        if count:
            with nogil:
                relay_finish(self._relay, slots, count)

    cdef _tell_one_ended(self, uint32_t slot):
        cdef uint32_t number
        cdef uint64_t id
        reason = _REASONS[relay_ended(self._relay, slot, &number, &id)]
        record = self._table.read(slot) or Record(id=id)
        record.drops = relay_drops(self._relay, slot)
        self._host.ended(record, self._verdicts[number].rule, reason)

    cdef list _texts(self, const uint32_t *slots, uint32_t count):
        """The records as lines, but for those that only Python can write or the host must see."""
        cdef char text[MOST_TEXT]
        cdef uint64_t id, now = time.monotonic_ns()
        cdef uint32_t number
        cdef int length
        texts = []
        for i in range(count):
            relay_ended(self._relay, slots[i], &number, &id)
            decided = self._verdicts[number]
            rule, length = decided.rule.encode(), -1
            if not decided.handed:
                length = relay_describe(self._relay, slots[i], rule, now, text, MOST_TEXT)
            if length < 0:
                self._tell_one_ended(slots[i])
            else:
                texts.append(text[:length].decode())
        return texts

    cdef verdict *_intern(self, decided) except NULL:
        """The relay's own copy of a verdict."""
        cdef verdict *made
        number = self._numbers.get(decided)
        if number is not None:
            return <verdict *><size_t>number
        made = relay_verdict(self._relay)
        if made == NULL:
            raise MemoryError("a verdict")
        made.acl = decided.acl
        made.generation = decided.generation
        made.type = _TYPES.index(decided.type)
        made.any_port = decided.any_port
        made.close_on_unreachable = decided.close_on_unreachable
        made.handed = decided.handed
        made.budget.idle = decided.budget.idle
        made.budget.lifetime = decided.budget.lifetime
        made.budget.upload_datagrams = decided.budget.upload_datagrams
        made.budget.download_datagrams = decided.budget.download_datagrams
        made.budget.upload_bytes = decided.budget.upload_bytes
        made.budget.download_bytes = decided.budget.download_bytes
        _to_address(&made.server, decided.server)
        if decided.network is not None:
            first, last = decided.network
            made.network_size = len(first)
            memcpy(made.first, <const uint8_t *>first, len(first))
            memcpy(made.last, <const uint8_t *>last, len(last))
        self._numbers[decided] = <size_t>made
        while len(self._verdicts) <= made.number:
            self._verdicts.append(None)
        self._verdicts[made.number] = decided
        return made

    cdef _sweep(self):
        """Forget verdicts that no session and no decision has any more."""
        cdef uint32_t numbers[MOST_SWEPT]
        cdef uint32_t count = MOST_SWEPT
        while count == MOST_SWEPT:
            count = relay_sweep(self._relay, numbers, MOST_SWEPT)
            for i in range(count):
                del self._numbers[self._verdicts[numbers[i]]]
                self._verdicts[numbers[i]] = None

    # ---- engine.interface.Engine ----

    def settle(self):
        """Whatever the workers were at is done, and the host knows of it."""
        with nogil:
            relay_settle(self._relay)
        self._tell(once=False)

    def watch(self, *, on):
        """Tell the host of each datagram from now on, or no more."""
        cdef int flag = on
        with nogil:
            relay_watch(self._relay, flag)

    def announce(self, *, openings):
        """Whether the host hears of each session that opens."""
        cdef int flag = openings
        with nogil:
            relay_tell(self._relay, flag)

    def segment(self, *, on):
        """UDP_SEGMENT, from now on."""
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

    def extend(self, carriers):
        """More sockets towards servers, of a family that was not needed before."""
        self._pool.extend(carriers)
        self._lend_sockets()

    cdef _lend_sockets(self):
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            for slot in range(min(self._pool.size(family), self._table.capacity)):
                relay_socket(self._relay, version, slot, self._pool.get(family, slot).fileno())

    def add_listener(self, listener):
        """Take clients' datagrams from it."""
        cdef address bound
        cdef int problem = 0
        each = [listener.socket, *listener.others]
        cdef int *fds = <int *>calloc(self._workers, sizeof(int))
        _to_address(&bound, (str(listener.address), listener.port))
        cdef uint32_t number = listener.number
        try:
            for i in range(self._workers):
                fds[i] = each[i].fileno()
            self._listeners[number] = listener
            self._drops[number] = _drops(listener)
            with nogil:
                problem = relay_listen(self._relay, number, fds, &bound)
        finally:
            free(fds)
        if problem:
            raise OSError(problem, os.strerror(problem))

    def remove_listener(self, number):
        """Its sessions end as `policy`."""
        cdef uint32_t wanted = number
        with nogil:
            relay_unlisten(self._relay, wanted)
        self.settle()
        listener = self._listeners.pop(number)
        del self._drops[number]
        for sock in (listener.socket, *listener.others):
            sock.close()

    def adopt(self):
        """Go on with the sessions in the table; how many there were."""
        found = []
        taken = bytearray(self._table.capacity)
        for slot in range(self._table.capacity):
            state = self._table.state(slot)
            record = self._table.read(slot) if state in (State.OPEN, State.UPLOAD_CLOSED) else None
            if record is not None:
                found.append((record.id, slot, record))
            elif state is not State.FREE:
                relay_clear(self._relay, slot)
        accepted = []
        for _, slot, record in sorted(found, key=lambda item: item[0]):
            known = record.listener in self._listeners
            decided = self._host.decided(record) if known else None
            if decided is None:
                self._table.add(record)
                self._host.ended(record, "-", Reason.POLICY)
                relay_clear(self._relay, slot)
            else:
                taken[slot] = 1
                accepted.append((slot, decided))
        relay_reserve(self._relay, taken)
        for slot, decided in accepted:
            relay_adopt(self._relay, slot, self._intern(decided))
        return len(found)

    def reconsider(self):
        """The rules have changed: ask the host about every session; how many ended."""
        cdef uint64_t id
        cdef uint32_t at
        cdef int gone
        cdef verdict *answer
        self.forget_decisions()
        self.settle()
        ended = 0
        for slot, record in self._table.records():
            id, at = record.id, slot
            decided = self._host.decided(record)
            if decided is None:
                with nogil:
                    gone = relay_end(self._relay, id, at, POLICY)
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
        self._tell(once=False)
        return bool(found)

    def inject(self, listener, client, way, datagrams):
        """Treat these, which the host kept, as if they came now."""
        for data in datagrams:
            self._inject(listener, client, way, data)
        while self._tell(once=False):
            with nogil:
                relay_retry(self._relay)

    def redirect(self, number, server):
        """The session goes on to another server."""
        cdef address where
        cdef uint64_t id = number
        cdef int found
        _to_address(&where, server)
        with nogil:
            found = relay_redirect(self._relay, id, &where)
        self._tell(once=False)
        return bool(found)

    def work(self, now):
        """Expire what is due; once a second see what the kernel dropped."""
        cdef uint64_t moment = now, due
        with nogil:
            due = relay_work(self._relay, moment)
        self._tell(once=False)
        if now >= self._next_second:
            self._next_second = now + _SECOND
            self._count_drops()
        return min(due, self._next_second)

    def _count_drops(self):
        cdef relay_figures_ figures
        for number, listener in self._listeners.items():
            seen = _drops(listener)
            new = (seen - self._drops[number]) & 0xFFFFFFFF
            if new:
                self._drops[number] = seen
                relay_count(self._relay, TOTALS.index("drops-listeners"), new)
        relay_figures(self._relay, &figures)
        if figures.events_dropped > self._dropped:
            new = figures.events_dropped - self._dropped
            relay_count(self._relay, TOTALS.index("records-dropped"), new)
            self._dropped = figures.events_dropped

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
        }

    def close(self):
        """Stop carrying datagrams; the sessions stay in the table for the next one."""
        with nogil:
            relay_stop(self._relay)
        self._tell(once=False)
        with nogil:
            relay_retry(self._relay)
        self._tell(once=False)
        self._reactor.remove_reader(relay_notice(self._relay))
        if not self._threads:
            for number in range(self._workers):
                self._reactor.remove_reader(relay_poller(self._relay, number))
        for listener in self._listeners.values():
            for sock in (listener.socket, *listener.others):
                sock.close()
        relay_silence(self._relay)
        self._listeners.clear()
        self._pool.close()


def _drops(listener):
    return sum(map(sockets.drops, (listener.socket, *listener.others))) & 0xFFFFFFFF
