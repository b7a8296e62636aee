"""The table and its sockets as the next one finds them: written over, cut off, unsealed."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import former_table
from built import NAMES
from echo import Echo, clients, exchange
from host import free_port
from proxy import Proxy, config, until
from rig import Rig, has_nothing, verdict
from stored import Units
from udpproxy.proxy.session import layout, sense
from udpproxy.proxy.session import table as t
from udpproxy.proxy.session.layout import Record, State
from udpproxy.proxy.session.table import Table

SESSIONS = 5
Damage = Callable[[memoryview], None]


def record_at(slot: int) -> int:
    return t.HEADER_SIZE + slot * layout.RECORD_SIZE


def state_77(memory: memoryview) -> None:
    memory[record_at(0) + 16] = 77


def counters_full(memory: memoryview) -> None:
    for word in layout.CHANGING:
        struct.pack_into("=Q", memory, record_at(0) + 8 * word, (1 << 64) - 1)
    struct.pack_into("=18Q", memory, 128, *[(1 << 64) - 1] * 18)


def rule_out_of_range(memory: memoryview) -> None:
    struct.pack_into("=I", memory, record_at(0) + 20, 1 << 31)
    struct.pack_into("=Q", memory, record_at(0) + 8 * sense.SUM, 0)


def all_random(memory: memoryview) -> None:
    end = record_at(SESSIONS)
    memory[t.HEADER_SIZE : end] = random.Random(1).randbytes(end - t.HEADER_SIZE)


def header_random(memory: memoryview) -> None:
    memory[:16] = random.Random(2).randbytes(16)


def none_has_a_socket(memory: memoryview) -> None:
    struct.pack_into("=Q", memory, 8 * t.GROWN, 0)


def more_have_sockets_than_there_are(memory: memoryview) -> None:
    struct.pack_into("=Q", memory, 8 * t.GROWN, (1 << 64) - 1)


DAMAGES: dict[Damage, int] = {
    state_77: 1, counters_full: 0, rule_out_of_range: 0, all_random: SESSIONS, header_random: 0,
    none_has_a_socket: 0, more_have_sockets_than_there_are: 0,
}  # fmt: skip
"""With how many sessions each costs."""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("engine", NAMES)
def test_a_damaged_record_costs_its_session_only(
    tmp_path: Path, engine: str, damage: Damage
) -> None:
    port, lost = free_port(), DAMAGES[damage]
    top = f'max-sessions = {SESSIONS + 5}\nengine = "{engine}"'
    with Echo() as echo, clients(SESSIONS) as socks, ExitStack() as stack:
        proxy = stack.enter_context(Proxy(tmp_path, config(port, str(echo), top=top)))
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"before")
        before = {row["session"] for row in proxy.sessions()}
        old = proxy.kill(signal.SIGSTOP, "reg")
        with proxy.table() as shared, memoryview(shared) as memory:
            damage(memory)
        proxy.info()
        rows = proxy.sessions()
        if lost == 0:
            assert {row["session"] for row in rows} == before
        proxy.kill(signal.SIGRTMIN)
        proxy.kill(signal.SIGKILL, "reg")
        proxy.next_reg(old)
        until(lambda: proxy.info()["reg-state"] == "ready")
        assert proxy.info()["reg-ends"] == 1
        # Half of the random ones look half-written, which is no damage.
        assert min(lost, 1) <= proxy.info()["sessions-lost"] <= lost
        assert len(proxy.sessions()) >= SESSIONS - lost
        for sock in socks:
            exchange(sock, ("127.0.0.1", port), b"after")
        numbers = [row["session"] for row in proxy.sessions()]
        assert len(numbers) == len(set(numbers)) == SESSIONS
        assert len(before & set(numbers)) == SESSIONS - lost
        assert proxy.stop() == 0
        assert proxy.said("UDPS-530") == proxy.said("UDPS-120") == []
        assert bool(proxy.said("UDPS-217-E")) == (damage in (state_77, all_random))
        assert len(proxy.records()) >= SESSIONS


@pytest.mark.parametrize("engine", NAMES)
def test_records_of_the_rest_are_written_at_the_end(tmp_path: Path, engine: str) -> None:
    port = free_port()
    with Echo() as echo, clients(SESSIONS) as socks:
        text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
        with Proxy(tmp_path, text) as proxy:
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"before")
            with proxy.table() as shared, memoryview(shared) as memory:
                state_77(memory)
                assert proxy.stop() == 0
            assert len(proxy.records()) == SESSIONS - 1
            assert proxy.said("UDPS-120") == []


@pytest.mark.parametrize("engine", NAMES)
def test_a_child_cannot_give_the_table_another_size(tmp_path: Path, engine: str) -> None:
    port = free_port()
    text = config(port, "127.0.0.1:9", top=f'max-sessions = 20\nengine = "{engine}"')
    with Proxy(tmp_path, text) as proxy:
        pid = proxy.reg_pid
        with proxy.table() as shared:
            size = len(shared)
        for name in os.listdir(f"/proc/{proxy.pid}/fd"):  # noqa: PTH208
            path = f"/proc/{proxy.pid}/fd/{name}"
            if "udp-proxy-sessions" not in os.readlink(path):  # noqa: PTH115
                continue
            fd = os.open(path, os.O_RDWR)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size + 1)
            with pytest.raises(PermissionError):
                os.pwrite(fd, bytes(8), size - 4)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
            assert os.fstat(fd).st_size == size
            os.close(fd)
        assert proxy.info()["sessions"] == 0
        assert proxy.reg_pid == pid


def replace_stored(units: Units, content: bytes) -> None:
    """What the store has as the table is this, without a seal."""
    os.close(units.stored("table"))
    units.store = [each for each in units.store if each[0] != "table"]
    memory = os.memfd_create("old")
    os.write(memory, content)
    units.store.append(("table", memory))


def stored_table(units: Units) -> Table:
    fd = units.stored("table")
    content = bytearray(os.pread(fd, os.fstat(fd).st_size, 0))
    return Table(memoryview(content), t.capacity_of(memoryview(content)), fresh=False)


def all_but_generation(table: Table) -> dict[int, Record]:
    return {slot: replace(record, generation=0) for slot, record in table.records()}


@contextmanager
def handed_over(directory: Path, engine: str, capacity: int) -> Iterator[Units]:
    """Three sessions of a parent that has stopped. Who has this makes the table what it is to be,
    and starts the next parent: then they go on there, and end."""
    port = free_port()
    with Echo() as echo, clients(3) as socks:
        text = config(port, str(echo), top=f'engine = "{engine}"\nmax-sessions = {capacity}')
        with Units(directory, text) as units:
            units.start()
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"before")
            assert units.stop() == 0
            yield units
            for sock in socks:
                exchange(sock, ("127.0.0.1", port), b"after")
            assert len(echo.sources) == 3
            assert units.said("UDPS-211-W") == []
            units.terminate()
            assert len(units.said("UDPP-888-I")) == 3


def resize(units: Units, before: int, capacity: int) -> None:
    """max-sessions is another for the next parent."""
    text = units.file.read_text()
    units.file.write_text(text.replace(f"max-sessions = {before}", f"max-sessions = {capacity}"))


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("engine", NAMES)
def test_a_table_of_the_layout_before_goes_on(tmp_path: Path, engine: str, *, sums: bool) -> None:
    """It is carried over, sealed, and grows; the first of that layout had no sums."""
    with handed_over(tmp_path, engine, 20) as units:
        before = all_but_generation(stored_table(units))
        content = former_table.former(stored_table(units))
        for slot in () if sums else range(20):
            at = former_table.HEADER_SIZE + slot * former_table.RECORD_SIZE
            content[at + former_table.SUM : at + former_table.RECORD_SIZE] = bytes(8)
        replace_stored(units, bytes(content))
        resize(units, 20, 60)
        units.start()
        fd = units.stored("table")
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        assert os.fstat(fd).st_size == t.size(60)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        assert all_but_generation(stored_table(units)) == before


@pytest.mark.parametrize("capacity", [10, 20, 60])
@pytest.mark.parametrize("engine", NAMES)
def test_a_table_that_somebody_made_longer_goes_on(
    tmp_path: Path, engine: str, capacity: int
) -> None:
    """As far as it is one; a file without an end is not copied."""
    with handed_over(tmp_path, engine, 20) as units:
        content = os.pread(units.stored("table"), t.size(20), 0)
        replace_stored(units, content + b"x" * 13)
        os.ftruncate(units.stored("table"), (1 << 40) + 13)
        resize(units, 20, capacity)
        units.start()
        assert os.fstat(units.stored("table")).st_size == t.size(max(20, capacity))


@pytest.mark.parametrize("lie", [none_has_a_socket, more_have_sockets_than_there_are])
@pytest.mark.parametrize("engine", NAMES)
def test_the_next_parent_does_not_believe_the_word_either(
    tmp_path: Path, engine: str, lie: Damage
) -> None:
    """How many slots have sockets stands where REG can write."""
    with handed_over(tmp_path, engine, 5000) as units:
        with mmap.mmap(units.stored("table"), 0) as shared, memoryview(shared) as memory:
            lie(memory)
        units.start()
        assert stored_table(units).grown == 250


@pytest.mark.parametrize("engine", NAMES)
def test_what_is_no_table_is_given_up(tmp_path: Path, engine: str) -> None:
    port = free_port()
    with Echo() as echo, clients(1) as (client,):
        text = config(port, str(echo), top=f'max-sessions = 20\nengine = "{engine}"')
        with Units(tmp_path, text) as units:
            units.start()
            exchange(client, ("127.0.0.1", port), b"before")
            for count, content in enumerate([b"", b"x" * 100, bytes(t.size(20))], 1):
                assert units.stop() == 0
                replace_stored(units, content)
                units.start()
                assert len(units.said("UDPS-211-W")) == count
                exchange(client, ("127.0.0.1", port), b"after")
            units.stop()
            fd = units.stored("table")
            with socket.socket() as other:
                os.dup2(other.fileno(), fd, inheritable=False)
            units.start()
            assert len(units.said("UDPS-211-W")) == 4
            exchange(client, ("127.0.0.1", port), b"after")
            units.terminate()


def prepared(rig: Rig, count: int = 2) -> list[tuple[socket.socket, socket.socket]]:
    """Sessions that have had an answer, each with a client and a server of its own."""
    rig.listen()
    pairs = []
    for _ in range(count):
        client, server = rig.udp(), rig.udp()
        rig.host.policy = lambda _, server=server: verdict(server.getsockname())  # type: ignore[misc]
        rig.converse(client, server, rig.where())
        pairs.append((client, server))
    return pairs


def slot_of(rig: Rig, number: int) -> int:
    return next(slot for slot, record in rig.table.records() if record.id == number)


def test_no_reply_goes_to_somebody_else(rig: Rig) -> None:
    """One bit of the client's address: the session is lost, nobody else is answered."""
    (client, server), (other, _) = prepared(rig)
    slot = slot_of(rig, 1)
    rig.stop()
    source = next(r.source for _, r in rig.table.records() if r.id == 1)
    other_port = struct.pack("=H", other.getsockname()[1])
    rig.table.memory[record_at(slot) + 36 : record_at(slot) + 38] = other_port
    assert rig.restart() == 1
    assert list(rig.host.losses) == [slot]
    server.sendto(b"for nobody", (socket.inet_ntoa(source[0]), source[1]))
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    assert has_nothing(other)
    assert rig.count("sessions-lost") == 1


