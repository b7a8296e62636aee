"""Runs debian/tests as Debian does: autopkgtest in a booted machine, on the built package.

Not part of the tests: it lends the machine the host's network, for apt. As root, or by sudo:
.venv/bin/python tests/system/autopkgtest.py [d12|d13]...
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from system import nspawn, package, roots
from system.machine import Machine

# A machine is as isolated as a container can be, but the null server does not know that.
COMMAND = ("autopkgtest", "--ignore-restrictions=isolation-container")
INSTALL = "apt-get update && apt-get install --yes --no-install-recommends autopkgtest"


def run(release: str) -> int:
    """autopkgtest's status: 0 for a pass. What it says goes to stdout."""
    deb = package.build(release, roots.obtain(release, "builder"))
    with (
        tempfile.TemporaryDirectory() as work,
        Machine(roots.obtain(release), f"{release}-autopkgtest", network_access=True) as machine,
    ):
        package.copy_tree(Path(work) / "udp-proxy")
        machine.put(Path(work) / "udp-proxy", "/root/udp-proxy")
        machine.put(deb.path, f"/root/{deb.path.name}")
        machine.run("sh", "-c", INSTALL, timeout=300)
        words = [*COMMAND, f"/root/{deb.path.name}", "/root/udp-proxy/", "--", "null"]
        done = machine.unit_run(
            *words, properties=["Environment=HOME=/root"], check=False, timeout=600
        )
        print(done.stdout, done.stderr, sep="", flush=True)
        return done.returncode


def main() -> int:
    if unknown := set(sys.argv[1:]) - set(roots.RELEASES):
        sys.exit(f"no such release: {', '.join(sorted(unknown))}")
    nspawn.sweep()
    statuses = {release: run(release) for release in sys.argv[1:] or roots.RELEASES}
    for release, status in statuses.items():
        print(f"{release}: {'passed' if status == 0 else f'failed with {status}'}")
    return max(statuses.values())


if __name__ == "__main__":
    sys.exit(main())
