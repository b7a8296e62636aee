"""Broken, forged and hostile DNS answers against the look-up machine: python bench/fuzz_answers.py
[COUNT] [SEED]. Whatever comes in, nothing may be raised, no look-up may end later than its limit,
no single answer may cost long, and what is believed is well-formed."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from udpproxy.config.model import NameServer, Resolver
from udpproxy.resolver.machine import Action, ConnectTcp, Done, LookUp, SendUdp
from udpproxy.resolver.question import forward, reverse
from udpproxy.resolver.result import Family, Result

COUNT = 1_000_000
SLOW = 0.05
"""Seconds of CPU that one answer may cost at most (a garbage collection is in it)."""

_RESOLVER = Resolver(
    servers=(NameServer(address=ip_address("192.0.2.53")),) * 2, search=("a.test", "b.test")
)
_TEXTS = {"A": "192.0.2.1", "AAAA": "2001:db8::1", "PTR": "pc.lab.test.", "CNAME": "c.lab.test."}


@dataclass(slots=True)
class Tally:
    """What a run found."""

    inputs: int = 0
    finished: int = 0
    believed: int = 0
    slowest: float = 0.0


def fuzz(count: int, seed: int) -> Tally:
    """So many inputs; AssertionError, or whatever was raised, for the first that breaks a rule."""
    rng, tally = random.Random(seed), Tally()
    while tally.inputs < count:
        _one(rng, tally)
    return tally


def _one(rng: random.Random, tally: Tally) -> None:
    """One look-up, bombarded until it ends."""
    if rng.random() < 0.3:
        wanted = reverse(ip_address("192.0.2.1"))
    else:
        wanted = forward(
            rng.choice(["srv", "srv.lab.test", "x.test."]), _RESOLVER.search, Family.BOTH
        )
    machine, now = LookUp(wanted, _RESOLVER, 5.0, rng), 0.0
    actions = machine.started(now)
    for _ in range(60):
        result, sent, tcp = _told(actions)
        if result is not None:
            tally.finished += 1
            tally.believed += result.failure is None
            _well_formed(result)
            return
        actions = []
        if sent is not None or tcp is not None:
            query = sent or tcp
            assert query is not None
            data = _answer(rng, query.data)
            began = time.thread_time()
            feed = machine.datagram if sent else machine.tcp_answer
            actions = feed(now, query.server, data)
            cost = time.thread_time() - began
            tally.inputs += 1
            tally.slowest = max(tally.slowest, cost)
            assert cost < SLOW, f"{cost:.3f} s for {data.hex()}"
        if not actions:
            assert machine.deadline is not None
            assert machine.deadline <= 5.0
            now = max(now, machine.deadline)
            actions = machine.timer(now)
    raise AssertionError("the look-up does not end")


def _told(actions: list[Action]) -> tuple[Result | None, SendUdp | None, ConnectTcp | None]:
    result = next((each.result for each in actions if isinstance(each, Done)), None)
    sent = next((each for each in actions if isinstance(each, SendUdp)), None)
    return result, sent, next((each for each in actions if isinstance(each, ConnectTcp)), None)


def _well_formed(result: Result) -> None:
    assert result.failure is None or not result.names
    for name in result.names:
        assert name.isascii()
        assert name.isprintable()
        assert len(name) <= 254
    assert 0 <= result.ttl <= _RESOLVER.max_ttl


def _answer(rng: random.Random, query: bytes) -> bytes:
    """Right, a little wrong, or rubbish."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(0, 600))
    try:
        data = bytearray(_right(rng, query))
    except dns.exception.DNSException:
        return query
    if kind < 0.25:
        return bytes(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 if data:
                data[place] = rng.randrange(256)
            case 1 if data:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place:place] = rng.randbytes(rng.randrange(1, 40))
            case 3:
                del data[place : place + rng.randrange(1, 40)]
            case 4:  # pointers, where most parsers fall
                data[place : place + 2] = bytes([0xC0 | rng.randrange(64), rng.randrange(256)])
            case _:
                data[6:12] = rng.randbytes(6)
    return bytes(data)


def _right(rng: random.Random, query: bytes) -> bytes:
    asked = dns.message.from_wire(query)
    answer = dns.message.make_response(asked)
    question = asked.question[0]
    name = question.name
    for _ in range(rng.randrange(4)):
        kind = rng.choice([dns.rdatatype.to_text(question.rdtype), "CNAME", "A", "PTR"])
        ttl = rng.choice([0, 60, 2**31 - 1])
        answer.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, _TEXTS[kind]))
        if kind == "CNAME":
            name = dns.name.from_text(_TEXTS["CNAME"])
    if rng.random() < 0.1:
        answer.set_rcode(rng.randrange(12))
    if rng.random() < 0.1:
        answer.flags |= dns.flags.TC
    return answer.to_wire()


def main(words: list[str]) -> int:
    """The exit status."""
    count = int(words[0]) if words else COUNT
    seed = int(words[1]) if len(words) > 1 else random.SystemRandom().randrange(2**32)
    print(f"{count} inputs, seed {seed}", flush=True)
    began = time.monotonic()
    tally = fuzz(count, seed)
    took = time.monotonic() - began
    print(
        f"{tally.inputs} inputs in {took:.1f} s: {tally.finished} look-ups ended, "
        f"{tally.believed} with an answer, the slowest input {tally.slowest * 1e3:.2f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
