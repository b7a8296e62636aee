"""Extensions in running proxies: both engines, in four processes and in one."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from echo import Echo, exchange, silent, udp
from host import free_port
from proxy import Endpoint, Proxy, config, until
from rig import ENGINES

MODULE = """
import os, sys, time
from pathlib import Path
from udpproxy.extension import DROP, PASS, Answer, End, Extension, Replace

DIARY = Path(__file__).parent / "diary"


def note(*words):
    with DIARY.open("a") as diary:
        print(os.getpid(), *words, file=diary)


class Talker(Extension):
    def __init__(self, rule):
        self.rule = rule
        note("made", rule)

    def opened(self, session, *, adopted):
        note("opened", session.number, session.rule, session.type, *session.client,
             *session.addressed, *session.server, adopted)
        session.state = 0

    def from_client(self, session, payload):
        session.state += 1
        match payload.split()[:1]:
            case [b"drop"]:
                return DROP
            case [b"loud"]:
                return Replace(payload.upper())
            case [b"count"]:
                return Answer(b"%d" % session.state)
            case [b"end"]:
                return End("told so by the client")
            case [b"raise"]:
                raise RuntimeError("as it was\\nasked")
            case [b"exit"]:
                sys.exit(3)
            case [b"base"]:
                raise KeyboardInterrupt
            case [b"ruin"]:
                from udpproxy.process.loop import EpollLoop
                EpollLoop._fire = None
                return DROP
            case [b"nonsense"]:
                return payload
            case [b"large"]:
                return Replace(bytes(65508))
        return PASS

    def from_server(self, session, payload):
        if payload == b"SECRET":
            return DROP
        return Replace(b"<" + payload + b">")

    def ended(self, session, reason):
        note("ended", session.number, reason)

    def info(self):
        return {"answer": 42, "word": "hello"}

    def close(self):
        note("closed", self.rule)


class Second(Talker):
    pass


class Stubborn(Talker):
    def close(self):
        note("hangs")
        while True:
            time.sleep(60)


class Unwilling(Talker):
    def __init__(self, rule):
        raise ValueError("not today")


class Picky(Talker):
    def opened(self, session, *, adopted):
        raise ValueError("not this one")
"""


@pytest.fixture(params=[*ENGINES, "single"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Talk:
    """A proxy whose only rule has an extension; the extension keeps a diary."""

    def __init__(self, directory: Path, engine: str, server: str) -> None:
        packages = directory / "packages"
        packages.mkdir(mode=0o755)
        (packages / "talker.py").write_text(MODULE)
        self._diary = packages / "diary"
        self._server = server
        self._engine = "auto" if engine == "single" else engine
        self.at: Endpoint = ("127.0.0.1", free_port())
        self.proxy = Proxy(directory, self.text(), single=engine == "single")
        self.proxy.environment["PYTHONPATH"] = str(packages)

    def text(self, name: str | None = "Talker", acl: str = "", top: str = "") -> str:
        """The configuration."""
        extension = f'extension = "talker:{name}"\n' if name else ""
        return config(
            self.at[1],
            self._server,
            top=f'max-sessions = 100\nengine = "{self._engine}"\n{top}',
            acl=extension + acl,
        )

    @property
    def diary(self) -> list[str]:
        """What the extension has noted, without the process numbers."""
        return [line.split(" ", 1)[1] for line in self.noted()]

    def noted(self) -> list[str]:
        """With them."""
        return self._diary.read_text().splitlines() if self._diary.exists() else []

    def totals(self) -> dict[str, int]:
        """REG's counters of extensions."""
        info = self.proxy.info("reg")
        return {k.removeprefix("extension-"): v for k, v in info.items() if "extension-" in k}


@contextmanager
def talking(
    directory: Path, engine: str, *, name: str = "Talker", acl: str = "", top: str = ""
) -> Iterator[tuple[Talk, socket.socket, Echo]]:
    with Echo() as echo, udp() as client:
        talk = Talk(directory, engine, str(echo))
        talk.proxy.write(talk.text(name, acl, top))
        with talk.proxy:
            yield talk, client, echo


def say(client: socket.socket, at: Endpoint, data: bytes) -> bytes:
    client.sendto(data, at)
    return client.recv(65535)