def test_a_copied_record_is_no_second_session(rig: Rig) -> None:
    prepared(rig)
    rig.stop()
    slots = [slot_of(rig, 1), slot_of(rig, 2)]
    free = next(slot for slot in range(8) if slot not in slots)
    memory, first = rig.table.memory, record_at(slots[0])
    memory[record_at(free) : record_at(free + 1)] = memory[first : first + layout.RECORD_SIZE]
    memory[record_at(slots[1]) : record_at(slots[1] + 1)] = memory[
        first : first + layout.RECORD_SIZE
    ]
    assert rig.restart() == 1
    assert len(rig.host.losses) == 2
    rig.host.policy = lambda _: None


def test_a_crash_while_it_follows_its_server(rig: Rig) -> None:
    """The socket has no port or no peer any more: the session goes on at the new server."""
    (client, _), _ = prepared(rig)
    slot, new = slot_of(rig, 1), rig.udp()
    address, port = new.getsockname()
    rig.table.redirect(slot, (socket.inet_aton(address), port), (b"", 0))
    rig.crash()
    assert rig.restart() == 2
    client.sendto(b"where?", rig.where())
    data, source = rig.take(new)
    assert data == b"where?"
    new.sendto(b"here", source)
    assert rig.take(client)[0] == b"here"
    assert rig.host.losses == {}


