"""The errors, by who is at fault; README "Why" says what happens on each.

The network is never an error: a datagram is ignored and counted.
"""

from __future__ import annotations

from dataclasses import dataclass


class ProxyError(Exception):
    """The root of all that is ours."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration file: where it stands and what to do about it."""

    origin: str
    line: int
    key: str
    text: str
    passing: bool = False
    """Is it one only as the host is at this moment?"""

    def __str__(self) -> str:
        if not self.line:  # of the whole file
            return f"{self.origin}: {self.text}"
        return f"{self.origin}:{self.line}: {self.key}: {self.text}"


class ConfigError(ProxyError):
    """The administrator's file: every mistake in it, in the order of its lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def passing(self) -> bool:
        """Can the same file be right later?"""
        return all(problem.passing for problem in self.problems)


def lines_of(problem: Exception, most: int = 20) -> list[str]:
    """Each mistake by itself, and if there are very many, how many more."""
    lines = str(problem).splitlines()
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return lines[:most] + more


class LinkError(ProxyError):
    """The process at the other end broke the protocol or went away."""


class InvalidArgument(ProxyError, ValueError):
    """The administrator's command cannot be carried out; nothing was changed."""


class UnitError(ProxyError):
    """The system refused something that a part needs: `unit` says which part."""

    def __init__(self, unit: str, reason: str) -> None:
        self.unit = unit
        self.reason = reason
        super().__init__(f"{unit}: {reason}")


class NoRight(UnitError):
    """Trying again would not help: we may not."""
