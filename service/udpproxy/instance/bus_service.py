"""The parent as the bus sees it: CamelCase in, our verbs out. No rule of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime

from udpproxy.bus import LOG_CONTROL, PROCESS, PROXY, Value, plain, variants
from udpproxy.errors import InvalidArgument
from udpproxy.process import messages
from udpproxy.process.commands import Figures
from udpproxy.process.logs import Damper, Logs
from udpproxy.process.wire import Plain
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.policy import explain
from udpproxy.proxy.policy.acl import Known

ROOT = "/org/udpproxy1"
ROLES = ("parent", "reg", "acr", "apr")
OBJECTS = {
    ROOT: [PROXY],
    **{f"{ROOT}/{role}": [PROCESS] for role in ROLES},
    "/org/freedesktop/LogControl1": [LOG_CONTROL],
}
OPEN_METHODS = frozenset({"Info"})

_VERBS = {
    "LogLevel": "loglevel",
    "Reopen": "reopen",
    "Info": "info",
    "Terminate": "terminate",
    "Reload": "reload",
    "ListSessions": "sessions",
    "KillSession": "kill",
    "ResolveNow": "resolve-now",
    "Segmentation": "segmentation",
}
_TOTALS = {
    "SessionsOpened": ("sessions-opened",),
    "SessionsEnded": ("sessions-ended",),
    "SessionsRefused": (
        "refused-by-acl",
        "refused-table-full",
        "refused-per-client",
        "refused-no-port",
        "refused-ports-kept",
        "refused-own-socket",
    ),
    "UploadDatagrams": ("upload-datagrams",),
    "UploadBytes": ("upload-bytes",),
    "DownloadDatagrams": ("download-datagrams",),
    "DownloadBytes": ("download-bytes",),
    "StrayReplies": ("stray-replies",),
    "Drops": ("drops-listeners", "drops-sessions"),
}
MOST_ROWS = 2000
"""Sessions in one answer: some tenths of a second, in which nobody else is answered."""
_LARGEST = (1 << 64) - 1
_SYSLOG_NAMES = {3: "err", 4: "warning", 5: "notice", 6: "info"}
_LEVELS = {
    "emerg": "3",
    "alert": "3",
    "crit": "3",
    "err": "3",
    "warning": "4",
    "notice": "5",
    "info": "6",
    "debug": "7",
}

Perform = Callable[[str, dict[str, Plain]], Awaitable[Plain]]


class BusService:
    """See bus.Service. `figures`, `totals` and `process` read; `perform` acts."""

    def __init__(
        self,
        logs: Logs,
        *,
        config: Callable[[], Config],
        figures: Callable[[], Figures],
        totals: Callable[[], dict[str, int]],
        process: Callable[[str], tuple[int, str, int]],
        perform: Perform,
        known: Known,
    ) -> None:
        """`process` gives (pid, state, ends) of a role."""
        self._logs = logs
        self._config = config
        self._figures = figures
        self._totals = totals
        self._process = process
        self._perform = perform
        self._known = known
        self._damper = Damper()

    def properties(
        self, path: str, interface: str, names: Collection[str] | None = None
    ) -> dict[str, Value]:
        """Those of that object's interface; `names`: the others need not be there."""
        if interface == PROXY:
            counted = names is None or not _TOTALS.keys().isdisjoint(names)
            return self._of_proxy() | (self._counters() if counted else {})
        if interface == PROCESS:
            role = path.rpartition("/")[2]
            pid, state, ends = self._process(role)
            return {"Role": role, "Pid": pid, "State": state, "Restarts": ends}
        target = self._logs.target
        return {
            "LogLevel": _SYSLOG_NAMES.get(self._logs.level, "debug"),
            "LogTarget": "console" if target == "stderr" else target,
            "SyslogIdentifier": self._logs.who,
        }

    def _of_proxy(self) -> dict[str, Value]:
        figures = self._figures()
        return {
            "Version": figures["version"],
            "Instance": figures["instance"],
            "State": figures["state"],
            "Sessions": figures["sessions"],
            "MaxSessions": figures["max-sessions"],
        }

    def _counters(self) -> dict[str, Value]:
        totals = self._totals()
        # A counter starts again at its end, as those do that it is made of.
        return {
            name: sum(totals[part] for part in parts) & _LARGEST for name, parts in _TOTALS.items()
        }

    async def set_property(self, path: str, interface: str, name: str, value: Value) -> None:
        """Only LogControl1.LogLevel can be set."""
        if value not in _LEVELS:
            raise InvalidArgument(f"{value!r}: give one of {', '.join(_LEVELS)}")
        await self._perform("loglevel", {"level": _LEVELS[str(value)]})

    async def call(self, path: str, member: str, body: list[Value]) -> list[Value]:
        """A method of PROXY or PROCESS."""
        if member == "Explain":
            return [variants(self._explain(_plain_dict(body[0])))]
        args: dict[str, Plain] = {}
        if path != ROOT:
            args["process"] = path.rpartition("/")[2]
        match member:
            case "Info":
                args["quiet"] = True  # who reads the state, as monitoring does, has the answer
            case "LogLevel":
                args["level"] = str(body[0])
            case "Segmentation":
                args["mode"] = str(body[0])
            case "KillSession":
                args["session"] = int(str(body[0]))
            case "ListSessions":
                wanted = _plain_dict(body[0])
                args["filter"] = {key: str(value) for key, value in wanted.items()}
        answer = await self._perform(_VERBS[member], args)
        match member, answer:
            case "LogLevel", str(level):
                return [level]
            case "Info", dict(state):
                return [variants({**state})]
            case "ListSessions", list(rows):
                if len(rows) > MOST_ROWS:
                    raise InvalidArgument(
                        f"{len(rows)} sessions are more than the {MOST_ROWS} that go over the bus: "
                        "filter them, or ask udp-proxy ctl"
                    )
                return [[variants({**row}) for row in rows if isinstance(row, dict)]]
            case _:
                return []

    def refused(self, what: str, uid: int, why: str) -> None:
        """One line, at most once a second for each caller."""
        held = self._damper.passes(uid)
        if held is not None:
            self._logs.say(messages.CALL_REFUSED, what, uid, why, held, CALLER_UID=uid)

    def failed(self, what: str, uid: int, why: str) -> None:
        """The same for what could not be done."""
        held = self._damper.passes(uid)
        if held is not None:
            self._logs.say(messages.CALL_FAILED, what, uid, why, held, CALLER_UID=uid)

    def broken(self, problem: Exception) -> None:
        """A mistake of ours, at most one a second: callers can repeat it at will."""
        if self._damper.passes("broken") is not None:
            self._logs.failure(problem)

    def ignored(self, why: str) -> None:
        """One line a second, with how many there were."""
        held = self._damper.passes("ignored")
        if held is not None:
            self._logs.say(messages.BUS_IGNORED, why[:200], held)

    def _explain(self, question: dict[str, object]) -> dict[str, object]:
        if unknown := set(question) - {"from", "to", "at"}:
            raise InvalidArgument(f"unknown: {', '.join(sorted(unknown))}; give from, to, at")
        if "from" not in question:
            raise InvalidArgument("from is missing: the client's address")
        config = self._config()
        to, at = (str(question[key]) if key in question else None for key in ("to", "at"))
        asked = explain.question(config, str(question["from"]), to)
        answer = explain.explanation(config, asked, explain.moment(at, datetime.now()), self._known)
        return {
            "rule": answer.rule,
            "action": answer.action,
            "why": "\n".join([*(f"not {each}" for each in answer.passed), answer.why]),
            **answer.parts(),
        }


def _plain_dict(value: Value) -> dict[str, object]:
    assert isinstance(value, dict)
    return {str(key): plain(each) for key, each in value.items()}