def test_a_session_without_a_socket_is_lost(rig: Rig) -> None:
    prepared(rig)
    rig.stop()
    rig.carriers.pop(0).close()
    assert rig.restart() == 0
    assert len(rig.host.losses) == 2
    assert rig.count("sessions") == 0
    assert not rig.engine.kill(1)


def test_numbers_are_never_given_again(rig: Rig) -> None:
    prepared(rig)
    rig.stop()
    rig.table.words[t.NEXT_ID] = 1
    assert rig.restart() == 2
    client, server = rig.udp(), rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    rig.converse(client, server, rig.where())
    assert rig.host.opened_ids == [1, 2, 3]


def test_a_record_that_is_freed_does_not_come_back(rig: Rig) -> None:
    prepared(rig, 1)
    slot = slot_of(rig, 1)
    assert rig.engine.kill(1)
    rig.until(lambda: rig.table.state(slot) is State.FREE)
    rig.stop()
    rig.table.memory[record_at(slot) + 16] = State.OPEN
    assert rig.restart() == 0
    assert list(rig.host.losses) == [slot]


def test_both_languages_have_the_same_sum(rig: Rig) -> None:
    """Each engine reads what the other has written; here: what Python reads of either."""
    prepared(rig)
    for slot, record in rig.table.records():
        copy = Table(memoryview(bytearray(t.size(1))), 1, fresh=True)
        copy.write(0, record)
        at = rig.table.at(slot)
        assert rig.table.words[at + sense.SUM] == copy.words[copy.at(0) + sense.SUM]
        assert isinstance(record, Record)


