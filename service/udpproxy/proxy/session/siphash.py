"""SipHash-1-3 over whole words, as engine/relay/siphash.h has it: what strangers choose is only
ever hashed with a key that they do not know."""

from __future__ import annotations

from collections.abc import Iterable

_MASK = (1 << 64) - 1


def siphash(key: tuple[int, int], words: Iterable[int]) -> int:
    """A number of 64 bits, of a key of twice as many and words of as many each."""
    a, b = key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D
    c, d = key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573
    words = list(words)
    for word in words:
        a, b, c, d = _round(a, b, c, d ^ word)
        a ^= word
    last = (len(words) * 8 & 0xFF) << 56
    a, b, c, d = _round(a, b, c, d ^ last)
    a ^= last
    c ^= 0xFF
    for _ in range(3):
        a, b, c, d = _round(a, b, c, d)
    return a ^ b ^ c ^ d


def _round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = (a + b) & _MASK
    b = _rotate(b, 13) ^ a
    a = _rotate(a, 32)
    c = (c + d) & _MASK
    d = _rotate(d, 16) ^ c
    a = (a + d) & _MASK
    d = _rotate(d, 21) ^ a
    c = (c + b) & _MASK
    b = _rotate(b, 17) ^ c
    c = _rotate(c, 32)
    return a, b, c, d


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK
