"""An extension for DNS: questions of type ANY are refused before they reach the server.

Their answers are large, so they are asked with forged addresses to flood others (RFC 8482). The
client gets the error REFUSED at once; everything else passes as it came.
"""

from __future__ import annotations

import struct

from udpproxy.extension import PASS, Answer, Extension, FromClient, Session

_HEADER = struct.Struct("!6H")  # number, flags, questions, answers, authorities, additional
_REPLY, _OPCODE, _DESIRED = 0x8000, 0x7800, 0x0100
_REFUSED = 5
_ANY = 255


class NoAny(Extension):
    """Counts what it refused, for `udp-proxy ctl NAME info --process reg`."""

    def __init__(self, rule: str) -> None:
        self._refused = 0

    def from_client(self, session: Session, payload: bytes) -> FromClient:
        """An answer of our own to ANY; all that is no such question is the server's business."""
        end = _end_of_any(payload)
        if not end:
            return PASS
        self._refused += 1
        number, flags, *_ = _HEADER.unpack_from(payload)
        flags = flags & (_OPCODE | _DESIRED) | _REPLY | _REFUSED
        return Answer(_HEADER.pack(number, flags, 1, 0, 0, 0) + payload[_HEADER.size : end])

    def info(self) -> dict[str, int]:
        """One number."""
        return {"refused": self._refused}


def _end_of_any(message: bytes) -> int:
    """Where the message's only question ends if its type is ANY; else 0."""
    if len(message) < _HEADER.size:
        return 0
    _, flags, questions, *_ = _HEADER.unpack_from(message)
    if flags & _REPLY or questions != 1:
        return 0
    at = _HEADER.size
    # A name: labels with their lengths; a question has no reason to point elsewhere.
    while at < len(message) and 0 < message[at] < 64:
        at += 1 + message[at]
    if at + 5 > len(message) or message[at] != 0:
        return 0
    kind = int.from_bytes(message[at + 1 : at + 3], "big")
    return at + 5 if kind == _ANY else 0
