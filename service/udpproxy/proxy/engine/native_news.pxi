# What comes out of the relay: the host hears of it, in the thread of whoever runs the reactor.

_WHAT = (
    "receive from clients",
    "send to a server",
    "send to a client",
    "fix the peer of a session",
    "follow a server to its new address",
    "put a PROXY header before a datagram",
)

cdef enum:
    # One part of what is told: some 10 ms even where each question needs a look at all the rules.
    # Strangers can make more of it than we can ever deal with, and REG has other things to do: its
    # loop turns between two parts. An extension may take its time for each event.
    MOST_TOLD = 256
    MOST_ANSWERED = 64
    MOST_ENDED = 256
    # Parts in one go where the relay runs in our own thread, and so waits for us.
    MOST_PARTS = 64
    MOST_TEXT = 2048


@cython.no_gc_clear
cdef class _News(_Verdicts):
    """Events, questions and ended sessions, and their answers."""

    cdef object _reactor, _table, _pool, _host, _lasting
    cdef dict _listeners
    cdef bint _threads, _started

    def _noticed(self):
        """The relay has news; the first time it only wants to begin."""
        relay_hush(self._relay)
        if self._threads and not self._started:
            self._start()
        self._tell()

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
        for _ in range(MOST_PARTS):
            if not self._tell():
                break
            with nogil:
                relay_turn(self._relay, worker)

    def _tell(self):
        """Tell the host a part of what happened, or some parts without threads; was there
        anything? What is left rings again."""
        heard = False
        for _ in range(1 if self._threads else MOST_PARTS):
            if not self._tell_part(MOST_TOLD, MOST_ANSWERED, MOST_ENDED):
                break
            heard = True
        return heard

    def _tell_all(self):
        """Tell the host all that has happened so far. It has an end although more happens
        meanwhile: what there can be fits into so many parts."""
        for _ in range(MOST_PARTS + self._table.capacity // MOST_ENDED):
            if not self._tell_part(MOST_TOLD, MOST_ANSWERED, MOST_ENDED):
                break

    def _tell_part(self, events, questions, ended):
        cdef news told
        cdef portion most
        cdef uint32_t[MOST_ENDED] slots  # a host that calls us back meanwhile has its own
        most.events, most.questions, most.ended = events, questions, ended
        with nogil:
            relay_news(self._relay, &told, slots, &most)
        if told.scarce:
            self._host.scarce()
        if told.spent:
            self._tell_spent()
        if told.events == NULL and told.questions == NULL and not told.ended:
            return bool(told.scarce or told.spent)
        try:
            self._tell_events(told.events)
            self._answer_all(told.questions)
        finally:
            relay_free_news(self._relay, &told)
        self._tell_ended(slots, told.ended)
        return True

    cdef _tell_spent(self):
        """All of them, for each takes the place of a message."""
        cdef uint32_t[MOST_ENDED] slots
        cdef uint32_t count = MOST_ENDED
        spent = []
        while count == MOST_ENDED:
            count = relay_take_spent(self._relay, slots, MOST_ENDED)
            for i in range(count):
                for version, family in _FAMILIES:
                    if relay_kept(self._relay, slots[i], version):
                        spent.append((family, slots[i]))
        if spent:
            self._host.spent(spent)

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
            rule = self._verdicts[one.verdict].rule
            host.opened(one.session, rule, _endpoint(&one.who), _endpoint(&one.to))
        elif one.kind == STRAYED:
            sender = _endpoint(&one.who)[:2]
            host.strayed(one.session, self._verdicts[one.verdict].rule, sender)
        elif one.kind == REROUTED:
            host.rerouted(one.slot, one.session, self._verdicts[one.verdict].rule)
        elif one.kind == SERVER_SILENT:
            host.silent(one.slot, one.session, self._verdicts[one.verdict].rule)
        elif one.kind == SERVER_UNREACHABLE:
            rule = self._verdicts[one.verdict].rule
            host.unreachable(one.slot, one.session, rule, one.problem)
        elif one.kind == SERVER_ANSWERS:
            host.answers(one.slot, one.session, self._verdicts[one.verdict].rule)
        elif one.kind == NOT_COPIED:
            problem = OSError(one.problem, os.strerror(one.problem))
            rule = self._verdicts[one.verdict].rule
            host.not_copied(rule, _endpoint(&one.who)[:2], problem, one.count)
        elif one.kind == FAILED:
            problem = OSError(one.problem, os.strerror(one.problem))
            host.failed(_WHAT[one.what], problem, one.slot, one.session)
        elif one.listener not in self._listeners:
            pass
        elif one.kind == REFUSED:
            listener = self._listeners[one.listener]
            problem = OSError(one.problem, os.strerror(one.problem)) if one.problem else None
            host.refused(TOTALS[one.counter], _endpoint(&one.who), listener, problem, one.count)
        elif one.kind == DENIED and self._lasting is not None:
            addressed = sockets.unpack(one.addressed[:one.addressed_size])
            listener = self._listeners[one.listener]
            client = _endpoint(&one.who)[0]
            self._lasting.denied(listener, client, addressed, one.port, one.count)

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
                decided = self._host.decide(listener, client, addressed, one.port)
                if isinstance(decided, PendingName):
                    self._hand_over(listener, one, decided)
                    one = one.next
                    continue
                answer = NULL if decided is None else self._intern(decided)
                bits, until = 128, 0
                if self._lasting is not None:
                    bits, until = self._lasting.lasting(listener, client, addressed, one.port)
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
            came.append((_endpoint(&rest.client), _arrival(rest), rest.data[:rest.size]))
            rest = rest.next
        while held != NULL:
            rest = held.next
            free(held)
            held = rest
        for client, arrival, data in came:
            if waiting is None:
                addressed = sockets.unpack(arrival.addressed)
                waiting = self._host.decide(listener, client[0], addressed, arrival.port)
            if isinstance(waiting, PendingName):
                self._host.wait(waiting, listener, client, arrival, data)
                waiting = None  # the next one asks for itself
            else:
                self._inject(listener.number, client, arrival, data)

    cdef _inject(self, uint32_t number, client, arrival, data):
        cdef address where
        cdef way came
        cdef uint32_t size = len(data)
        cdef const uint8_t *payload = data
        memset(&came, 0, sizeof(came))
        memcpy(came.addressed, <const uint8_t *>arrival.addressed, len(arrival.addressed))
        memcpy(came.local, <const uint8_t *>arrival.local, len(arrival.local))
        came.interface, came.port, came.tos = arrival.interface, arrival.port, arrival.tos
        if arrival.via is not None:
            _to_address(&came.via, arrival.via)
        _to_address(&where, client)
        with nogil:
            relay_inject(self._relay, number, &where, &came, payload, size)

    cdef _tell_ended(self, const uint32_t *slots, uint32_t count):
        """The host hears of each; then their slots are free."""
        if count and self._lasting is not None and self._lasting.wants_texts():
            self._lasting.ended_texts(self._texts(slots, count))
        else:
            for i in range(count):
                self._tell_one_ended(slots[i])
        if count:
            with nogil:
                relay_free_ended(self._relay, slots, count)

    cdef _tell_one_ended(self, uint32_t slot):
        cdef uint32_t number
        cdef uint64_t id
        cdef int answered
        reason = _REASONS[relay_how_ended(self._relay, slot, &number, &id, &answered)]
        record = self._table.read(slot)
        if record is None or record.id != id:
            record = Record(id=id)
        record.drops = relay_drops(self._relay, slot)
        self._host.ended(record, self._verdicts[number].rule, reason)

    cdef list _texts(self, const uint32_t *slots, uint32_t count):
        """The records as lines, but for those that only Python can write or the host must see."""
        cdef char text[MOST_TEXT]
        cdef uint64_t id, now = time.monotonic_ns()
        cdef uint32_t number
        cdef int length, answered
        texts = []
        for i in range(count):
            reason = _REASONS[relay_how_ended(self._relay, slots[i], &number, &id, &answered)]
            decided = self._verdicts[number]
            rule, length = decided.rule.encode(), -1
            if not decided.handed:
                length = relay_describe(self._relay, slots[i], rule, now, text, MOST_TEXT)
            if length < 0:
                self._tell_one_ended(slots[i])
            elif self._lasting.tells(decided.rule, reason, answered=bool(answered)):
                texts.append(text[:length].decode())
        return texts


cdef object _arrival(const held_ *held):
    cdef const way *came = &held.way
    own = held.client.any.sa_family == _INET6
    outer = came.via.any.sa_family == _INET6 if came.via.any.sa_family else own
    via = _endpoint(&came.via) if came.via.any.sa_family else None
    addressed, local = came.addressed[:16 if own else 4], came.local[:16 if outer else 4]
    return Arrival(addressed, local, came.interface, came.port, via, came.tos)


cdef void _seen(void *context, uint64_t number, int upload, const void *data,
                uint32_t size) noexcept with gil:
    """While the relay runs in our own thread the host sees each datagram before it goes on."""
    payload = (<const uint8_t *>data)[:size]
    host = (<_News>context)._host
    host.datagram(number, "upload" if upload else "download", memoryview(payload))
