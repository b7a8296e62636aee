"""A set of networks that is asked once for every new client.

One set of numbers per prefix length: the answer costs as many look-ups as there are different
lengths, however many networks.
"""

from __future__ import annotations

from collections.abc import Iterable

from udpproxy.config.model import Address, Network

_MANY = 64
"""Beyond these the exact answer of bits() costs more than it spares."""


class NetSet:
    """`address in networks`, for IPv4 and IPv6 together."""

    def __init__(self, networks: Iterable[Network]) -> None:
        by_shift: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            number = int(network.network_address) >> shift
            by_shift[network.version].setdefault(shift, set()).add(number)
        self._numbers = {
            version: tuple((shift, frozenset(numbers)) for shift, numbers in found.items())
            for version, found in by_shift.items()
        }

    def __contains__(self, address: Address) -> bool:
        number = int(address)
        return any(number >> shift in numbers for shift, numbers in self._numbers[address.version])

    def bits(self, address: Address) -> int:
        """All addresses that begin with so many bits of this one are in it, or none is."""
        number, width = int(address), address.max_prefixlen
        return max(
            (_bits(number >> s, found, width - s) for s, found in self._numbers[address.version]),
            default=0,
        )


def _bits(head: int, numbers: frozenset[int], length: int) -> int:
    if head in numbers or len(numbers) > _MANY:
        return length
    # Up to and with the first bit in which it differs from each of them.
    return max(length - (head ^ number).bit_length() + 1 for number in numbers)
