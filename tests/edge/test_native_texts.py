"""What C and Python both know must be the same: the records' text, reasons, layout."""

from __future__ import annotations

import gc
import itertools
from ipaddress import ip_address

import pytest

from built import of_native
from rig import Rig, native_with, verdict
from udpproxy.proxy.config.model import Limits, SessionType
from udpproxy.proxy.engine.interface import Arrival, ListenerSocket, Verdict
from udpproxy.proxy.session import record as session_record
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.proxy_header import make
from udpproxy.proxy.session.reasons import Reason

pytestmark = of_native


class Texts:
    """Wants records as texts; decisions last for everybody."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.refused = 0
        self.bits, self.until = 0, 1 << 62

    def lasting(
        self, listener: ListenerSocket, client: str, addressed: str, port: int
    ) -> tuple[int, int]:
        return self.bits, self.until

    def denied(
        self, listener: ListenerSocket, client: str, addressed: str, port: int, count: int
    ) -> None:
        self.refused += count

    def tells(self, rule: str, reason: Reason, *, answered: bool) -> bool:
        return True

    def wants_texts(self) -> bool:
        return True

    def ended_texts(self, texts: list[str]) -> None:
        self.texts += texts


@pytest.fixture
def heard() -> Texts:
    return Texts()


@pytest.fixture
def rig(heard: Texts) -> Rig:
    return Rig(native_with(heard))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("kind", [SessionType.NORMAL, SessionType.ANY_SOCK], ids=lambda k: k.value)
def test_the_text_is_pythons(
    rig: Rig, heard: Texts, kind: SessionType, reason: Reason, address: str
) -> None:
    rig.listen(address)
    host = "::1" if ":" in address else "127.0.0.1"
    client, server = rig.udp(host), rig.udp(host)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], kind, rule="a rule")
    rig.converse(client, server, (host, rig.where()[1]))
    [(_, record)] = rig.table.records()
    assert rig.engine.kill(1, reason)
    rig.close()
    if rig.host.records:  # an address that only Python writes
        assert rig.host.reasons == {1: [reason]}
        assert not heard.texts
        return
    [text] = heard.texts
    duration = float(text.split("DURATION=")[1].split()[0])
    fields = session_record.fields(record, "a rule", reason, record.opened)
    fields["DURATION"] = f"{duration:.3f}"
    assert text == session_record.text(fields)
    assert 0 <= duration < 5


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
@pytest.mark.parametrize("client", ["192.0.2.7", "2001:db8::7", "::192.0.2.7"])
def test_who_sent_it_is_in_the_text(rig: Rig, heard: Texts, client: str, address: str) -> None:
    host = "::1" if ":" in address else "127.0.0.1"
    rig.listen(address, header_from=["::/0", "0.0.0.0/0"])
    balancer, server = rig.udp(host), rig.udp(host)
    rig.host.policy = lambda _: verdict(server.getsockname()[:2], rule="a rule")
    packed = ip_address(client).packed
    header = make("v2", (packed, 1), (packed[::-1], 2), 9)
    balancer.sendto(header + b"question", (host, rig.where()[1]))
    rig.take(server)
    [(_, record)] = rig.table.records()
    assert rig.engine.kill(1)
    rig.close()
    fields = session_record.fields(record, "a rule", Reason.KILLED, record.opened)
    texts = heard.texts or [session_record.text(fields)]  # else an address that only Python writes
    assert [text.partition(" DURATION")[0] for text in texts] == [
        session_record.text(fields).partition(" DURATION")[0]
    ]
    assert f" VIA_PORT={balancer_port(record)} " in texts[0]


def balancer_port(record: Record) -> int:
    assert record.via
    return record.via[1]


@pytest.mark.parametrize("other", [{"port": 5354}, {"address": "198.51.100.2"}])
def test_a_decision_is_for_the_port_that_a_header_names(
    rig: Rig, heard: Texts, other: dict[str, object]
) -> None:
    """One client and one sender: rules look at address and port."""
    rig.listen(header_from=["127.0.0.0/8"])
    balancer, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    one = {"address": "198.51.100.1", "port": 5353}
    for number, service in enumerate([one, one | other, one]):
        to = ip_address(str(service["address"])).packed, int(str(service["port"]))
        header = make("v2", (ip_address("192.0.2.7").packed, 4000 + number), to, 9)
        balancer.sendto(header + b"question", rig.where())
        rig.take(server)
    assert len(rig.host.asked) == 2
    rig.close()


def test_the_end_of_a_session_that_the_host_treats_is_told(rig: Rig, heard: Texts) -> None:
    heard.bits = 32
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda client: verdict(server.getsockname(), handed=client == "127.0.0.2")
    rig.converse(rig.udp("127.0.0.1"), server, rig.where())
    rig.converse(rig.udp("127.0.0.2"), server, rig.where())
    rig.pass_time(100)
    assert rig.host.reasons == {2: [Reason.IDLE]}
    [text] = heard.texts
    assert text.endswith("SESSION=1")
    rig.close()


def test_a_decision_is_asked_for_once(rig: Rig, heard: Texts) -> None:
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname(), limits=Limits())
    for number in range(1, 6):
        rig.converse(rig.udp(f"127.0.0.{number}"), server, rig.where())
    assert rig.host.asked == [(1, "127.0.0.1", "127.0.0.1")]
    rig.engine.forget_decisions()
    rig.converse(rig.udp(), server, rig.where())
    assert len(rig.host.asked) == 2
    rig.close()


def test_a_decision_that_is_over_holds_for_who_asked(rig: Rig, heard: Texts) -> None:
    heard.until = 1  # long ago
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    for _ in range(3):
        rig.converse(rig.udp(), server, rig.where())
    assert len(rig.host.asked) == 3
    rig.close()


def test_refusals_are_counted_and_told_together(rig: Rig, heard: Texts) -> None:
    rig.listen()
    client = rig.udp()
    rig.host.policy = lambda _: None
    client.sendto(b"one", rig.where())
    rig.until(lambda: rig.host.asked)
    for _ in range(20):
        client.sendto(b"more", rig.where())
    rig.until(lambda: (rig.pass_time(0), heard.refused == 20)[1])
    assert len(rig.host.asked) == 1
    rig.close()


def test_a_block_of_clients_has_its_own_answer(rig: Rig, heard: Texts) -> None:
    heard.bits = 31
    rig.listen()
    server = rig.udp()
    accept = verdict(server.getsockname())
    rig.host.policy = lambda client: accept if client in ("127.0.0.2", "127.0.0.3") else None
    refused = rig.udp("127.0.0.4")
    for address in ("127.0.0.2", "127.0.0.3"):
        refused.sendto(b"not me", rig.where())
        rig.converse(rig.udp(address), server, rig.where())
    assert sorted({asked[1] for asked in rig.host.asked}) == ["127.0.0.2", "127.0.0.4"]
    rig.close()


def test_messages_that_nobody_hears_are_counted_as_such(heard: Texts) -> None:
    """They are no records, and none of those was lost."""
    rig = Rig(native_with(heard))
    rig.listen()
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    arrival, many = Arrival(bytes([127, 0, 0, 1]), bytes([127, 0, 0, 1]), 1, rig.where()[1]), 5000
    rig.engine.inject(1, client.getsockname(), arrival, [bytes(65_535)] * many)
    assert rig.count("send-errors") == many
    assert rig.count("events-dropped") == many - len(rig.host.failures) > 0
    rig.pass_time(2)
    assert rig.count("records-dropped") == 0
    rig.close()


def test_refusals_of_one_kind_are_one_message(heard: Texts) -> None:
    """However many there are until the host looks: it hears of each, and no other gives way."""
    rig = Rig(native_with(heard), per_client=1)
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(rig.udp(), server, rig.where())
    arrival, many = Arrival(bytes([127, 0, 0, 1]), bytes([127, 0, 0, 1]), 1, rig.where()[1]), 5000
    rig.engine.inject(1, ("127.0.0.1", 9), arrival, [b"one too many"] * many)
    assert rig.host.refusals == ["refused-per-client"] * many
    assert rig.count("refused-per-client") == many
    assert rig.count("events-dropped") == 0
    rig.close()


def test_verdicts_that_nobody_uses_are_forgotten() -> None:
    """A name may give its server a new address for each session."""
    rig = Rig(native_with(None))
    rig.listen()
    client, server = rig.udp(), rig.udp()
    kept = rig.udp("127.0.0.2")
    rig.host.policy = lambda _: verdict(server.getsockname(), rule="kept")
    rig.converse(kept, server, rig.where())
    gc.collect()
    before = sum(isinstance(one, Verdict) for one in gc.get_objects())
    numbers = itertools.count(2)
    rig.host.policy = lambda _: verdict(server.getsockname(), generation=next(numbers))
    for session in range(2, 302):
        rig.converse(client, server, rig.where())
        assert rig.engine.kill(session)
    gc.collect()
    assert sum(isinstance(one, Verdict) for one in gc.get_objects()) - before < 150
    rig.converse(kept, server, rig.where())
    assert rig.host.opened_ids == list(range(1, 302))
    rig.close()
