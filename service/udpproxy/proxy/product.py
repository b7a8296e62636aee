"""The UDP session proxy as a product on the frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from udpproxy.instance.options import Mode
from udpproxy.instance.service import RESTART_KEYS, Instance, Product
from udpproxy.process.privileges import NET_BIND_SERVICE, NET_RAW
from udpproxy.proxy.config import here
from udpproxy.proxy.config.model import Config
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.parent.names import check_name_servers
from udpproxy.proxy.parent.resources import check_descriptors, needs_foreign
from udpproxy.proxy.parent.service import ProxyService
from udpproxy.proxy.reg import engines, installed
from udpproxy.proxy.verbs import VERBS


class Proxy(Product[Config]):
    """See Product."""

    identity = IDENTITY
    verbs = VERBS
    restart_keys: Mapping[str, str] = {
        "max_sessions": "max-sessions",
        "max_sessions_per_client": "max-sessions-per-client",
        "client_prefix6": "client-prefix6",
        "evict_idlest": "overflow",
        "workers": "workers",
        "engine": "engine",
        "singleproc": "singleproc",
        **RESTART_KEYS,
    }

    def parse(self, text: str, origin: str) -> Config:
        """With this host's ports and addresses, and the extensions that are installed."""
        config = here.parse_here(text, origin)
        installed.check(config, origin)
        return config

    def mode(self, config: Config, asked: Mode) -> Mode:
        """The file may ask for a single process."""
        return Mode.SINGLE if config.singleproc and asked is Mode.FORK else asked

    def check(self, config: Config, mode: Mode, descriptors: int) -> None:
        """All sessions have their sockets, and there is an engine."""
        check_descriptors(config, descriptors)
        if mode is Mode.SINGLE:  # else they may come later
            check_name_servers(config)
        engines.check(config)

    def capabilities(self, config: Config) -> frozenset[int]:
        """Ports that a reload brings, and addresses of others."""
        low = any(ports.first < 1024 for listen in config.listen for ports in listen.ports)
        needed = {NET_BIND_SERVICE} if low else set()
        return frozenset(needed | ({NET_RAW} if needs_foreign(config) else set()))

    def serve(self, instance: Instance, config: Config, text: str, path: Path) -> ProxyService:
        """The parent's part of it."""
        return ProxyService(instance, config, text, path)


PROXY = Proxy()
