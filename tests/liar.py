"""A child of the proxy that lies: it takes the real one's place, is lent what the real one is
lent, and says what nobody should believe.

A list of lies is told one after the other. Where a lie costs the link, the next process goes on
with the next one; after the last the real child has its place. Python runs `sitecustomize` before
anything else, and so it comes in.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import json
import os
import random
import select
import signal
import socket
import stat
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARENT, WAYS = "parent", "ways"
LONG = 150_000
Packet = tuple[str, bytes]
"""Whom it is for, and what it gets."""

_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
_STEP, _FLOOD = 20, 2000
"""Lies in one go; then it reads."""
_CODE = """
import sys
if sys.orig_argv[-3:-1] == ["udpproxy.child", {role!r}]:
    sys.path.insert(0, {tests!r})
    import liar
    liar.take_the_place(*{words!r})
"""


def come_in(directory: Path, role: str, *, count: int, seed: int, ever: str = "") -> Path:
    """What has to be on PYTHONPATH; `ever`: no list, but this kind of flood without an end."""
    text = code(directory, role, count=count, seed=seed, ever=ever)
    (directory / "sitecustomize.py").write_text(text)
    return directory


def code(
    directory: Path, role: str, *, count: int, seed: int, ever: str = "", here: Path = HERE
) -> str:
    """Of sitecustomize.py; `here` is where this file is, when it is run."""
    words = (str(directory), role, count, seed, ever)
    return _CODE.format(role=role, tests=str(here), words=words)


def told(directory: Path) -> int:
    """How many lies were told; -1: all."""
    with contextlib.suppress(OSError, ValueError):
        return int((directory / "told").read_text())
    return 0


def take_the_place(directory: str, role: str, count: int, seed: int, ever: str) -> None:
    """Nothing where all was said already."""
    begin = told(Path(directory))
    if begin >= 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        lies = flood(ever) if ever else [*fixed(role), *at_random(role, count, seed)]
        try:
            luck = random.Random(os.getpid())  # not the same each time: some deeds end the link
            Liar(Path(directory), role, luck).live(lies, begin, _FLOOD if ever else _STEP)
        except Exception:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(0)


class Liar:
    """As far as it must, it behaves."""

    def __init__(self, directory: Path, role: str, luck: random.Random) -> None:
        self._file = directory / "told"
        self._role = role
        self._luck = luck
        self._begun = False
        self._sign = 0.0
        self._nonsense = itertools.cycle(VALUES)
        self._parent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._parent.connect(f"{os.environ['RUNTIME_DIRECTORY']}/children.sock")
        self._parent.settimeout(0)
        self._ways: list[socket.socket] = []
        self._say(self._parent, packed("hello", role=role, version="0"))

    def live(self, lies: Any, begin: int, step: int) -> None:
        """Until all is said, or the parent has enough."""
        todo = enumerate(itertools.islice(lies, begin, None), begin)
        pending: tuple[int, Packet] | None = None
        while True:
            self._alive()
            self._listen(0.002)
            if not self._begun:
                continue
            for _ in range(step):
                pending = pending or next(todo, None)
                if pending is None:
                    self._file.write_text("-1")
                    self._listen(0.1)
                    return
                number, (whom, data) = pending
                if step == _STEP or number % step == 0:
                    self._file.write_text(str(number + 1))
                targets = [self._parent] if whom == PARENT else self._ways[-2:]
                if not all([self._say(target, data) for target in targets]):
                    break
                pending = None

    def _say(self, sock: socket.socket, data: bytes) -> bool:
        """False: it has no room."""
        try:
            sock.send(data)
        except BlockingIOError:
            return False
        except OSError:
            if sock is self._parent:
                os._exit(0)
        return True

    def _alive(self) -> None:
        if time.monotonic() - self._sign > 0.3:
            self._sign = time.monotonic()
            word = "READY=1\nWATCHDOG=1" if self._begun else "WATCHDOG=1"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.connect(os.environ["NOTIFY_SOCKET"])
                notify.send(word.encode())

    def _listen(self, patience: float) -> None:
        readable, _, _ = select.select([self._parent, *self._ways], [], [], patience)
        for sock in readable:
            try:
                data, control, _, _ = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 253))
            except OSError:
                data, control = b"", []
            fds = array.array("i")
            for _, _, raw in control:
                fds.frombytes(raw)
            if not data and sock is self._parent:
                os._exit(0)
            if not data:
                self._ways.remove(sock)
            else:
                self._heard(sock, json.loads(data), list(fds))

    def _heard(self, sock: socket.socket, message: Any, fds: list[int]) -> None:
        if message.get("what") == "channel":
            self._ways.append(socket.socket(fileno=fds.pop()))
            self._ways[-1].settimeout(0)
        for fd in fds:
            if self._role == "reg" and self._luck.random() < 0.5:
                spoil(fd, self._luck)
            os.close(fd)
        if message[""] == "tell" and message["what"] in ("resolve", "relay") and not self._begun:
            self._begun = True
            self._sign = 0.0
            self._say(sock, packed("tell", what="ready", args={"engine": "native"}))
        if message[""] == "ask":
            answer = packed("answer", number=message["number"], value=next(self._nonsense))
            self._say(sock, answer)


def spoil(fd: int, luck: random.Random) -> None:
    """Whatever REG can do to a thing that is lent to it."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.fstat(fd).st_mode):
            luck.choice([_cut, _deface, _deface_records])(fd, luck)
            return
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.type == socket.SOCK_DGRAM and sock.family != socket.AF_UNIX:
                luck.choice([_connect, _deafen, _deafen_for_good, _shut, _block, _shrink])(sock)
            else:
                luck.choice([_shut, _block, _take_all, _stuff])(sock)