def test_everything_that_it_may_return(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine) as (talk, client, echo):
        at = talk.at
        assert say(client, at, b"hello") == b"<hello>"
        assert say(client, at, b"loud voices") == b"<LOUD VOICES>"
        client.sendto(b"drop it", at)
        assert say(client, at, b"count") == b"4"
        client.sendto(b"SECRET", at)
        assert silent(client)
        assert [data for data, _ in echo.received] == [b"hello", b"LOUD VOICES", b"SECRET"]
        (row,) = talk.proxy.sessions()
        assert (row["datagrams-up"], row["datagrams-down"], row["bytes-down"]) == (3, 3, 7 + 13 + 1)
        assert talk.totals() == {
            "sessions": 1, "datagrams": 8, "dropped": 2, "replaced": 3, "answered": 1,
            "ended": 0, "errors": 0,
        }  # fmt: skip
        info = talk.proxy.info("reg")
        assert (info["extension.all.answer"], info["extension.all.word"]) == (42, "hello")
        client.sendto(b"end of it", at)
        (record,) = until(talk.proxy.records)
        assert (record["REASON"], record["RESULT"]) == ("extension", "ABORTED")
        assert talk.proxy.said("UDPP-853-I session 1 ended by extension talker:Talker of rule all")
        port = client.getsockname()[1]
        until(lambda: talk.diary[-1] == "ended 1 extension")
        assert talk.diary == [
            "made all",
            f"opened 1 all normal 127.0.0.1 {port} 127.0.0.1 {at[1]} "
            f"{str(echo).replace(':', ' ')} False",
            "ended 1 extension",
        ]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (b"raise", "RuntimeError: as it was\\x0aasked (talker.py line "),
        (b"exit", "SystemExit: 3 (talker.py line "),
        (b"base", "KeyboardInterrupt:  (talker.py line "),
        (b"nonsense", "TypeError: bytes is nothing that can be returned"),
        (b"large", "ValueError: 65508 bytes are more than a datagram holds"),
    ],
)
def test_a_mistake_costs_a_datagram(tmp_path: Path, engine: str, word: bytes, told: str) -> None:
    with talking(tmp_path, engine) as (talk, client, echo):
        assert say(client, talk.at, b"before") == b"<before>"
        for _ in range(50):
            client.sendto(word, talk.at)
        assert say(client, talk.at, b"after") == b"<after>"
        assert [data for data, _ in echo.received] == [b"before", b"after"]
        assert talk.totals()["errors"] == 50
        lines = talk.proxy.said("UDPP-852-E extension talker:Talker of rule all failed in")
        assert 1 <= len(lines) <= 5
        assert f"from_client: {told}" in lines[0]
        assert len(talk.proxy.sessions()) == 1


def test_one_way_clients_get_no_answer(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine, acl='type = "one-way"') as (talk, client, _):
        client.sendto(b"count", talk.at)
        until(lambda: talk.totals()["errors"] == 1, step=0.05)
        assert silent(client)


def test_a_beginning_that_fails_ends_the_session(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine, name="Picky") as (talk, client, echo):
        client.sendto(b"hello", talk.at)
        (record,) = until(talk.proxy.records)
        assert record["REASON"] == "error"
        assert echo.received == []
        assert talk.proxy.said("failed in opened: ValueError: not this one")
        assert talk.diary == ["made all"]


def test_one_that_cannot_be_had_lets_nothing_pass(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine, name="Unwilling") as (talk, client, echo):
        client.sendto(b"hello", talk.at)
        until(lambda: talk.proxy.info()["refused-by-acl"] == 1, step=0.05)
        assert talk.proxy.said("UDPP-851-E extension talker:Unwilling of rule all cannot be used")
        assert talk.proxy.said("not today (talker.py line")
        assert echo.received == []
        talk.proxy.write(talk.text(None))
        talk.proxy.ask("reload")
        exchange(client, talk.at, b"without it")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_the_next_reg_goes_on_with_it(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine) as (talk, client, _):
        assert say(client, talk.at, b"hello") == b"<hello>"
        for number in (signal.SIGKILL, signal.SIGTERM):
            talk.proxy.next_reg(talk.proxy.kill(number, "reg"))
            assert say(client, talk.at, b"again") == b"<again>"
            assert say(client, talk.at, b"count") == b"2", "what it knew of the session is gone"
        assert len(talk.proxy.sessions()) == 1
        opened = [line for line in talk.diary if line.startswith("opened 1 ")]
        assert [line.rsplit(" ", 1)[1] for line in opened] == ["False", "True", "True"]
        assert talk.diary.count("closed all") == 1, "SIGKILL leaves no time for that"
    until(lambda: talk.diary[-1] == "closed all")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_it_is_closed_after_an_internal_error_too(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine) as (talk, client, _):
        reg = talk.proxy.reg_pid
        client.sendto(b"ruin the loop", talk.at)
        talk.proxy.next_reg(reg)
        assert talk.proxy.said(f"/reg[{reg}]: UDPS-530-C internal error")
        assert f"{reg} closed all" in talk.noted()
        assert say(client, talk.at, b"hello") == b"<hello>"
        assert len(talk.proxy.sessions()) == 1


