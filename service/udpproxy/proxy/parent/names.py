"""The parent's part in names. It resolves none: it knows which helpers the configuration needs,
makes the ways between them and REG, and keeps what ACR found for whoever comes next. Only what
can be read is kept: the next child must not fall over the last one's words.

A way is a socket pair lent to both sides; where one of them dies, both get a new one. The parent
is not on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping

from udpproxy.config.model import Address, Resolver
from udpproxy.errors import LinkError
from udpproxy.instance.connection import ChildConnection
from udpproxy.process import messages, wire
from udpproxy.process.link import Link
from udpproxy.process.logs import Logs, RateLimit
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import looks_up, names
from udpproxy.proxy.parent.resources import Resources
from udpproxy.proxy.policy.rules import Unresolved
from udpproxy.resolver import resolved, system
from udpproxy.resolver.resolved import ClientNames, Resolved
from udpproxy.resolver.result import Failure

HELPERS = ("acr", "apr")
_REST = 1.0
"""Seconds until a way that was lost is made anew."""


def check_name_servers(config: Config) -> None:
    """UnitError where the configuration has names and nobody can be asked for them."""
    if looks_up(config):
        system.complete(config.resolver)


class ResolvedNames(Unresolved):
    """As ACR told last; see policy.rules.NameView. No client's name is known here."""

    def __init__(self) -> None:
        self._words: dict[str, Resolved] = {}

    def addresses(self, name: str) -> tuple[Address, ...]:
        """As ACR told last."""
        word = self._words.get(name)
        return word.addresses if word else ()

    def put(self, *words: Resolved) -> None:
        """From ACR, or found out here (single mode)."""
        self._words |= {word.name: word for word in words}

    def clear(self) -> None:
        """Nothing is known."""
        self._words.clear()

    def keep(self, wanted: tuple[str, ...]) -> None:
        """Another configuration."""
        self._words = {name: word for name, word in self._words.items() if name in wanted}

    def parts(self) -> Iterator[wire.Tell]:
        """For a child that starts."""
        words = [word for word in self._words.values() if word.addresses]
        return (wire.Tell("known", {"found": part}) for part in resolved.parts(words))


class NameRegistry:
    """`found` is what the next child will know."""

    def __init__(self, logs: Logs, resources: Resources) -> None:
        self._logs = logs
        self._resources = resources
        self._rate_limit = RateLimit()
        self._joined: dict[str, tuple[ChildConnection, ChildConnection]] = {}
        """Who had the last way, by the helper's role."""
        self._again: set[str] = set()
        """Roles whose way is soon made anew."""
        self.found = ResolvedNames()
        self.refused = 0
        """Words of ACR's that could not be read, or on names that nobody asked for."""

    def heard(self, news: wire.Plain, config: Config) -> None:
        """From ACR."""
        heard = resolved.read(news, names(config))
        self.found.put(*heard.words.values())
        if heard.refused:
            self.refused += heard.refused
            held = self._rate_limit.allow("acr", heard.refused)
            if held is not None:
                self._logs.say(messages.WORD_IGNORED, "acr", heard.why, held, PROCESS="acr")

    def entered(self, peer: ChildConnection, peers: Mapping[str, ChildConnection]) -> None:
        """A helper has come, or a REG that has what it needs to relay. OSError before anything
        was lent."""
        if peer.role in HELPERS:
            self._begin(peer.link)
        for role in HELPERS:
            if peer.role in ("reg", role):
                self._connect(role, peers)

    def resume(self, link: Link) -> None:
        """What is known already, before the word to begin."""
        link.pour((part, ()) for part in self.found.parts())

    def forget(self, peers: Mapping[str, ChildConnection]) -> None:
        """What was found is given up: ACR, who tells each new REG as well, begins anew."""
        self.found.clear()
        if "acr" in peers:
            with contextlib.suppress(LinkError, OSError):  # its successor knows nothing
                peers["acr"].link.send(wire.Tell("forget"))

    def reloaded(self, config: Config, peers: Mapping[str, ChildConnection]) -> None:
        """Another configuration: the helpers that are there take it over."""
        self.found.keep(names(config))
        for role in HELPERS:
            if role in peers:
                link = peers[role].link
                try:
                    self._begin(link)
                except (LinkError, OSError) as problem:
                    # Whoever replaces it is told all of it.
                    link.fail(f"not told of another configuration: {problem}")

    def channel_lost(self, role: str, peers: Mapping[str, ChildConnection]) -> None:
        """REG says so. Where a side has ended, its successor gets another way as it comes; where
        both live, one of them has broken the protocol, and the way is made anew after a rest."""
        if role in HELPERS and role not in self._again:
            self._again.add(role)
            asyncio.get_running_loop().call_later(_REST, self._mend, role, peers)

    def _mend(self, role: str, peers: Mapping[str, ChildConnection]) -> None:
        self._again.discard(role)
        if self._joined.get(role) == (peers.get(role), peers.get("reg")):
            self._connect(role, peers)

    def look_up_all(self, config: Config) -> None:
        """Single mode: all names, here and now."""
        if names(config):
            from udpproxy.resolver import blocking

            for name, result in blocking.look_up_all(names(config), config.resolver).items():
                if result.failure:
                    why = result.failure.value
                    self._logs.say(messages.NAME_FAILED, name, why, "it has no address", NAME=name)
                self.found.put(Resolved(name, result.addresses, result.ttl))

    def _begin(self, link: Link) -> None:
        self._resources.send_text(link)
        self.resume(link)
        link.send(wire.Tell("resolve", {"level": self._logs.level}))

    def _connect(self, role: str, peers: Mapping[str, ChildConnection]) -> None:
        if role not in peers or "reg" not in peers:
            return
        joined = self._joined[role] = peers[role], peers["reg"]
        try:
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:  # no descriptors: later
            self.channel_lost(role, peers)
            return
        for peer, end in zip(joined, ends, strict=True):
            peer.link.send(wire.Lend("channel", [{"role": role}]), [end.fileno()])
            end.close()


def client_look_up(
    resolver: Callable[[], Resolver],
) -> Callable[[Address], ClientNames | Failure]:
    """Single mode: a client's names; the caller waits."""

    def look(client: Address) -> ClientNames | Failure:
        from udpproxy.resolver import blocking

        return blocking.look_up_client(client, resolver())

    return look