def _cut(fd: int, _luck: random.Random) -> None:
    os.ftruncate(fd, 0)


def _deface(fd: int, luck: random.Random) -> None:
    os.pwrite(fd, luck.randbytes(os.fstat(fd).st_size), 0)


def _deface_records(fd: int, luck: random.Random) -> None:
    for _ in range(200):
        place = luck.randrange(4096, max(4097, os.fstat(fd).st_size))
        os.pwrite(fd, luck.randbytes(luck.choice([1, 8])), place)


def _connect(sock: socket.socket) -> None:
    sock.connect(("::1" if sock.family == socket.AF_INET6 else "127.0.0.1", 9))


def _deafen(sock: socket.socket) -> None:
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _deafen_for_good(sock: socket.socket) -> None:
    _deafen(sock)
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)


def _shut(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RDWR)


def _block(sock: socket.socket) -> None:
    sock.settimeout(None)


def _shrink(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)


def _take_all(sock: socket.socket) -> None:
    """What a carrier holds, which then nobody has."""
    sock.settimeout(0)
    while socket.recv_fds(sock, 4096, 253)[0]:
        pass


def _stuff(sock: socket.socket) -> None:
    sock.settimeout(0)
    while True:
        socket.send_fds(sock, [b"nonsense"], [sock.fileno()])


def packed(kind: str, **parts: Any) -> bytes:
    """As wire.encode would, whatever is in it."""
    return json.dumps({"": kind, **parts}).encode()


DEEP: Any = None
for _ in range(200):
    DEEP = [DEEP]
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**400, float("nan"), float("inf"), "", "text", "x" * 10_000, [], {}),
    *([[]], [None], {"x": {}}, DEEP, {"names": [], "ttl": -1}, {"names": ["a b"], "ttl": 1}),
    *({"names": ["x" * 300], "ttl": 1}, {"names": ["ok.test"] * 50, "ttl": 1}, {"names": 5}),
]
TTLS: list[Any] = [10**400, float("nan"), -1e300, None, "1", True]
ADDRESSES: list[Any] = ["garbage", 99999, None, [], "", "1.2.3", "0.0.0.0", "255.255.255.255"]
ADDRESSES += ["::ffff:127.0.0.1", "fe80::1%lo", "224.0.0.1"]
WORDS: list[Any] = [None, 7, "x.test", [], {}, ["x.test"], ["x" * 5000, [], 1]]
WORDS += [["unknown.test", ["192.0.2.1"], 1], ["x.test", ["192.0.2.1"] * 3000, 1]]
WORDS += [["x.test", ["192.0.2.1"], ttl] for ttl in TTLS]
WORDS += [["x.test", [address], 1] for address in ADDRESSES]
PROBED: list[Any] = [None, 7, [], {}, ["lies", "127.0.0.1:9", True, "both"], ["lies"] * 4]
PROBED += [["lies", "127.0.0.1:9", False, "x" * 999], ["lies", "127.0.0.1:9", 1, ""]]
PROBED += [["x", "y", True, ""], ["lies", "127.0.0.1:9", False, "a\nUDPP-888-I\x1b[2J"]]


SPENT: list[Any] = [[2], [2, 0, 0], [2, -1], [2, 10**400], [2, 10**6], [2, True], [True, 0]]
SPENT += [[7, 0], [10**400, 0], ["2", 0], [2, 0.5], None]


