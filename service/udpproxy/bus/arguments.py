"""Texts for whoever calls us. Pure."""

from __future__ import annotations

MOST_TOLD = 500
"""Characters of one."""


def told(text: str, most: int = MOST_TOLD) -> str:
    """As it can be sent: not too long, and nothing in it that D-Bus has no characters for."""
    sound = text.encode(errors="replace").decode().replace("\0", "?")
    return sound if len(sound) <= most else f"{sound[: most - 3]}..."
