"""The parent's verbs: the four of every process, passed on to the children, and its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Container

from udpproxy.errors import InvalidArgument, LinkError
from udpproxy.instance.connection import Peer, PeerLost
from udpproxy.process import signals
from udpproxy.process.commands import Control
from udpproxy.process.wire import Plain, cut
from udpproxy.proxy.config.model import SEGMENTATION
from udpproxy.proxy.parent.sessions import Sessions

ROLES = ("parent", "reg", "acr", "apr")
READY_LIMIT = 10.0
"""Seconds that a command waits for a proxy that is still starting."""
_MOMENT = 0.5
"""The same where it can be carried out without a relay."""
_TRIES, _PAUSE = 100, 0.02
"""How often, and each how many seconds, a command waits for a child that is not there yet."""
_MOST_NUMBER = (1 << 64) - 1
"""Of a session."""
MOST_KILLED = 64
"""Sessions that end in one go: some milliseconds, each with a record."""
_OF_CHILDREN = ("info", "loglevel", "reopen", "hold", "terminate", "resolve-now")
"""What one child can be told by a command: its other verbs are between the parent and it."""
_CHECKED_HERE = ("kill", "segmentation")
"""Verbs of REG whose words must make sense; they mean the same whichever process is named."""
_AT_ONCE = ("terminate",)
_OF_PARENT = ("info", "sessions")
"""What it knows itself, and says even where no relay comes to be."""
_WHILE_STOPPING = ("terminate", "info", "sessions", "loglevel", "reopen", "hold")
"""What changes nothing, or is asked of a log."""

Args = dict[str, Plain]


class Commands:
    """Carries out what `ctl` and signals ask; `peer` finds a child that works."""

    def __init__(
        self,
        control: Control,
        sessions: Sessions,
        *,
        children: Callable[[], list[Peer]],
        running: asyncio.Event,
        reload: Callable[[], Awaitable[Plain]],
        helpers: Callable[[], tuple[str, ...]],
        roles: Callable[[], Container[str]],
        segmented: Callable[[str], None],
        starting: Callable[[], bool],
        stopping: Callable[[], bool],
    ) -> None:
        """`helpers` are the roles that the names in the configuration need, `roles` all that there
        are to be; `segmented` hears each mode of segmentation that REG has taken."""
        self._segmented = segmented
        self._starting = starting
        self._stopping = stopping
        self._control = control
        self._sessions = sessions
        self._children = children
        self._running = running
        self._reload = reload
        self._helpers = helpers
        self._roles = roles
        self._turn = asyncio.Lock()

    async def perform(self, verb: str, args: Args) -> Plain:
        """The answer; InvalidArgument or LinkError where it cannot be done."""
        process = str(args.get("process", "parent"))
        if process not in ROLES:
            raise InvalidArgument(f"no process {process!r}: give one of {', '.join(ROLES)}")
        self._refuse_late(verb)
        if verb not in _AT_ONCE or process != "parent":
            await self._ready(needed=process != "parent" or verb not in _OF_PARENT)
        if process != "parent" and verb not in _CHECKED_HERE:
            if verb not in _OF_CHILDREN:
                raise InvalidArgument(f"this process knows no verb {verb!r}")
            return await self._to_child(process, verb, args)
        match verb:
            case "loglevel":
                return await self._loglevel(str(args.get("level", "")))
            case "reopen":
                try:
                    self._control.reopen()
                finally:
                    await self._ask_all("reopen", {})
                return None
            case "hold":
                self._control.hold()
                await self._ask_all("hold", {})
                return None
            case "reload":
                async with self._turn:
                    self._refuse_late(verb)  # it may have waited
                    return await self._reload()
            case "sessions":
                return self._sessions.rows(_filters(args))
            case "kill":
                if "filter" in args:
                    return await self._kill_all(_filters(args))
                return await self._kill(args.get("session"))
            case "resolve-now":
                return await self._resolve_now()
            case "segmentation":
                return await self._segment(str(args.get("mode", "")))
            case _:
                return self._control.perform(verb, args)

    def _refuse_late(self, verb: str) -> None:
        if self._stopping() and verb not in _WHILE_STOPPING:
            raise LinkError("the proxy is stopping")

    async def _segment(self, mode: str) -> Plain:
        """From now on, whatever the file says; InvalidArgument for other words than its own."""
        if mode not in SEGMENTATION:
            raise InvalidArgument(f"no segmentation {mode!r}: give {' or '.join(SEGMENTATION)}")
        await self._to_child("reg", "segmentation", {"mode": mode})
        self._segmented(mode)
        return None

    async def signalled(self, number: int) -> None:
        """The signal's verb; loglevel and reopen go on to the children (SPEC 2)."""
        self._control.signalled(number)
        if number == signals.LEVEL_UP:
            await self._ask_all("loglevel", {"level": "+1"})
        elif number == signals.LEVEL_DOWN:
            await self._ask_all("loglevel", {"level": "-1"})
        elif number == signals.REOPEN:
            await self._ask_all("reopen", {})

    async def _loglevel(self, word: str) -> Plain:
        name = self._control.loglevel(word)
        await self._ask_all("loglevel", {"level": word})
        return name

    async def _ready(self, *, needed: bool) -> None:
        if not needed and not self._starting():
            return  # what the parent knows itself is wanted most while the relay is down
        try:
            limit = READY_LIMIT if needed else _MOMENT
            await asyncio.wait_for(self._running.wait(), limit)
        except TimeoutError:
            if needed:
                raise LinkError("the proxy is still starting: try again") from None

    async def _to_child(self, role: str, verb: str, args: Args) -> Plain:
        rest = {key: value for key, value in args.items() if key != "process"}
        peer = await self._peer(role)
        try:
            return _sound(role, verb, await peer.ask(verb, rest))
        except PeerLost:
            # It was dead when it was asked: its end is heard of a moment later.
            if verb != "terminate":
                return _sound(role, verb, await (await self._peer(role)).ask(verb, rest))
        except LinkError:
            if verb != "terminate":
                raise
        return None  # it left before it could answer

    async def _peer(self, role: str) -> Peer:
        """One that starts, or is being replaced, has a moment to come."""
        for _ in range(_TRIES):
            for peer in self._children():
                if peer.role == role:
                    return peer
            if role not in self._roles():
                raise InvalidArgument(f"{role} is not running: the configuration does not need it")
            await asyncio.sleep(_PAUSE)
        raise LinkError(f"{role} is being replaced: try again")

    async def _ask_all(self, verb: str, args: Args) -> None:
        """Every child, at the same time; LinkError names those that were silent."""
        peers = self._children()
        answers = await asyncio.gather(
            *(peer.ask(verb, args) for peer in peers), return_exceptions=True
        )
        problems = [answer for answer in answers if isinstance(answer, BaseException)]
        for problem in problems:
            if not isinstance(problem, LinkError | InvalidArgument):
                raise problem  # a mistake of ours is not their silence
        if problems:
            raise LinkError("; ".join(map(str, problems)))

    async def _resolve_now(self) -> Plain:
        """Clients' names are forgotten, those of the configuration looked up again."""
        helpers = self._helpers()
        if not helpers:
            raise InvalidArgument("the configuration has no names to resolve")
        await self._to_child("reg", "resolve-now", {})
        return await self._to_child("acr", "resolve-now", {}) if "acr" in helpers else None

    async def _kill(self, number: Plain) -> Plain:
        if (
            not isinstance(number, int)
            or isinstance(number, bool)
            or not 1 <= number <= _MOST_NUMBER
        ):
            raise InvalidArgument(f"{number!r} is no session's number")
        return await self._to_child("reg", "kill", {"session": number})

    async def _kill_all(self, wanted: Args) -> Plain:
        """Those that there are now. Part by part: REG has datagrams to carry meanwhile."""
        if not wanted:
            raise InvalidArgument("give a session's number or KEY=VALUE; terminate ends all")
        places, ended = self._sessions.places(wanted), 0
        for first in range(0, len(places), MOST_KILLED):
            part: Plain = [[slot, number] for slot, number in places[first : first + MOST_KILLED]]
            answer = await self._to_child("reg", "end", {"sessions": part})
            ended += answer if isinstance(answer, int) else 0
        return {"sessions-ended": ended}


def _sound(role: str, verb: str, value: Plain) -> Plain:
    """A child's answer, as whoever asked can take it; LinkError for another."""
    match verb, value:
        case ("info" | "resolve-now", dict()) | ("loglevel", str()) if _is_json(value):
            return value
        case ("end", int()) if not isinstance(value, bool) and 0 <= value <= MOST_KILLED:
            return value
        case ("info" | "loglevel" | "end", _) | (_, [*_] | dict() | str() | int() | float()):
            raise LinkError(
                f"{role} gave an answer to {verb} that makes no sense: {cut(repr(value))}"
            )
        case _:
            return None


def _is_json(value: Plain) -> bool:
    """Not so NaN, which `ctl --json` would print, and nobody could read."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _filters(args: Args) -> Args:
    wanted = args.get("filter") or {}
    if not isinstance(wanted, dict):
        raise InvalidArgument("a filter is KEY=VALUE")
    return wanted
