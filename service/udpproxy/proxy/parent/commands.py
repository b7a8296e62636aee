"""The verbs of a proxy's own, carried out by its parent; see proxy/verbs.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from udpproxy.errors import InvalidArgument
from udpproxy.instance.commands import sound
from udpproxy.instance.options import Mode
from udpproxy.instance.service import Instance
from udpproxy.process.verbs import Verb
from udpproxy.process.wire import Plain
from udpproxy.proxy.config import here
from udpproxy.proxy.config.model import SEGMENTATION, Config
from udpproxy.proxy.config.names import looks_up, names
from udpproxy.proxy.parent.servers import Servers
from udpproxy.proxy.parent.sessions import Sessions
from udpproxy.proxy.policy import explain
from udpproxy.proxy.policy.rules import NameView

MOST_KILLED = 64
"""Sessions that end in one go: some milliseconds, each with a record."""
_MOST_NUMBER = (1 << 64) - 1
"""Of a session."""
_REG = "reg"


class ProxyCommands:
    """`segmentation` is what every REG that comes is told."""

    def __init__(
        self,
        instance: Instance,
        sessions: Sessions,
        servers: Servers,
        known: NameView,
        config: Callable[[], Config],
    ) -> None:
        """`known`: what the configuration's names are."""
        self._instance = instance
        self._sessions = sessions
        self._servers = servers
        self._known = known
        self._config = config
        self.segmentation = config().segmentation

    async def perform(self, verb: Verb, arguments: dict[str, Plain]) -> Plain:
        """See proxy/verbs.py."""
        match verb.name:
            case "sessions":
                return self._sessions.rows(_filters(arguments))
            case "kill" if "filter" in arguments:
                return await self._kill_all(_filters(arguments))
            case "kill":
                await self._kill(arguments.get("session"))
                return None
            case "servers":
                return await self._list_servers()
            case "drain" | "undrain":
                reg = self._instance.peers.get(_REG)
                self._servers.drain(
                    str(arguments.get("server", "")),
                    reg.link if reg else None,
                    f"command {verb.name}",
                    on=verb.name == "drain",
                )
                return None
            case "resolve-now":
                return await self._resolve_now()
            case "segmentation":
                await self._segment(str(arguments.get("mode", "")))
                return None
            case "explain":
                question = arguments.get("question")
                assert isinstance(question, dict)
                return self._explain(question)
            case _:
                raise InvalidArgument(f"this process knows no verb {verb.name!r}")

    async def _kill(self, number: Plain) -> None:
        if type(number) is not int or not 1 <= number <= _MOST_NUMBER:
            raise InvalidArgument(f"{number!r} is no session's number")
        await self._ask_reg("kill", {"session": number})

    async def _kill_all(self, wanted: dict[str, Plain]) -> Plain:
        """Those that there are now. Part by part: REG has datagrams to carry meanwhile."""
        if not wanted:
            raise InvalidArgument("give a session's number or KEY=VALUE; terminate ends all")
        places, ended = self._sessions.places(wanted), 0
        for first in range(0, len(places), MOST_KILLED):
            part: Plain = [[slot, number] for slot, number in places[first : first + MOST_KILLED]]
            answer = await self._instance.ask(_REG, "end", {"sessions": part})
            if type(answer) is not int or not 0 <= answer <= MOST_KILLED:
                sound(_REG, "end", (), answer)
                continue
            ended += answer
        return {"sessions-ended": ended}

    async def _list_servers(self) -> Plain:
        answer = await self._instance.ask(_REG, "servers", {})
        return sound(_REG, "servers", (list,), answer)

    async def _segment(self, mode: str) -> None:
        """From now on, whatever the file says; InvalidArgument for other words than its own."""
        if mode not in SEGMENTATION:
            raise InvalidArgument(f"no segmentation {mode!r}: give {' or '.join(SEGMENTATION)}")
        await self._ask_reg("segmentation", {"mode": mode})
        self.segmentation = mode

    async def _resolve_now(self) -> Plain:
        """Clients' names are forgotten, those of the configuration looked up again."""
        if self._instance.options.mode is Mode.SINGLE:
            raise InvalidArgument("a single process looks names up once, at start and reload")
        if not looks_up(self._config()):
            raise InvalidArgument("the configuration has no names to resolve")
        await self._ask_reg("resolve-now", {})
        if not names(self._config()):
            return None
        answer = await self._instance.ask("acr", "resolve-now", {})
        return sound("acr", "resolve-now", (dict, type(None)), answer)

    async def _ask_reg(self, verb: str, arguments: dict[str, Plain]) -> None:
        answer = await self._instance.ask(_REG, verb, arguments)
        sound(_REG, verb, (type(None),), answer)

    def _explain(self, question: dict[str, Plain]) -> Plain:
        if "from" not in question:
            raise InvalidArgument("from is missing: the client's address")
        to, at = (str(question[key]) if key in question else None for key in ("to", "at"))
        asked = explain.question(self._config(), str(question["from"]), to, here.is_own)
        moment = explain.moment(at, datetime.now())
        answer = explain.explanation(self._config(), asked, moment, self._known)
        return {
            "rule": answer.rule,
            "action": answer.action,
            "why": "\n".join([*(f"not {each}" for each in answer.passed), answer.why]),
            **answer.parts(),
        }


def _filters(arguments: dict[str, Plain]) -> dict[str, Plain]:
    wanted = arguments.get("filter") or {}
    if not isinstance(wanted, dict):
        raise InvalidArgument("a filter is KEY=VALUE")
    return wanted
