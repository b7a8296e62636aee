"""From a text to what TOML makes of it, or to the mistake in it with its line."""

from __future__ import annotations

import re
import tomllib

from udpproxy.errors import ConfigError, Problem

_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def toml(text: str, origin: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = Problem(origin, 0, "TOML", "values are nested too deeply")
    except ValueError as error:
        problem = _syntax_error(text, origin, str(error))
    raise ConfigError([problem])


def _syntax_error(text: str, origin: str, told: str) -> Problem:
    """tomllib says where only in its words; for a number of 4300 digits it does not say it."""
    place = _TOML_PLACE.fullmatch(told)
    if place is None:
        return Problem(origin, 0, "TOML", told)
    if place[2] is None:
        return Problem(origin, text.count("\n") + 1, "TOML", f"{place[1]} at the end of the file")
    return Problem(origin, int(place[2]), "TOML", f"{place[1]} (column {place[3]})")
