"""Addresses, networks and ports as people write them; the rules are those of values.py.

Refused because they would never match or hide what is meant: IPv4-mapped IPv6 addresses (our IPv6
sockets are IPv6 only), networks with bits beyond their prefix, port 0.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from udpproxy.config.model import Address, Name, NameServer, Network, Ports
from udpproxy.config.values import is_name, said, text, whole

_number = whole(1, 65535)
_EVERYWHERE = IPv4Address("255.255.255.255")
_LONGEST_INTERFACE = 15
"""IFNAMSIZ without the end (linux/if.h)."""
_EVERYBODY = ("any", "all", "*", "everybody", "everyone")


def port(value: object) -> int:
    """A port as a number, or as digits where it is part of a text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    try:
        return _number(value)
    except ValueError:
        raise ValueError(f"expected a port from 1 to 65535, found {said(value)}") from None


def ports(value: object) -> Ports:
    """A port or a range of them such as "5060-5062"."""
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if not dash:
        only = port(value)
        return Ports(first=only, last=only)
    found = Ports(first=port(first.strip()), last=port(last.strip()))
    if found.last < found.first:
        raise ValueError(f"the range {said(value)} is upside down")
    return found


def refuse_everybody(word: str, instead: str) -> None:
    """Words that people write for it; some could be the names of hosts."""
    if word.strip("[]").lower() in _EVERYBODY:
        raise ValueError(f"{said(word)} is no address: {instead}")


def address(value: object) -> Address:
    """One address, with or without brackets, no port, no name."""
    word = _no_name(value)
    return address_of(bare(word), word)


def own_address(value: object) -> Address:
    """The same, of this host: it may be one of a link's."""
    word = _no_name(value)
    return zoned(bare(word), word)


def _no_name(value: object) -> str:
    word = text(value)
    refuse_everybody(word, 'write "0.0.0.0" or "::" (a table each) for all of this host')
    if is_name(word):
        raise ValueError(f"{said(word)} is a name: only an address can stand here")
    return word


def network(value: object) -> Network:
    """A network, or an address for itself alone."""
    word = text(value)
    host = bare(word)
    if is_name(host):
        raise ValueError(f"{said(word)} is a name: only a network can stand here")
    return network_of(host, word)


def name(host: str) -> Name:
    """Case makes no difference; a final dot does: the search list is not tried."""
    return Name(host.lower())


def name_server(value: object) -> NameServer:
    """An item of `servers` in [resolver]: an address, port 53 unless it is given."""
    word = text(value)
    host, port_text = split(word)
    found = 53 if port_text is None else port(port_text)
    target = address_of(host, word)
    if target.is_unspecified or target.is_multicast:
        raise ValueError(f"{target} is no name server's address")
    return NameServer(address=target, port=found)


def zoned(host: str, word: str) -> Address:
    """An address of this host or of a server: with a zone where it is one of a link's."""
    base, percent, zone = host.partition("%")
    found = address_of(base, word)
    if not percent:
        if is_of_link(found):
            raise ValueError(f"{said(word)} is there on each link: say which, such as {found}%eth0")
        return found
    if not is_of_link(found):
        raise ValueError(f"{said(word)}: only a link-local IPv6 address has a zone")
    return IPv6Address(f"{found}%{interface(zone)}")


def is_of_link(found: Address) -> bool:
    """Does IPv6 need to know of which link? Also of ff01::/16 and ff02::/16 (RFC 4291 2.7)."""
    if found.version == 4:
        return False
    return found.is_link_local or (found.is_multicast and found.packed[1] & 0x0F in (1, 2))


def interface(value: object) -> str:
    """An interface's name, whether there is one or not."""
    word = text(value)
    if word.isdigit():
        raise ValueError(f"{said(word)} is a number: give the interface's name, such as eth0")
    if (
        word in ("", ".", "..")
        or len(word.encode()) > _LONGEST_INTERFACE
        or re.search(r"[\s/:%]", word)
    ):
        raise ValueError(f"{said(word)} is no interface's name: expected one such as eth0")
    return word


def is_one_host(address: Address) -> bool:
    """A zone can say anything; what the file may not say of a server, it may not either. A scope
    means something on one link only, and nothing goes from IPv6 sockets to mapped IPv4."""
    if address.is_unspecified or address.is_multicast or address == _EVERYWHERE:
        return False
    return not (isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped))


def endpoint(target: Address, number: object) -> str:
    """An address and a port or ports, written so that they can be told apart."""
    return f"[{target}]:{number}" if target.version == 6 else f"{target}:{number}"


def split(word: str) -> tuple[str, str | None]:
    """The host and the port; more than one colon outside brackets is an IPv6 address alone."""
    if word.startswith("["):
        host, bracket, rest = word[1:].partition("]")
        if not (host and bracket) or (rest and not rest.startswith(":")):
            raise ValueError(f'expected "[ADDRESS]" or "[ADDRESS]:PORT", found {said(word)}')
        return host, rest[1:] if rest else None
    if word.count(":") > 1:
        return word, None
    host, colon, port_text = word.partition(":")
    return host, port_text if colon else None


def bare(word: str) -> str:
    """The host where no port may stand."""
    host, port_text = split(word)
    if port_text is not None:
        raise ValueError(f"expected an address without a port, found {said(word)}")
    return host


def address_of(host: str, word: str) -> Address:
    if "%" in host:
        raise ValueError(f"{said(word)}: an address without a zone is needed here")
    try:
        found = ip_address(host)
    except ValueError:
        raise ValueError(f"{said(word)} is not an address") from None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        raise ValueError(f"{said(word)} is IPv4 in IPv6's clothes: write {found.ipv4_mapped}")
    return found


def network_of(host: str, word: str) -> Network:
    base, slash, prefix = host.partition("/")
    found = address_of(base, word)
    if not slash:
        return ip_network(found)
    if not re.fullmatch(r"[0-9]{1,3}", prefix) or int(prefix) > found.max_prefixlen:
        raise ValueError(f"expected a prefix from 0 to {found.max_prefixlen}, found {said(word)}")
    whole_network = ip_network(f"{found}/{int(prefix)}", strict=False)
    if whole_network.network_address != found:
        raise ValueError(
            f"{said(word)} has bits beyond its prefix: "
            f'write "{whole_network}" for the network or "{found}" for the address alone'
        )
    return whole_network