def test_close_is_called_once(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine) as (talk, client, _):
        assert say(client, talk.at, b"hello") == b"<hello>"
        assert talk.proxy.stop() == 0
        assert talk.diary.count("closed all") == 1
        assert talk.diary[-1] == "closed all"
        (record,) = talk.proxy.records()
        assert record["REASON"] == "terminated"


def test_one_that_hangs_is_broken_off(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine, name="Stubborn", top="stop-timeout = 2") as (talk, client, _):
        assert say(client, talk.at, b"hello") == b"<hello>"
        assert talk.proxy.stop() == 0
        said = talk.proxy.said("UDPS-120-E")
        failed = "clean-up of extension talker:Stubborn of rule all failed: not done within 1 s"
        assert failed in said[0]
        assert not talk.proxy.said("killed")
        (record,) = talk.proxy.records()
        assert record["REASON"] == "terminated"


def test_a_reload_gives_it_takes_it_and_leaves_it(tmp_path: Path, engine: str) -> None:
    with talking(tmp_path, engine) as (talk, client, _):
        proxy, at = talk.proxy, talk.at

        def reload(text: str) -> None:
            proxy.write(text)
            proxy.ask("reload")

        assert say(client, at, b"hello") == b"<hello>"
        reload(talk.text(acl="limits = { idle = 100 }"))
        assert say(client, at, b"count") == b"2", "the same object, the same state"
        reload(talk.text("Second"))
        assert say(client, at, b"count") == b"1"
        reload(talk.text(None))
        assert say(client, at, b"count") == b"count"
        reload(talk.text())
        assert say(client, at, b"count") == b"1"
        assert [line.split()[0] for line in talk.diary] == [
            *("made", "opened", "made", "ended", "opened", "closed"),
            *("ended", "closed", "made", "opened"),
        ]
        proxy.write(talk.text("Nobody"))
        done = proxy.ctl("reload")
        assert done.returncode == 1
        assert "talker.py has no Nobody" in done.stderr
        assert say(client, at, b"count") == b"2", "the old configuration stays"
        assert len(proxy.sessions()) == 1


def test_a_start_without_it_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    talk = Talk(tmp_path, "auto", "127.0.0.1:9")
    talk.proxy.write(talk.text("Nobody"))
    with talk.proxy.launched():
        assert talk.proxy.wait() == 78
    (line,) = talk.proxy.said("session-acl[1].extension")
    assert f"UDPS-521-E cannot start: {talk.proxy.file}:" in line
    assert line.endswith("talker.py has no Nobody")


def test_other_rules_are_not_touched(tmp_path: Path, engine: str) -> None:
    """Nothing of them is counted by the extension's counters, which are not even there without."""
    with talking(tmp_path, engine, acl='from = ["127.0.0.2"]') as (talk, client, echo):
        rest = f'[[session-acl]]\nname = "rest"\nplug-to = "{echo}"\n'
        talk.proxy.write(talk.text(acl='from = ["127.0.0.2"]\n' + rest))
        talk.proxy.ask("reload")
        with udp("127.0.0.2") as treated:
            exchange(client, talk.at, b"plain")
            assert talk.totals()["datagrams"] == 0
            assert say(treated, talk.at, b"treated") == b"<treated>"
        assert talk.totals()["datagrams"] == 2
        talk.proxy.write(talk.text(None))
        talk.proxy.ask("reload")
        assert talk.totals() == {}
