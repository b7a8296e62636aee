"""Which worker gets a client's datagrams: always the same one, also after a restart.

A small filter (SO_ATTACH_REUSEPORT_CBPF) decides, not the kernel's hash, for the relay must know
what it says: worker_of in engine/relay/worker.c takes the same steps. They mix the client's
address and port with a key that nobody outside knows, so that no sender can choose one worker for
all that he sends. The key stands in the session table, and so lives as long as the sessions.
"""

from __future__ import annotations

import ctypes
import secrets
import socket
import struct

_SO_ATTACH_REUSEPORT_CBPF = 51

_NET = -0x100000 & 0xFFFFFFFF  # SKF_NET_OFF: from the IP header on
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_HALF_AT_X = 0x20, 0x28, 0x30, 0x48
_STORE, _RECALL_TO_X, _LENGTH_TO_X = 0x02, 0x61, 0x81
_NUMBER, _NUMBER_TO_X = 0x00, 0x01
_AND, _SHIFT_LEFT, _SHIFT_RIGHT, _ADD, _SUBTRACT_X = 0x54, 0x64, 0x74, 0x04, 0x1C
_MULTIPLY, _MODULO, _EXCLUSIVE_OR_X = 0x24, 0x94, 0xAC
_TO_X, _RETURN, _JUMP, _EQUALS = 0x07, 0x16, 0x05, 0x15

_UDP, _UDP_HEADER, _IPV6_HEADER = 17, 8, 40
_SOURCE4, _SOURCE6 = 12, 8
"""Where the source address is in the IP header."""
_PORT = 0
"""A cell of the filter's memory."""

Step = tuple[int, int, int]
"""Instruction, number, and how many steps to skip where a comparison fails."""
Program = list[Step]


def new_key() -> int:
    """A random one; 0 stands for none."""
    return secrets.randbits(64) | 1


def steer(sock: socket.socket, workers: int, key: int) -> None:
    """For all sockets that are bound as this one is, in the order in which they were bound."""
    find_port, words = (
        (_port4(), [_SOURCE4])
        if sock.family == socket.AF_INET
        else (_port6(), [_SOURCE6 + 4 * word for word in range(4)])
    )
    attach(sock, _SO_ATTACH_REUSEPORT_CBPF, [*find_port, *_mixed(words, key, workers)])


def attach(sock: socket.socket, option: int, program: Program) -> None:
    """A filter of either kind."""
    code = b"".join(struct.pack("=HBBI", word, 0, skip, value) for word, value, skip in program)
    buffer = ctypes.create_string_buffer(code)
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, option, filter_program)


def _port4() -> Program:
    return [
        (_LOAD_BYTE, _NET, 0),  # the header's length, in words
        (_AND, 0x0F, 0),
        (_SHIFT_LEFT, 2, 0),
        (_TO_X, 0, 0),
        (_LOAD_HALF_AT_X, _NET, 0),
        (_STORE, _PORT, 0),
    ]


def _port6() -> Program:
    """Behind extension headers, however many, the port is where what is left of the packet is as
    long as the UDP header and the payload, which alone the filter is given."""
    beyond: Program = [
        (_LOAD_HALF, _NET + 4, 0),  # the length of all behind the IP header
        (_LENGTH_TO_X, 0, 0),
        (_SUBTRACT_X, 0, 0),
        (_ADD, _IPV6_HEADER - _UDP_HEADER, 0),
        (_TO_X, 0, 0),
    ]
    return [
        (_NUMBER_TO_X, _IPV6_HEADER, 0),
        (_LOAD_BYTE, _NET + 6, 0),  # what comes next
        (_EQUALS, _UDP, 1),
        (_JUMP, len(beyond), 0),
        *beyond,
        (_LOAD_HALF_AT_X, _NET, 0),
        (_STORE, _PORT, 0),
    ]


def _mixed(words: list[int], key: int, workers: int) -> Program:
    first, second = key & 0xFFFFFFFF, key >> 32
    mix: Program = [
        (_MULTIPLY, first | 1, 0),
        (_TO_X, 0, 0),
        (_SHIFT_RIGHT, 16, 0),
        (_EXCLUSIVE_OR_X, 0, 0),
        (_MULTIPLY, second | 1, 0),
        (_TO_X, 0, 0),
        (_SHIFT_RIGHT, 15, 0),
        (_EXCLUSIVE_OR_X, 0, 0),
    ]
    program: Program = [
        (_RECALL_TO_X, _PORT, 0),
        (_NUMBER, second, 0),
        (_EXCLUSIVE_OR_X, 0, 0),
        *mix,
    ]
    for at in words:
        program += [(_TO_X, 0, 0), (_LOAD_WORD, _NET + at, 0), (_EXCLUSIVE_OR_X, 0, 0), *mix]
    return [*program, (_MODULO, workers, 0), (_RETURN, 0, 0)]
