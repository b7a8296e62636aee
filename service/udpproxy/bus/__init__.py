"""Our objects on D-Bus. The contract is the XML in dbus/."""

from udpproxy.bus.bus import Bus
from udpproxy.bus.objects import LOG_CONTROL, PROCESS, PROXY, Service
from udpproxy.bus.values import Failure, Value, plain, variants

__all__ = [
    "LOG_CONTROL",
    "PROCESS",
    "PROXY",
    "Bus",
    "Failure",
    "Service",
    "Value",
    "plain",
    "variants",
]
