"""KEY=VALUE, by which sessions are listed and ended. What can match nothing is a mistake. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address, ip_network

from udpproxy.config.addresses import port as port_number
from udpproxy.config.addresses import split
from udpproxy.config.values import said
from udpproxy.errors import InvalidArgument
from udpproxy.process.wire import Plain
from udpproxy.proxy.config.model import Place
from udpproxy.proxy.session.layout import Record

KEYS = ("client", "server", "rule", "listener")
_SAME = {"acl": "rule"}
"""Another word for it."""
_MOST_NAMED = 8

Test = Callable[[Record, str], bool]
"""Of a record and its rule's name."""


def tests(
    wanted: dict[str, Plain], rules: Sequence[str], listeners: Collection[Place] | None
) -> list[Test]:
    """What a session must pass, one for each key; InvalidArgument, which says what to give.
    `listeners` None: clients may have written anywhere, as PROXY headers say."""
    found: dict[str, Test] = {}
    for word, value in wanted.items():
        key = _SAME.get(word, word)
        if key not in KEYS:
            raise InvalidArgument(
                f"sessions cannot be filtered by {said(word)}: give one of {', '.join(KEYS)}, "
                "as KEY=VALUE"
            )
        if key in found:
            raise InvalidArgument(f"{key} is given twice: a session has one")
        found[key] = _of_rule(str(value), rules) if key == "rule" else _of_end(key, str(value))
        if key == "listener" and listeners is not None:
            _refuse_absent(str(value), listeners)
    return list(found.values())


def _of_rule(name: str, rules: Sequence[str]) -> Test:
    if name not in rules and name != "-":
        near = difflib.get_close_matches(name, rules, 1)
        some = ", ".join(rules[:_MOST_NAMED]) + (", ..." if len(rules) > _MOST_NAMED else "")
        raise InvalidArgument(
            f"there is no rule {said(name)}: " + (f"{near[0]}?" if near else f"give one of {some}")
        )
    return lambda record, rule: rule == name


def _of_end(key: str, value: str) -> Test:
    packed, bits, port = _place(key, value)
    shift = len(packed) * 8 - bits
    network, size = int.from_bytes(packed, "big") >> shift, len(packed)

    def fits(record: Record, rule: str) -> bool:
        match key:
            case "client":
                end = record.client
            case "server":
                end = record.peer or record.server
            case _:
                end = record.addressed, record.addressed_port
        return (
            len(end[0]) == size
            and int.from_bytes(end[0], "big") >> shift == network
            and port in (0, end[1])
        )

    return fits


def _place(key: str, value: str) -> tuple[bytes, int, int]:
    """Address, the bits of it that count, and port, 0: any."""
    try:
        host, port_text = split(value)
        port = 0 if port_text is None else port_number(port_text)
        if "/" in host:
            network = ip_network(host, strict=False)
            return network.network_address.packed, network.prefixlen, port
        packed = ip_address(host).packed
        return packed, len(packed) * 8, port
    except ValueError:
        raise InvalidArgument(
            f"{key}={value} can match no session: give an address, an address and a port or a "
            "network, such as 192.0.2.7, 192.0.2.7:53, [2001:db8::7]:53 or 192.0.2.0/24; not a "
            "host's name"
        ) from None


def _refuse_absent(value: str, listeners: Collection[Place]) -> None:
    packed, bits, port = _place("listener", value)
    for place in listeners:
        address = place.address
        same = len(address.packed) == len(packed) and (
            address.is_unspecified or bits < len(packed) * 8 or address.packed == packed
        )
        if same and port in (0, place.port):
            return
    raise InvalidArgument(f"listener={value} can match no session: nothing listens there")
