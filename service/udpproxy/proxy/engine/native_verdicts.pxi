# What the host has decided, as the relay keeps it.

_TYPES = list(SessionType)

cdef enum:
    MOST_SWEPT = 256
    FEW = 64


cdef _to_pace(pace *made, given):
    made.interval, made.slack = given.interval, given.slack


cdef uint64_t _hash(name):
    """A rule's numbers change when the file does, its name only when somebody wants it."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@cython.no_gc_clear
cdef class _Verdicts:
    """Each verdict once; its number is its place in `_verdicts`."""

    cdef relay_ *_relay
    cdef dict _numbers
    cdef list _verdicts
    cdef dict _mirrors
    cdef Py_ssize_t _sweep_at

    cdef verdict *_intern(self, decided) except NULL:
        """The relay's own copy of a verdict."""
        cdef verdict *made
        number = self._numbers.get(decided)
        if number is not None:
            return <verdict *><size_t>number
        # A name whose server has ever new addresses makes a verdict of each.
        if len(self._numbers) >= max(self._sweep_at, FEW):
            self._sweep()
            self._sweep_at = 2 * len(self._numbers)
        made = relay_verdict(self._relay, len(decided.candidates))
        if made == NULL:
            raise MemoryError("a verdict")
        made.acl = decided.rule_number
        made.rule = _hash(decided.rule)
        made.generation = decided.generation
        made.type = _TYPES.index(decided.type)
        made.any_port = decided.any_port
        made.close_on_unreachable = decided.close_on_unreachable
        made.handed = decided.handed
        made.header = KINDS.index(decided.header)
        made.budget.idle = decided.budget.idle
        made.budget.lifetime = decided.budget.lifetime
        made.budget.upload_datagrams = decided.budget.upload_datagrams
        made.budget.download_datagrams = decided.budget.download_datagrams
        made.budget.upload_bytes = decided.budget.upload_bytes
        made.budget.download_bytes = decided.budget.download_bytes
        made.budget.silent = decided.budget.silent
        _to_pace(&made.budget.new_sessions, decided.budget.new_sessions)
        _to_pace(&made.budget.datagrams, decided.budget.datagrams)
        made.budget.amplification = decided.budget.amplification
        _to_address(&made.server, decided.server)
        if decided.network is not None:
            first, last = decided.network
            made.network_size = len(first)
            memcpy(made.network_first, <const uint8_t *>first, len(first))
            memcpy(made.network_last, <const uint8_t *>last, len(last))
        made.fallback = decided.fallback
        made.source_port = decided.source_port
        made.source_count = len(decided.sources)
        for at, packed in enumerate(decided.sources):
            made.sources[at].size = len(packed)
            memcpy(made.sources[at].packed, <const uint8_t *>packed, len(packed))
        made.member = decided.member
        if decided.candidates:
            made.balance = BALANCES.index(decided.balance)
        for at, one in enumerate(decided.candidates):
            _to_address(&made.candidates[at].server, one.server)
            made.candidates[at].identity = one.identity
            made.candidates[at].weight = one.weight
            made.candidates[at].member = one.member
            made.candidates[at].standby = one.standby
        made.tos = decided.tos
        made.keeps_dscp = decided.keeps_dscp
        made.mirror_count = len(decided.mirrors)
        for at, receiver in enumerate(decided.mirrors):
            _to_address(&made.mirrors[at].to, receiver)
        self._copy_by(made, decided)
        self._numbers[decided] = <size_t>made
        while len(self._verdicts) <= made.number:
            self._verdicts.append(None)
        self._verdicts[made.number] = decided
        return made

    cdef _copy_by(self, verdict *made, decided):
        """The sockets that its copies leave from now."""
        for at, receiver in enumerate(decided.mirrors):
            sock = self._mirrors.get(sockets.pack(receiver[0]))
            relay_copy_by(made, at, -1 if sock is None else sock.fileno())

    cdef _sweep(self):
        """Forget verdicts that no session and no decision has any more."""
        cdef uint32_t numbers[MOST_SWEPT]
        cdef uint32_t count = MOST_SWEPT
        while count == MOST_SWEPT:
            count = relay_sweep(self._relay, numbers, MOST_SWEPT)
            for i in range(count):
                del self._numbers[self._verdicts[numbers[i]]]
                self._verdicts[numbers[i]] = None
