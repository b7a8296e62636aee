"""What the proxy's configuration gives its resolvers to do: names and probes."""

from __future__ import annotations

from collections.abc import Iterator

from udpproxy.proxy.config.load import parse
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.config.names import asks, names, probed
from udpproxy.proxy.session import proxy_header
from udpproxy.resolver.assignment import Assignment, Probed

_ANY = (0, 0)
"""The parent has judged ranges of ports by the kernel's; a resolver may see another default."""


def assignment(text: str, origin: str) -> Assignment:
    """See resolver.assignment.Read."""
    config = parse(text, origin, ephemeral=_ANY)
    return Assignment(
        names=names(config),
        on_demand=asks(config),
        probes=tuple(_probes(config)),
        resolver=config.resolver,
        log=config.log,
    )


def _probes(config: Config) -> Iterator[Probed]:
    headers = {
        rule.group.name: header
        for rule in config.rules
        if rule.accept and rule.group and (header := proxy_header.local(rule.header))
    }
    for group in probed(config):
        probe = group.health.probe
        assert probe
        for server in group.servers:
            assert server.ports  # load.parse wants them
            yield Probed(
                group=group.name,
                server=str(server),
                host=server.host,
                port=server.ports.first,
                send=probe.send,
                expect=probe.expect,
                dns=probe.dns,
                ntp=probe.ntp,
                interval=probe.interval,
                timeout=probe.timeout,
                header=headers.get(group.name, b""),
            )
