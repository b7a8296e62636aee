"""Makes ahead what the system tests boot and install: roots and packages, some minutes in a fresh
checkout. Done within a test, it would look like one that hangs. As root."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from system import nspawn, package, roots


def main() -> int:
    nspawn.sweep()
    wanted = [(release, kind) for release in roots.RELEASES for kind in roots.PACKAGES]
    if missing := [recipe for recipe in map(_recipe, wanted) if not recipe.root.is_dir()]:
        names = ", ".join(recipe.name for recipe in missing)
        print(f"making the roots that machines boot from, once for all runs: {names}", flush=True)
    try:
        made = roots.obtain_all(wanted)
    except roots.RootError as error:
        print(error, file=sys.stderr)
        return 1
    print("building the packages, once for each state of the tree", flush=True)
    with ThreadPoolExecutor() as pool:
        builders = {release: made[release, "builder"] for release in roots.RELEASES}
        list(pool.map(_packages, builders, builders.values()))
    return 0


def _recipe(wanted: tuple[str, roots.Kind]) -> roots.Recipe:
    release, kind = wanted
    return roots.Recipe(roots.RELEASES[release], kind)


def _packages(release: str, builder: Path) -> None:
    package.build(release, builder)
    package.build(release, builder, version=package.OLDER)


if __name__ == "__main__":
    sys.exit(main())
