"""What callers give us, checked before anybody uses it. Pure."""

from __future__ import annotations

from udpproxy.errors import InvalidArgument

MOST_TEXT = 256
MOST_TOLD = 500
_WORDS = frozenset({"LogLevel", "Segmentation"})
_KEYS = {
    "ListSessions": frozenset({"client", "server", "listener", "rule", "acl"}),
    "Explain": frozenset({"from", "to", "at"}),
}


def checked(member: str, body: list[object]) -> list[object]:
    """The arguments of a method as plain values; InvalidArgument. Their number and kinds are those
    of its signature."""
    if member in _WORDS:
        return [_text(member, body[0])]
    if member in _KEYS:
        return [_texts(body[0], _KEYS[member])]
    return body


def _texts(given: object, known: frozenset[str]) -> dict[str, str]:
    if not isinstance(given, dict):
        raise InvalidArgument("give keys and values")
    if unknown := set(given) - known:
        keys = ", ".join(sorted(told(str(key), 40) for key in list(unknown)[:4]))
        raise InvalidArgument(f"unknown: {keys}; give {', '.join(sorted(known))}")
    return {key: _text(key, getattr(value, "value", value)) for key, value in given.items()}


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{key} is a string")
    if len(value) > MOST_TEXT:
        raise InvalidArgument(f"{key} is longer than {MOST_TEXT} characters")
    return value


def told(text: str, most: int = MOST_TOLD) -> str:
    """As it can be sent: not too long, and nothing in it that D-Bus has no characters for."""
    sound = text.encode(errors="replace").decode().replace("\0", "?")
    return sound if len(sound) <= most else f"{sound[: most - 3]}..."
