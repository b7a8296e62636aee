"""A machine for one test: a container booted with its own systemd from a root that only it changes.

Its changes live in memory and go with it, but where it is to boot again; the root stays as it was.
It has a network of its own with nothing but lo, its own control group and its own journal. The host
needs no systemd, no terminal and no bus. It ends like a computer whose plug is pulled.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from system import journal, nspawn
from system.cgroups import Group
from system.command import CommandError, Result, as_unit, entering
from system.roots import PATH, TOOLS

BOOT_TIMEOUT = 60.0
BOOTED = ("running", "degraded")
_numbers = itertools.count(1)


class MachineError(Exception):
    """A machine that does not boot."""


class Machine:
    """`with Machine(root) as machine: machine.run("systemctl", "status")`."""

    program: tuple[str, ...] = ()
    """What runs in place of systemd."""

    def __init__(
        self,
        root: Path,
        label: str = "machine",
        *,
        network_access: bool = False,
        binds: Mapping[Path, str] | None = None,
        lasting: bool = False,
    ) -> None:
        """`network_access` lends it the host's network: for apt, not beside another such machine.
        `binds` are paths of the host and where they are seen, read-only. Where it is `lasting`, its
        changes are in the root afterwards: for one of the test's own, which boots again."""
        self.root = root
        self.name = f"{label}-{os.getpid()}-{next(_numbers)}"
        self.network_access = network_access
        self.binds = dict(binds or {})
        self.lasting = lasting
        self.leader = 0  # its PID 1, as the host numbers it
        self.state = ""  # what systemd called itself after booting
        self.boot_seconds = 0.0
        self._group = Group(self.name)
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the machine
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self.leader:
            print(f"journal of {self.name}:\n{self.journal_text()}")  # pytest shows it
        self.stop()

    def start(self) -> None:
        try:
            self._boot()
        except BaseException as error:
            error.add_note(f"console of {self.name}:\n{self.console()}")
            if self.leader:
                error.add_note(f"its journal:\n{self.journal_text()}")
            self.stop()
            raise

    def _boot(self) -> None:
        if os.geteuid() != 0:
            raise MachineError("only root can boot machines")
        if shutil.which("systemd-nspawn", path=PATH) is None:
            raise MachineError(f"systemd-nspawn is not installed: {TOOLS}")
        self._group.create()
        begun = time.monotonic()
        command = nspawn.command(
            self.root,
            self.name,
            program=self.program,
            network_access=self.network_access,
            descriptors=nspawn.raise_descriptor_limit(),
            binds=self.binds,
            lasting=self.lasting,
        )
        self._nspawn = subprocess.Popen(
            self._group.entered_by(command),
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            env=nspawn.ENVIRONMENT,
            start_new_session=True,
        )
        while self.state not in BOOTED:
            if self._nspawn.poll() is not None:
                raise MachineError(f"systemd-nspawn ended with {self._nspawn.returncode}")
            if time.monotonic() - begun > BOOT_TIMEOUT:
                raise MachineError(f"not up in {BOOT_TIMEOUT:.0f} s, but {self.state or 'silent'}")
            time.sleep(0.02)
            self.leader = self.leader or nspawn.leader_of(self._nspawn.pid)
            if self.leader:
                self.state = self._state()
        self.boot_seconds = time.monotonic() - begun

    def _state(self) -> str:
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    @property
    def off(self) -> bool:
        """Its systemd ended it. A command inside cannot tell: a shutdown stops all processes for a
        moment, and nsenter stops itself with its child, which nobody resumes."""
        return self._nspawn is None or self._nspawn.poll() is not None

    def stop(self) -> None:
        """Pulls the plug and leaves nothing behind. Stopping twice is no mistake."""
        process, self._nspawn = self._nspawn, None
        if process is not None:
            if process.poll() is None:  # else the leader's number may be another's by now
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.leader or process.pid, signal.SIGKILL)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.leader = 0
        self._group.remove()
        nspawn.forget(self.name)
        self._console.close()

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 60.0,
        stdin: str = "",
        cwd: str = "/",
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Quick, but with all the host's rights and outside every unit: not to try rights with."""
        process = self.popen(*command, cwd=cwd, environment=environment)
        try:
            output, errors = process.communicate(stdin, timeout)
        except BaseException:
            # nsenter waits for a child of its own, which its death would not end
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        result = Result(command, process.returncode, output, errors)
        if check and result.returncode != 0:
            raise CommandError(result)
        return result

    def popen(
        self, *command: str, cwd: str = "/", environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A command beside which the test goes on: `with machine.popen(...) as client:`."""
        return subprocess.Popen(
            entering(self.leader, command, cwd=cwd, environment=environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def unit_run(
        self,
        *command: str,
        user: str = "",
        properties: Sequence[str] = (),
        check: bool = True,
        timeout: float = 60.0,
        stdin: str = "",
    ) -> Result:
        """As a service of the machine's systemd: the rights are the real ones. What it prints is in
        the result, not in the journal."""
        options = [f"--property={text}" for text in (f"RuntimeMaxSec={timeout}", *properties)]
        if user:
            options.append(f"--uid={user}")
        options += ["--wait", "--pipe"]
        unit = as_unit(command, options)
        return self.run(*unit, check=check, timeout=timeout + 30, stdin=stdin)

    def unit_start(self, unit: str, *command: str, properties: Sequence[str] = ()) -> None:
        """As a service that goes on after this call; with Type=notify it is ready by then."""
        options = [f"--unit={unit}", *(f"--property={text}" for text in properties)]
        self.run(*as_unit(command, options))

    def path(self, path: str) -> Path:
        """Where the host sees it. Links are followed inside: from here they would lead outside."""
        inside = self.run("readlink", "--canonicalize-missing", path).stdout.rstrip("\n")
        return Path(f"/proc/{self.leader}/root{inside}")

    def put(self, source: Path, target: str, *, ignore: Sequence[str] = ()) -> None:
        """Copies a file or a tree to the very name `target`; `ignore` are patterns of names."""
        place = self.path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns(*ignore)
            shutil.copytree(source, place, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(source, place)

    def write(self, target: str, text: str, mode: int = 0o644) -> None:
        place = self.path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def journal(self, *selection: str) -> list[journal.Entry]:
        """Entries that match journalctl's arguments, oldest first, with all their fields."""
        self.run("journalctl", "--sync")
        shown = self.run("journalctl", "--output=json", "--all", "--quiet", *selection)
        return journal.parse(shown.stdout)

    def journal_text(self, lines: int = 300) -> str:
        """The end of the journal for a reader, or why there is none: never an exception."""
        options = ["--output=short-precise", f"--lines={lines}"]
        try:
            shown = self.run("journalctl", *options, check=False, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            return f"no journal: {error}"
        return shown.stdout + shown.stderr

    def console(self) -> str:
        self._console.seek(0)
        return self._console.read().decode(errors="replace")[-4000:]
