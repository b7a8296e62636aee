"""The extensions of session ACLs, as REG has them: loaded, called, and kept from doing harm.

Whatever one raises, be it meant to end a process, costs a datagram or a session and a log line,
never the relay. Sessions of a rule whose extension cannot be had are refused: a filter that is
missing lets nothing pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from udpproxy.extension import (
    Answer,
    End,
    Extension,
    Fate,
    FromClient,
    FromServer,
    Replace,
    Session,
)
from udpproxy.process import messages
from udpproxy.process.clean_up import Late
from udpproxy.process.commands import Figures
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.proxy.config.model import Config, ExtensionName, SessionType
from udpproxy.proxy.engine.interface import ExtensionResult, Verdict
from udpproxy.proxy.reg import installed
from udpproxy.proxy.reg.installed import told
from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.record import address_text
from udpproxy.proxy.session.table import Table

_LARGEST = 65_507
_LONGEST_TEXT, _MOST_INFO = 200, 64


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    rule: str
    name: ExtensionName
    its: Extension


@dataclass(slots=True, eq=False)
class _Bound:
    """A session and whose it is; `broken`: its beginning failed, and it has to end."""

    by: _Loaded
    session: Session
    broken: bool = False


class Extensions:
    """All of one configuration."""

    def __init__(self, logs: Logs, table: Table) -> None:
        self._logs = logs
        self._table = table
        self._rate_limit = RateLimit()
        self._wanted: set[str] = set()
        self._loaded: dict[str, _Loaded] = {}
        self._bound: dict[int, _Bound] = {}
        self._leaving: list[_Loaded] = []
        self._totals = dict.fromkeys(
            ("datagrams", "dropped", "replaced", "answered", "ended", "errors"), 0
        )

    # ---- with the configuration ----

    def configure(self, config: Config) -> None:
        """Load what is new. What a rule has as before stays; retire() closes the others."""
        before, self._loaded = self._loaded, {}
        wanted = {
            rule.name: rule.extension for rule in config.rules if rule.accept and rule.extension
        }
        self._wanted = set(wanted)
        for rule, name in wanted.items():
            here = before.get(rule)
            if here is None or here.name != name:
                here = self._load(rule, name)
            if here is not None:
                self._loaded[rule] = here
        kept = set(map(id, self._loaded.values()))
        self._leaving += [each for each in before.values() if id(each) not in kept]

    def retire(self) -> None:
        """The sessions have been asked about: nobody has the old ones any more."""
        while self._leaving:
            leaving = self._leaving.pop()
            for number in [n for n, bound in self._bound.items() if bound.by is leaving]:
                self.ended(number, Reason.POLICY)
            self._call(leaving, "close", leaving.its.close)

    def closings(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """The process ends, sessions may go on in the next one: what is to be done, and for whom.
        Whoever is asked to treat a datagram from now on lets nothing pass."""
        leaving, self._loaded = list(self._loaded.values()), {}
        self._bound.clear()
        for each in reversed(leaving):
            close = functools.partial(self._call, each, "close", each.its.close)
            yield f"extension {each.name} of rule {each.rule}", close

    def refuses(self, rule: str) -> bool:
        """Is the rule's extension missing?"""
        return rule in self._wanted and rule not in self._loaded

    def _load(self, rule: str, name: ExtensionName) -> _Loaded | None:
        try:
            its = installed.load(name)(rule)
        except BaseException as problem:
            self._logs.say(messages.EXTENSION_UNUSABLE, name, rule, told(problem), RULE=rule)
            return None
        self._logs.say(messages.EXTENSION_LOADED, name, rule, RULE=rule)
        return _Loaded(rule, name, its)

    # ---- with sessions ----

    def judged(self, record: Record, verdict: Verdict) -> None:
        """A session that was there before is under that verdict from now on."""
        bound, loaded = self._bound.get(record.id), self._loaded.get(verdict.rule)
        if bound and bound.by is loaded:
            return
        if bound:
            self.ended(record.id, Reason.POLICY)
        if loaded:
            self._begin(loaded, record, adopted=True)

    def handed(
        self, verdict: Verdict, slot: int, number: int, direction: str, payload: bytes
    ) -> ExtensionResult:
        """See engine.interface.Host."""
        bound = self._bound.get(number)
        if bound is None:
            loaded, record = self._loaded.get(verdict.rule), self._table.read(slot)
            if loaded is None or record is None or record.id != number:
                # A reload took the extension away while this was on its way.
                return None if verdict.rule in self._wanted else (direction, payload)
            bound = self._begin(loaded, record, adopted=False)
        if bound.broken:
            return Reason.ERROR
        self._totals["datagrams"] += 1
        its, action = bound.by.its, None
        from_client = direction == "upload"
        what = "from_client" if from_client else "from_server"
        try:
            if from_client:
                action = its.from_client(bound.session, payload)
            else:
                action = its.from_server(bound.session, payload)
            return self._treatment(bound, direction, payload, action)
        except BaseException as problem:
            self._failed(bound.by, what, problem)
            return None

    def ended(self, number: int, reason: Reason) -> None:
        """A session is gone."""
        bound = self._bound.pop(number, None)
        if bound and not bound.broken:
            self._call(bound.by, "ended", lambda: bound.by.its.ended(bound.session, reason.value))

    def figures(self) -> Figures:
        """What the proxy counts of them all, and what each tells of itself; none: nothing."""
        if not self._wanted:
            return {}
        figures: Figures = {"extension-sessions": len(self._bound)}
        figures |= {f"extension-{name}": count for name, count in self._totals.items()}
        for loaded in self._loaded.values():
            figures |= self._info(loaded)
        return figures

    def _begin(self, loaded: _Loaded, record: Record, *, adopted: bool) -> _Bound:
        session = Session(
            number=record.id,
            rule=loaded.rule,
            type=_TYPES[record.type],
            client=(address_text(record.client[0]), record.client[1]),
            addressed=(address_text(record.addressed), record.addressed_port),
            server=(address_text(record.server[0]), record.server[1]),
            opened=record.opened_wall / 1e9,
        )
        bound = self._bound[record.id] = _Bound(loaded, session)
        bound.broken = not self._call(
            loaded, "opened", lambda: loaded.its.opened(session, adopted=adopted)
        )
        return bound

    def _treatment(
        self, bound: _Bound, direction: str, payload: bytes, action: FromClient | FromServer
    ) -> ExtensionResult:
        """TypeError and ValueError for what it may not ask for."""
        match action:
            case Fate.PASS:
                return direction, payload
            case Fate.DROP:
                self._totals["dropped"] += 1
                return None
            case Replace(bytes(new)):
                _check_size(new)
                self._totals["replaced"] += 1
                return direction, new
            case Answer(bytes(new)) if direction == "upload":
                _check_size(new)
                if bound.session.type == SessionType.ONE_WAY.value:
                    raise ValueError("the client of a one-way session gets no answer")
                self._totals["answered"] += 1
                return "download", new
            case End(str(why)):
                self._say_ended(bound, why)
                return Reason.EXTENSION
        raise TypeError(f"{type(action).__name__} is nothing that can be returned")

    def _say_ended(self, bound: _Bound, why: str) -> None:
        self._totals["ended"] += 1
        number, by = bound.session.number, bound.by
        held = self._rate_limit.allow(("end", by.rule))
        if held is not None:
            self._logs.say(
                messages.EXTENSION_ENDED, number, by.name, by.rule, why[:_LONGEST_TEXT], held,
                SESSION=number, RULE=by.rule,
            )  # fmt: skip

    def _info(self, loaded: _Loaded) -> Figures:
        found: Figures = {}

        def ask() -> None:
            for name, value in list(dict(loaded.its.info()).items())[:_MOST_INFO]:
                # The bus has 64 bits for a number.
                small = type(value) is int and abs(value) < 1 << 63
                plain = value if small else str(value)[:_LONGEST_TEXT]
                found[f"extension.{loaded.rule}.{str(name)[:_LONGEST_TEXT]}"] = plain

        self._call(loaded, "info", ask)
        return found

    def _call(self, loaded: _Loaded, what: str, call: Callable[[], object]) -> bool:
        """False: it failed."""
        try:
            call()
        except Late:
            raise  # it is we who break it off
        except BaseException as problem:
            self._failed(loaded, what, problem)
            return False
        return True

    def _failed(self, loaded: _Loaded, what: str, problem: BaseException) -> None:
        self._totals["errors"] += 1
        held = self._rate_limit.allow(("failed", loaded.rule, what))
        if held is not None:
            self._logs.say(
                messages.EXTENSION_FAILED, loaded.name, loaded.rule, what, told(problem), held,
                RULE=loaded.rule,
            )  # fmt: skip


_TYPES = [kind.value for kind in SessionType]


def _check_size(payload: bytes) -> None:
    if len(payload) > _LARGEST:
        raise ValueError(f"{len(payload)} bytes are more than a datagram holds")
