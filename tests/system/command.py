"""Commands in a machine: how they get there, and how one that failed is told."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from system.roots import PATH

Result = subprocess.CompletedProcess[str]

ENVIRONMENT = {
    "PATH": f"/usr/local/sbin:/usr/local/bin:{PATH}",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "",
}


class CommandError(Exception):
    """A command in a machine that failed, with all it said."""

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__(
            f"status {result.returncode} of {' '.join(result.args)}\n"
            f"--- stdout\n{result.stdout}\n--- stderr\n{result.stderr}"
        )


def entering(
    leader: int, command: Sequence[str], *, cwd: str, environment: Mapping[str, str]
) -> list[str]:
    """In all namespaces of that process and in no other way part of its machine."""
    namespaces = ["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
    variables = [f"{name}={text}" for name, text in {**ENVIRONMENT, **environment}.items()]
    inside = ["/usr/bin/env", "-i", f"--chdir={cwd}", *variables, *command]
    return ["nsenter", "-t", str(leader), *namespaces, "--", *inside]


def as_unit(command: Sequence[str], options: Sequence[str]) -> list[str]:
    """The command as it is written: systemd would put its own variables in place of `$NAME`."""
    words = [word.replace("$", "$$") for word in command]
    return ["systemd-run", "--quiet", "--collect", *options, "--", *words]
