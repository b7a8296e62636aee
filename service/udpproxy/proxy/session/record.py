"""The session's record for the log: one flat set of fields, its text made from them (SPEC 7)."""

from __future__ import annotations

from ipaddress import ip_address

from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason, result


def fields(record: Record, rule: str, reason: Reason, ended: int) -> dict[str, str]:
    """`rule` is the ACL's name, `ended` the monotonic clock in nanoseconds.

    VIA is who sends the client's datagrams, there only behind a PROXY header. SOURCE is our own end
    towards the server, empty where there is none: the server's log knows the session by it. BYTES
    and DATAGRAMS, as seen from the proxy: CIN client to proxy, COUT proxy to client, SIN server to
    proxy, SOUT proxy to server. DATAGRAMS_DROPPED, there only where there were any: those over a
    rate or the amplification, in either direction.
    """
    server, port = record.peer or record.server
    client = address_text(record.client[0])
    via = {}
    if record.via:
        via = {"VIA_ADDR": address_text(record.via[0]), "VIA_PORT": str(record.via[1])}
    dropped = {"DATAGRAMS_DROPPED": str(record.dropped)} if record.dropped else {}
    return {
        "PROTOCOL": "UDP",
        "CLIENT": client,
        "CLIENT_ADDR": client,
        "CLIENT_PORT": str(record.client[1]),
        **via,
        "SERVER": address_text(server),
        "SERVER_ADDR": address_text(server),
        "SERVER_PORT": str(port),
        "SERVER_PORT_NAME": "",
        "SOURCE_ADDR": address_text(record.source[0]) if record.source[1] else "",
        "SOURCE_PORT": str(record.source[1] or ""),
        "USER": "",
        "BYTES_CIN": str(record.upload_bytes),
        "BYTES_COUT": str(record.download_bytes),
        "BYTES_SIN": str(record.download_bytes),
        "BYTES_SOUT": str(record.upload_bytes),
        "DATAGRAMS_CIN": str(record.uploads),
        "DATAGRAMS_COUT": str(record.downloads),
        "DATAGRAMS_SIN": str(record.downloads + record.stray),
        "DATAGRAMS_SOUT": str(record.uploads),
        **dropped,
        "DURATION": f"{(ended - record.opened) / 1e9:.3f}",
        "STATUS": "ACCEPTED",
        "RESULT": result(reason),
        "RULE": rule,
        "REASON": reason.value,
        "SESSION": str(record.id),
    }


def text(record: dict[str, str]) -> str:
    """The record as one line; empty fields are left out."""
    return " ".join(f"{name}={value}" for name, value in record.items() if value)


def address_text(packed: bytes) -> str:
    """An address as people write it; "-" for none."""
    return str(ip_address(packed)) if packed else "-"


def endpoint_text(packed: bytes, port: int) -> str:
    """`addr:port` or `[v6]:port`."""
    address = address_text(packed)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