ROUNDS = int(os.environ.get("TABLE_DAMAGES", "120"))
"""Random damages for each engine; 10,000 make a long run."""


def harm_at_random(memory: memoryview, chance: random.Random, slots: list[int]) -> set[int]:
    """Which slots were touched; flips, whole records, lengths, the header."""
    touched: set[int] = set()
    for _ in range(chance.randint(1, 4)):
        slot, kind = chance.choice(slots), chance.randrange(5)
        at = record_at(slot)
        if kind == 4:
            where = chance.randrange(16, 40 * 8)
            memory[where] = chance.randrange(256)
            continue
        touched.add(slot)
        if kind == 0:
            where = at + chance.randrange(layout.RECORD_SIZE)
            memory[where] ^= 1 << chance.randrange(8)
        elif kind == 1:
            memory[at : at + layout.RECORD_SIZE] = chance.randbytes(layout.RECORD_SIZE)
        elif kind == 2:
            memory[at + chance.choice([16, 17, 18, 19, 44])] = chance.randrange(256)
        else:
            other = record_at(chance.randrange(8))
            memory[at : at + layout.RECORD_SIZE] = bytes(memory[other : other + layout.RECORD_SIZE])
    return touched


def test_random_damage_costs_what_it_touches(rig: Rig) -> None:
    """Whole records go on over the same sockets, and nobody gets what is for another."""
    rig.listen()
    server = rig.udp()
    rig.host.policy = lambda _: verdict(server.getsockname())
    clients = [rig.udp() for _ in range(5)]
    for number in range(ROUNDS):
        chance = random.Random(number)
        sources = [rig.converse(client, server, rig.where()) for client in clients]
        ports = {record.source[1]: slot for slot, record in rig.table.records()}
        slots = [ports[source[1]] for source in sources]
        rig.stop() if chance.randrange(2) else rig.crash()
        touched = harm_at_random(rig.table.memory, chance, slots)
        rig.table.resize(rig.capacity)  # as the parent does for each REG
        rig.restart()
        for client, slot, source in zip(clients, slots, sources, strict=True):
            mark = b"%d to %d" % (number, slot)
            server.sendto(mark, source)
            if slot not in touched:
                assert rig.take(client) == (mark, rig.where()), number
        # A changed state may have closed a session to its client; it would hold its slot for ever.
        for _, record in list(rig.table.records()):
            if record.state is State.UPLOAD_CLOSED:
                assert rig.engine.kill(record.id), number
        for client in clients:
            client.sendto(b"go on", rig.where())
            _, source = rig.take(server)
            server.sendto(b"yes", source)
            got = b""
            while got != b"yes":
                got, _ = rig.take(client)
                # What came late may only be what was meant for this one.
                own = b"%d to %d" % (number, slots[clients.index(client)])
                assert got in (b"yes", own), number
