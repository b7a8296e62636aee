"""The record as administrators read it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from udpproxy.proxy.session.layout import Record
from udpproxy.proxy.session.reasons import Reason
from udpproxy.proxy.session.record import address_text, endpoint_text, fields, text

CLIENT, SERVER, PEER, OWN = (
    ip_address(word).packed for word in ("10.0.0.1", "192.0.2.1", "192.0.2.9", "192.0.2.3")
)

RECORD = Record(
    id=7, client=(CLIENT, 4000), server=(SERVER, 53), source=(OWN, 50_000),
    opened=10_000_000_000, uploads=3, upload_bytes=300, downloads=2, download_bytes=800, stray=5,
)  # fmt: skip


def test_all_its_fields() -> None:
    assert fields(RECORD, "dns", Reason.IDLE, 12_345_600_000) == {
        "PROTOCOL": "UDP",
        "CLIENT": "10.0.0.1",
        "CLIENT_ADDR": "10.0.0.1",
        "CLIENT_PORT": "4000",
        "SERVER": "192.0.2.1",
        "SERVER_ADDR": "192.0.2.1",
        "SERVER_PORT": "53",
        "SERVER_PORT_NAME": "",
        "SOURCE_ADDR": "192.0.2.3",
        "SOURCE_PORT": "50000",
        "USER": "",
        "BYTES_CIN": "300",
        "BYTES_COUT": "800",
        "BYTES_SIN": "800",
        "BYTES_SOUT": "300",
        "DATAGRAMS_CIN": "3",
        "DATAGRAMS_COUT": "2",
        "DATAGRAMS_SIN": "7",
        "DATAGRAMS_SOUT": "3",
        "DURATION": "2.346",
        "STATUS": "ACCEPTED",
        "RESULT": "OK",
        "RULE": "dns",
        "REASON": "idle",
        "SESSION": "7",
    }


def test_what_was_dropped() -> None:
    """There only where anything was."""
    made = fields(replace(RECORD, dropped=9), "dns", Reason.IDLE, 0)
    assert "DATAGRAMS_SOUT=3 DATAGRAMS_DROPPED=9 DURATION" in text(made)


def test_who_sent_it_behind_a_header() -> None:
    """There only then, after the client."""
    made = fields(replace(RECORD, via=(PEER, 5000)), "dns", Reason.IDLE, 0)
    assert (made["VIA_ADDR"], made["VIA_PORT"]) == ("192.0.2.9", "5000")
    assert "CLIENT_PORT=4000 VIA_ADDR=192.0.2.9 VIA_PORT=5000 SERVER=192.0.2.1 " in text(made)


def test_the_fixed_peer_is_the_server() -> None:
    record = Record(client=(CLIENT, 1), server=(SERVER, 69), peer=(PEER, 30_000))
    made = fields(record, "tftp", Reason.KILLED, 0)
    assert (made["SERVER"], made["SERVER_PORT"]) == ("192.0.2.9", "30000")
    assert (made["RESULT"], made["REASON"]) == ("ABORTED", "killed")


def test_a_session_that_was_never_connected() -> None:
    made = fields(Record(client=(CLIENT, 1)), "-", Reason.UNRESOLVED, 0)
    assert (made["SERVER"], made["SERVER_PORT"], made["RESULT"]) == ("-", "0", "FAILED")
    assert (made["SOURCE_ADDR"], made["SOURCE_PORT"]) == ("", "")


def test_one_line_without_empty_fields() -> None:
    line = text(fields(RECORD, "dns", Reason.IDLE, 12_345_600_000))
    assert line.startswith("PROTOCOL=UDP CLIENT=10.0.0.1 CLIENT_ADDR=10.0.0.1 CLIENT_PORT=4000 ")
    assert line.endswith(" RULE=dns REASON=idle SESSION=7")
    assert "USER" not in line
    assert "SERVER_PORT_NAME" not in line


def test_addresses() -> None:
    six = ip_address("2001:db8::1").packed
    assert address_text(six) == "2001:db8::1"
    assert address_text(b"") == "-"
    assert endpoint_text(six, 53) == "[2001:db8::1]:53"
    assert endpoint_text(CLIENT, 53) == "10.0.0.1:53"