def fixed(role: str) -> Iterator[Packet]:
    """Everything that once did harm, and its kind."""
    for outcome in PROBED:
        yield from both("tell", what="probed", args={"results": [outcome]})
        yield from both("tell", what="probed", args={"results": outcome})
        yield from both("tell", what="probed", args={"results": [outcome] * 100})
    for word in WORDS:
        yield from both("tell", what="names", args={"found": [word]})
        yield from both("tell", what="names", args={"found": word})
    for number in range(300):  # a name that changes all the time
        found = [["x.test", [f"192.0.2.{number % 200 + 1}"], 1]]
        yield from both("tell", what="names", args={"found": found})
    for value in [*VALUES, *WORDS]:
        yield from both("answer", number=number, value=value)
        yield PARENT, packed("tell", what="ready", args={"engine": value})
        yield PARENT, packed("tell", what="channel", args={"role": value})
        for verb in ("client", "server", "info", "terminate", "x" * 1000):
            yield WAYS, packed("ask", number=1, verb=verb, args={"name": value})
    for _ in range(200):  # as if thousands of sessions had come
        yield from both("tell", what="scarce", args={"x": [0] * 10})
    for _ in range(200):  # all that there are, over and over
        some = [[family, slot] for family in (2, 10) for slot in range(500)]
        yield PARENT, packed("tell", what="spent", args={"sockets": some})
    for what in ("slots", "lack"):  # the parent's own words
        yield from both("tell", what=what, args={"count": -1, "errno": 10**400})
    yield from both("tell", what="nonsense", args={"x": [0] * (LONG // 3)})
    yield from both("answer", number=1, error="x" * LONG)
    yield from violations(role)


def violations(role: str) -> Iterator[Packet]:
    """What costs the link."""
    for data in (b"nonsense", b"[]", b'{"":"tell"}', b'{"":7}', b"\xff\x00", b"[" * LONG):
        yield PARENT, data
        yield WAYS, data
    yield PARENT, packed("hello", role=role, version="0")
    yield PARENT, packed("hello", role="ctl", version="0")
    yield PARENT, packed("lend", what="table", items=[])
    yield PARENT, packed("ask", number=1, verb="terminate")
    yield PARENT, packed("tell", what="x", args=[])
    yield PARENT, packed("answer", number="x")
    for one in SPENT if role == "reg" else ():
        yield PARENT, packed("tell", what="spent", args={"sockets": [[2, 0], one]})
    yield PARENT, packed("tell", what="spent", args={"sockets": 7})
    yield WAYS, packed("hello", role=role, version="0")
    yield WAYS, packed("lend", what="channel", items=[])


def both(kind: str, **parts: Any) -> Iterator[Packet]:
    """To the parent and to whom there is a way."""
    data = packed(kind, **parts)
    yield PARENT, data
    yield WAYS, data


def at_random(role: str, count: int, seed: int) -> Iterator[Packet]:
    """Well-formed, so that it goes far; what is broken costs the link at once."""
    rng = random.Random(seed)
    whats = ["names", "ready", "channel", "known", "relay", "resolve", "scarce", "probed", "x", ""]
    verbs = ["client", "server", "info", "resolve-now", "x"]
    for _ in range(count):
        value, word = rng.choice(VALUES), rng.choice(WORDS)
        args = {rng.choice(["found", "engine", "role", "x"]): rng.choice([value, [word], [value]])}
        if rng.random() < 0.2:
            args["results"] = rng.choices([*PROBED, *VALUES], k=rng.randrange(20))
        if rng.random() < 0.5:
            args["found"] = [rng.choice([*WORDS, *VALUES]) for _ in range(rng.randrange(20))]
        told = packed("tell", what=rng.choice(whats), args=args)
        answered = packed("answer", number=rng.randrange(500), value=rng.choice([value, word]))
        asked = packed("ask", number=rng.randrange(500), verb=rng.choice(verbs),
                       args={"name": value})  # fmt: skip
        yield rng.choice([(PARENT, told), (WAYS, told), (PARENT, answered), (WAYS, answered),
                          (WAYS, asked)])  # fmt: skip


def flood(kind: str) -> Iterator[Packet]:
    """As fast as it is taken, without an end."""
    words: list[Any] = [["x.test", [f"192.0.2.{number % 200 + 1}"], 1] for number in range(2000)]
    many = {
        "small": packed("tell", what="x"),
        "large": packed("tell", what="nonsense", args={"x": [0] * 60_000}),
        "names": packed("tell", what="names", args={"found": words}),
        "probed": packed("tell", what="probed", args={"results": [PROBED[-1]] * 64}),
        "answers": packed("answer", number=1, value=VALUES),
        "questions": packed("ask", number=1, verb="client", args={"name": "192.0.2.1"}),
    }
    if kind == "names":  # and some that change all the time
        for number in itertools.count():
            found = [["x.test", [f"192.0.2.{number % 200 + 1}"], 1]]
            one = packed("tell", what="names", args={"found": found if number % 100 else words})
            yield PARENT, one
            yield WAYS, one
    if kind != "questions":  # a child that asks the parent loses its link at once
        yield from itertools.cycle([(PARENT, many[kind]), (WAYS, many[kind])])
    yield from itertools.repeat((WAYS, many[kind]))
