"""What goes over the bus, as the contract's XML says it."""

from __future__ import annotations

from pathlib import Path

from dbus_next import Variant
from dbus_next import introspection as intr

from udpproxy.bus import arguments

_MOST_VALUE = 4096
"""Characters of a value that we tell."""

Value = object
"""What dbus-next marshals for a signature of the contract; opaque here."""


def contract(interfaces: Path, name: str) -> intr.Interface:
    """An interface as its XML in that directory says."""
    node = intr.Node.parse((interfaces / f"{name}.xml").read_text())
    return node.interfaces[0]


class Failure(Exception):
    """Somebody on the bus did not do what we asked."""


def variants(values: dict[str, object]) -> dict[str, Variant]:
    """Plain values as a{sv}; numbers that are never negative go as 64 bits, others as text."""
    return {arguments.told(key): _variant(value) for key, value in values.items()}


def _variant(value: object) -> Variant:
    match value:
        case bool():
            return Variant("b", value)
        case int() if 0 <= value < 1 << 64:
            return Variant("t", value)
        case float():
            return Variant("d", value)
        case _:
            return Variant("s", arguments.told(str(value), _MOST_VALUE))


def plain(value: object) -> object:
    """A Variant's value, or the value itself."""
    return value.value if isinstance(value, Variant) else value
