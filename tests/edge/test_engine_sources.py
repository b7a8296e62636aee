"""From which address a server is written to (SPEC 12): in order, and what where none is there."""

from __future__ import annotations

import errno

import pytest

from rig import Rig, verdict
from udpproxy.proxy.config.model import SessionType

KINDS = pytest.mark.parametrize(
    "kind", [SessionType.NORMAL, SessionType.ANY_PORT, SessionType.ANY_SOCK], ids=lambda k: k.value
)
ABSENT = "192.0.2.77"
"""No host has it (RFC 5737)."""


@KINDS
@pytest.mark.parametrize(
    ("sources", "seen"),
    [
        (("127.0.0.5",), "127.0.0.5"),
        (("127.0.0.5", "127.0.0.6"), "127.0.0.5"),
        ((ABSENT, "127.0.0.6"), "127.0.0.6"),
        ((ABSENT,), "127.0.0.1"),
        (("",), "127.0.0.9"),
        ((ABSENT, ""), "127.0.0.9"),
        (("::1",), "127.0.0.1"),
    ],
)
def test_the_first_that_is_there(
    rig: Rig, kind: SessionType, sources: tuple[str, ...], seen: str
) -> None:
    rig.listen()
    client, server = rig.udp("127.0.0.9"), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, sources=sources)
    source = rig.converse(client, server, rig.where())
    assert source[0] == seen
    [(_, record)] = rig.table.records()
    assert record.source[0] == bytes(map(int, seen.split(".")))
    assert record.source[1] == source[1]
    assert rig.converse(client, server, rig.where()) == source


@KINDS
@pytest.mark.parametrize("sources", [(ABSENT,), ("::1",), ()])
def test_no_other_will_do(rig: Rig, kind: SessionType, sources: tuple[str, ...]) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, sources=sources, fallback=False)
    client.sendto(b"question", rig.where())
    rig.until(lambda: rig.count("refused-no-port") == 1)
    assert rig.host.problems == [errno.EADDRNOTAVAIL]
    assert rig.count("sessions") == 0


@KINDS
def test_a_socket_is_as_good_as_new_afterwards(rig: Rig, kind: SessionType) -> None:
    """The same slot with a source, without, and with another one."""
    rig.listen()
    client, server = rig.udp(), rig.udp()
    for number, sources in enumerate([("127.0.0.5",), (), ("127.0.0.6",), (ABSENT,)], 1):
        rig.host.policy = lambda _, sources=sources: verdict(  # type: ignore[misc]
            server.getsockname(), kind, sources=sources
        )
        source = rig.converse(client, server, rig.where())
        there = [one for one in sources if one != ABSENT]
        assert source[0] == (there[0] if there else "127.0.0.1")
        assert rig.engine.kill(number)


@KINDS
def test_it_stays_after_a_crash(rig: Rig, kind: SessionType) -> None:
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), kind, sources=("127.0.0.5",))
    source = rig.converse(client, server, rig.where())
    rig.crash()
    assert rig.restart() == 1
    assert rig.converse(client, server, rig.where()) == source


def test_a_server_that_moves_is_written_to_from_it_too(rig: Rig) -> None:
    rig.listen()
    client, server, other = rig.udp(), rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), sources=(ABSENT, "127.0.0.5"))
    rig.converse(client, server, rig.where())
    assert rig.engine.redirect(1, other.getsockname())
    assert rig.converse(client, other, rig.where())[0] == "127.0.0.5"
