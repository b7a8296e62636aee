"""Reading what journalctl prints as JSON."""

from __future__ import annotations

import json

Entry = dict[str, str]


def parse(lines: str) -> list[Entry]:
    return [
        {name: _text(value) for name, value in json.loads(line).items()}
        for line in lines.splitlines()
    ]


def _text(value: object) -> str:
    """Bytes that are no text come as a list of numbers, a repeated field as a list of texts."""
    if isinstance(value, list):
        if value and all(isinstance(item, int) for item in value):
            return bytes(value).decode(errors="replace")
        return "\n".join(_text(item) for item in value)
    return "" if value is None else str(value)
