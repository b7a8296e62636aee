"""A name server of the tests' own: says what it is told to, when it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from ipaddress import ip_address

import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

from host import free_port


class NameServer:
    """UDP on 127.0.0.1, in a thread; a context manager. Names that it does not have: NXDOMAIN.

    `silent`: nothing is answered; `delay`: seconds before each answer, which all others wait for.
    """

    def __init__(self, *, ttl: int = 60, port: int = 0) -> None:
        self.port = port or free_port()
        self.ttl = ttl
        self.silent = False
        self.delay = 0.0
        self.asked: Counter[str] = Counter()
        self._records: dict[tuple[str, str], list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("127.0.0.1", self.port))
        self._socket.settimeout(0.05)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    @property
    def section(self) -> str:
        """What a configuration needs to ask this server; a test's times are short."""
        return (
            f'[resolver]\nservers = ["127.0.0.1:{self.port}"]\nmin-ttl = 1\nretry = 1\n'
            "timeout = 0.5\nattempts = 2\n"
        )

    def host(self, name: str, *addresses: str) -> None:
        """The name has these from now on."""
        for kind in ("A", "AAAA"):
            of_kind = [each for each in addresses if (":" in each) == (kind == "AAAA")]
            self._records[f"{name}.", kind] = of_kind

    def reverse(self, address: str, *names: str) -> None:
        """So the zone of addresses says, be it true or not."""
        pointer = ip_address(address).reverse_pointer
        self._records[f"{pointer}.", "PTR"] = [f"{name}." for name in names]

    def gone(self, name: str) -> None:
        """There is no such name any more."""
        for kind in ("A", "AAAA"):
            self._records.pop((f"{name}.", kind), None)

    def _serve(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                data, client = self._socket.recvfrom(4096)
                answer = self._answer(data)
                if self.silent:
                    continue
                if self.delay:
                    time.sleep(self.delay)
                self._socket.sendto(answer, client)

    def _answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        asked = query.question[0]
        name, kind = str(asked.name).lower(), dns.rdatatype.to_text(asked.rdtype)
        self.asked[f"{name[:-1]} {kind}"] += 1
        answer = dns.message.make_response(query)
        found = self._records.get((name, kind))
        if found:
            answer.answer.append(dns.rrset.from_text_list(asked.name, self.ttl, "IN", kind, found))
        elif not any(other == name for other, _ in self._records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()
