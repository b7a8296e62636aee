"""Broken and hostile PROXY headers against both readers of them: python bench/fuzz_headers.py
[COUNT] [SEED]. Whatever comes in, nothing may be raised, Python and C must read the same, C not a
byte beyond the datagram (behind it is memory that nobody may touch), and what is believed is
well-formed. What either writes the other reads."""

from __future__ import annotations

import ctypes
import mmap
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from udpproxy.proxy.session import proxy_header
from udpproxy.proxy.session.proxy_header import Endpoint, Header

COUNT = 1_000_000
RELAY = Path(__file__).resolve().parents[1] / "service" / "udpproxy" / "proxy" / "engine" / "relay"
_SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
_INET6 = 10
_PROT_NONE = 0
_ROOM = 1 << 17


@dataclass(slots=True)
class Tally:
    """What a run found."""

    inputs: int = 0
    believed: int = 0
    slowest: float = 0.0


class _Header(ctypes.Structure):
    """struct header of relay/proxy_header.h."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("local", ctypes.c_bool),
        ("client", ctypes.c_uint32 * 7),
        ("addressed", ctypes.c_uint8 * 16),
        ("port", ctypes.c_uint16),
    )


class NativeReader:
    """read_header of the native engine, on memory that ends where the datagram does."""

    def __init__(self, directory: Path) -> None:
        """Built there."""
        library = directory / "proxy_header.so"
        sources = [str(RELAY / name) for name in ("proxy_header.c", "address.c")]
        words = ["gcc", "-std=gnu11", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([*words, *sources], check=True)
        self._read = ctypes.CDLL(str(library)).read_header
        self._read.restype = ctypes.c_bool
        self._memory = mmap.mmap(-1, _ROOM + mmap.PAGESIZE)
        where = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._end = where + _ROOM
        assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(self._end), mmap.PAGESIZE, _PROT_NONE)

    def parse(self, data: bytes) -> Header | None:
        """As proxy_header.parse."""
        found = _Header()
        where = ctypes.c_void_p(self._end - len(data))
        ctypes.memmove(where, data, len(data))
        if not self._read(where, ctypes.c_uint32(len(data)), ctypes.byref(found)):
            return None
        if found.local:
            return Header(found.size)
        client = bytes(found.client)
        six = int.from_bytes(client[:2], sys.byteorder) == _INET6
        packed = client[8:24] if six else client[4:8]
        addressed = bytes(found.addressed)[: len(packed)], int(found.port)
        return Header(found.size, (packed, int.from_bytes(client[2:4], "big")), addressed)


def fuzz(count: int, seed: int) -> Tally:
    """So many inputs; AssertionError, or whatever was raised, for the first that breaks a rule."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as directory:
        native = NativeReader(Path(directory))
        for _ in range(count):
            _one(rng, native, tally)
    return tally


def _one(rng: random.Random, native: NativeReader, tally: Tally) -> None:
    data = _datagram(rng)
    began = time.thread_time()
    found = proxy_header.parse(data)
    tally.slowest = max(tally.slowest, time.thread_time() - began)
    assert native.parse(data) == found, data.hex()
    tally.inputs += 1
    if found is None:
        return
    tally.believed += 1
    assert 16 <= found.size <= len(data), data.hex()
    assert (found.client is None) == (found.addressed is None), data.hex()
    if found.client and found.addressed:
        assert len(found.client[0]) == len(found.addressed[0]) in (4, 16), data.hex()
        again = proxy_header.make("v2", found.client, found.addressed, rng.getrandbits(64))
        read = Header(len(again), found.client, found.addressed)
        assert native.parse(again) == proxy_header.parse(again) == read, data.hex()


def _datagram(rng: random.Random) -> bytes:
    """Right, a little wrong, or rubbish."""
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(0, 120))
    if kind < 0.2:
        return _SIGNATURE + rng.randbytes(rng.randrange(0, 120))
    data = bytearray(_right(rng))
    if kind < 0.35:
        return bytes(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 if data:
                data[place] = rng.randrange(256)
            case 1 if data:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place:place] = rng.randbytes(rng.randrange(1, 40))
            case 3:
                del data[place:]
            case 4 if len(data) > 16:  # command, family, length: what decides
                data[rng.randrange(12, 16)] = rng.choice([0, 1, 0x11, 0x12, 0x20, 0x21, 0x22, 0xFF])
            case _:
                data += rng.randbytes(rng.randrange(0, 40))
    return bytes(data)


def _right(rng: random.Random) -> bytes:
    size = rng.choice([4, 16])
    tlvs = b"".join(_tlv(rng) for _ in range(rng.choice([0, 0, 1, 3, 64, 65])))
    if rng.random() < 0.1:
        block = rng.choice([b"", tlvs, rng.randbytes(36)])
        head = bytes([0x20, rng.choice([0, 0x12])])
    else:
        one, other = _end(rng, size), _end(rng, size)
        ports = one[1].to_bytes(2, "big") + other[1].to_bytes(2, "big")
        block = one[0] + other[0] + ports + tlvs
        head = bytes([0x21, 0x12 if size == 4 else 0x22])
    head += min(len(block), 0xFFFF).to_bytes(2, "big")
    return _SIGNATURE + head + block + rng.randbytes(rng.choice([0, 1, 50]))


def _end(rng: random.Random, size: int) -> Endpoint:
    mapped = size == 16 and rng.random() < 0.05
    packed = bytes(10) + b"\xff\xff" + rng.randbytes(4) if mapped else rng.randbytes(size)
    return packed, rng.getrandbits(16)


def _tlv(rng: random.Random) -> bytes:
    value = rng.randbytes(rng.choice([0, 1, 4, 128, 1000]))
    return bytes([rng.choice([1, 3, 4, 5, 0x20, 0xE0])]) + len(value).to_bytes(2, "big") + value


def main(words: list[str]) -> int:
    """The exit status."""
    count = int(words[0]) if words else COUNT
    seed = int(words[1]) if len(words) > 1 else random.SystemRandom().randrange(2**32)
    print(f"{count} inputs, seed {seed}", flush=True)
    began = time.monotonic()
    tally = fuzz(count, seed)
    took = time.monotonic() - began
    print(
        f"{tally.inputs} inputs in {took:.1f} s: {tally.believed} were headers, "
        f"the slowest input {tally.slowest * 1e3:.2f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
