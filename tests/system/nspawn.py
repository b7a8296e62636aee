"""Starting systemd-nspawn on a host that may lack systemd, cgroup2 alone, and some rights."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from system import cgroups
from system.roots import PATH

# cgroup2 alone inside, as on a real Debian, even where the host mixes both kinds
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}


LEADERS = ("systemd", "init", "(sd-stubinit)")
"""What a machine's PID 1 calls itself; the last one is nspawn's own, where nothing boots."""


def command(
    root: Path,
    name: str,
    *,
    program: Sequence[str],
    network_access: bool,
    descriptors: int,
    binds: Mapping[Path, str],
    lasting: bool,
) -> list[str]:
    """Without a `program` the container boots its systemd; with one it runs that and no more."""
    words = ["systemd-nspawn", "--quiet", "--as-pid2" if program else "--boot"]
    words += [f"--directory={root}", f"--machine={name}"]
    if not lasting:
        # the other ways to be volatile copy for seconds, or do not boot
        words += ["--volatile=overlay"]
    words += ["--register=no", "--keep-unit", "--link-journal=no"]  # the host may have no systemd
    words += ["--console=pipe", "--timezone=off", f"--rlimit=RLIMIT_NOFILE=1024:{descriptors}"]
    if network_access:
        words += ["--resolv-conf=copy-host"]
    else:
        words += ["--resolv-conf=off", "--private-network"]
    words += [f"--bind-ro={here}:{there}" for here, there in binds.items()]
    return [*words, "--", *program] if program else words


def raise_descriptor_limit() -> int:
    """As many descriptors as can be had, for this process and what it starts: the new limit."""
    kernel_limit = int(Path("/proc/sys/fs/nr_open").read_text())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (kernel_limit, hard):
        with contextlib.suppress(ValueError, OSError):  # above `hard` needs CAP_SYS_RESOURCE
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
    return hard


def sweep() -> None:
    """Ends what killed test runs left running."""
    for name in cgroups.sweep():
        forget(name)


def forget(name: str) -> None:
    """systemd-nspawn's own note of a machine, which it leaves behind when it is killed."""
    with contextlib.suppress(OSError):  # there is none
        Path("/run/systemd/nspawn/propagate", name).rmdir()


def leader_of(nspawn: int) -> int:
    """The child of systemd-nspawn that has become the machine's PID 1, or 0."""
    with contextlib.suppress(OSError):  # either may have gone
        for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() in LEADERS:
                return int(child)
    return 0
