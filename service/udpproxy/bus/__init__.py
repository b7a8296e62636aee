"""Our objects on D-Bus. The contract is the XML in dbus/."""

from udpproxy.bus.bus import Bus
from udpproxy.bus.objects import LOG_CONTROL, Service
from udpproxy.bus.values import Failure, Value, plain, variants

__all__ = [
    "LOG_CONTROL",
    "Bus",
    "Failure",
    "Service",
    "Value",
    "plain",
    "variants",
]
