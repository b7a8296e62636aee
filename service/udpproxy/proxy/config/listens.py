"""One [[listen]]: its keys, and what must hold between them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from udpproxy.config import addresses, values
from udpproxy.config.model import Address, Network, Ports
from udpproxy.config.table import Table
from udpproxy.proxy.config.model import Listen

_ALL: dict[int, Address] = {4: IPv4Address(0), 6: IPv6Address(0)}


def listen(table: Table) -> Listen | None:
    """None where it is too wrong to be checked further."""
    transparent = table.take("transparent", values.flag, default=False)
    version = table.take("version", _version, None)
    found: tuple[Address, ...] | None
    interface = table.take("interface", addresses.interface, "")
    if table.has("interface"):
        if table.has("address"):
            table.take("address", addresses.own_address, None)
            table.wrong("address", "give an address or an interface, not both")
        found = (_ALL[version],) if version else tuple(_ALL.values())
    elif transparent and not table.has("address"):
        found = (_ALL[version],) if version else tuple(_ALL.values())
    else:
        address = table.need("address", addresses.own_address, None)
        found = None if address is None else (address,)
        if transparent and address is not None and not address.is_unspecified:
            table.wrong(
                "transparent", f"needs all addresses: leave {address} out, or write an interface"
            )
        if address is not None and version is not None and version != address.version:
            table.wrong("version", f"{address} is of version {address.version}, not {version}")
    ports: tuple[Ports, ...] | None = table.need("port", _ports, None)
    groups = table.many("multicast", _group) or ()
    header_from = _header_from(table)
    if transparent and header_from:
        table.wrong("proxy-protocol", "what was sent to others has no header: give one of both")
    if found is not None and table.sound("interface", "address", "version", "multicast"):
        _groups(table, found, interface, groups)
    table.done()
    if found is None or ports is None or not table.sound("interface", "address"):
        return None
    return Listen(
        addresses=found,
        interface=interface,
        ports=ports,
        groups=groups,
        transparent=transparent,
        header_from=header_from,
        line=table.line,
    )


def _header_from(table: Table) -> tuple[Network, ...]:
    """Whose PROXY headers are believed; never everybody's unless the file says so."""
    version = table.take("proxy-protocol", values.one_of("v2"), None)
    senders = table.many("proxy-protocol-from", addresses.network)
    if version and senders is None and table.sound("proxy-protocol-from"):
        table.wrong(
            "proxy-protocol-from",
            "must be given with proxy-protocol: the addresses of the proxies that send to here, "
            'such as ["192.0.2.1", "2001:db8::/64"]',
        )
    if senders is not None and not table.has("proxy-protocol"):
        table.wrong("proxy-protocol-from", 'has no meaning without proxy-protocol = "v2"')
    return senders or ()


def _ports(value: object) -> tuple[Ports, ...]:
    """A port, a range, or a list of both, each port once."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise ValueError('expected a port, a range such as "5060-5062" or a list of them')
    found: list[Ports] = []
    for item in items:
        ports = addresses.ports(item)
        for other in found:
            if ports.first <= other.last and other.first <= ports.last:
                raise ValueError(f"port {max(ports.first, other.first)} is in the list twice")
        found.append(ports)
    return tuple(found)


def _version(value: object) -> int:
    if isinstance(value, int) and value in (4, 6):
        return value
    raise ValueError(f"expected 4 or 6, found {values.said(value)}")


def _group(value: object) -> Address:
    """A multicast group; one of a link may have a zone, or the listener's interface is meant."""
    word = values.text(value)
    host = addresses.bare(word)
    found = addresses.zoned(host, word) if "%" in host else addresses.address_of(host, word)
    if not found.is_multicast:
        raise ValueError(f"{values.said(word)} is no multicast group")
    return found


def _groups(
    table: Table, where: tuple[Address, ...], interface: str, groups: tuple[Address, ...]
) -> None:
    """A group is heard where the listener has all addresses, or the group's own."""
    versions = {address.version for address in where}
    for group in groups:
        zone = group.scope_id if isinstance(group, IPv6Address) else None
        if group.version not in versions:
            table.wrong("multicast", f"nothing of version {group.version} is listened on here")
        elif interface and zone:
            table.wrong("multicast", f"{group}: {interface} is meant, leave the zone out")
        elif not interface and group not in where and not where[0].is_unspecified:
            table.wrong(
                "multicast",
                f"{group} is not heard on {where[0]}: listen on an interface, or on "
                f'"{_ALL[group.version]}"',
            )
        elif not interface and not zone and addresses.is_of_link(group):
            table.wrong("multicast", f"{group} is there on each link: say which, {group}%eth0")
