"""Addresses as the rules of the proxy have them; see config.addresses."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

from udpproxy.config.addresses import (
    address_of,
    bare,
    name,
    network_of,
    ports,
    refuse_everybody,
    split,
    zoned,
)
from udpproxy.config.model import Address, Name, Network
from udpproxy.config.values import is_name, said, text
from udpproxy.proxy.config.model import Destination, Pattern, Server

_EVERYWHERE = IPv4Address("255.255.255.255")


def is_for_many(address: Address) -> bool:
    """A broadcast address that is known for one, or a multicast group."""
    return address == _EVERYWHERE or address.is_multicast


def source(value: object) -> Network | Name | Pattern:
    """An item of `from`: as network(), a name, or a pattern such as "*.example.org"."""
    word = text(value)
    refuse_everybody(word, 'leave "from" out for everybody, or write "0.0.0.0/0" and "::/0"')
    host = bare(word)
    if is_name(host):
        return name(host)
    star, _, domain = host.partition(".")
    if star == "*" and is_name(domain):
        return Pattern(domain.lower().rstrip("."))
    return network_of(host, word)


def destination(value: object) -> Destination:
    """An item of `to`: network, ports or both."""
    word = text(value)
    host, port_text = split(word)
    refuse_everybody(host, 'leave "to" out for all addresses, or write ":PORT" for all of a port')
    found = None if port_text is None else ports(port_text)
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", host):
        raise ValueError(f'expected ":{host}" for ports alone, found {said(word)}')
    if host:
        where = name(host) if is_name(host) else network_of(host, word)
        return Destination(host=where, ports=found)
    if found is None:
        raise ValueError('expected "ADDRESS:PORT", "NETWORK" or ":PORT", found ""')
    return Destination(host=None, ports=found)


def mirror(value: object) -> Server:
    """An item of `mirror-to`: one host by its address, with a port or the client's."""
    found = server(value)
    if isinstance(found.host, Name):
        raise ValueError(f"{said(value)} is a name: write the receiver's address")
    if is_for_many(found.host):
        raise ValueError(f"{found.host} is not one host: copies go to one each")
    if found.ports is not None and len(found.ports) > 1:
        raise ValueError(f"{found.ports} are {len(found.ports)} ports: give one")
    return found


def server(value: object) -> Server:
    """`plug-to`: an address or a name, with a port, as many as are listened on, or the client's."""
    word = text(value)
    host, port_text = split(word)
    found = None if port_text is None else ports(port_text)
    if is_name(host):
        return Server(host=name(host), ports=found)
    base = address_of(host.partition("%")[0], word)
    target = base if base.is_multicast else zoned(host, word)
    if target.is_unspecified:
        raise ValueError(f"{target} is no server's address")
    return Server(host=target, ports=found)
