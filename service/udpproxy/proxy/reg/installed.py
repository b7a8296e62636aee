"""The classes of extensions: found without running anything of theirs, then loaded.

They are looked for where Python has its installed packages, never in the current directory; one
that others could write to is refused, as is one without the class that is named.
"""

from __future__ import annotations

import importlib
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, cast

from udpproxy.config.table import written
from udpproxy.errors import ConfigError, Problem
from udpproxy.extension import Extension
from udpproxy.proxy.config.model import Config, ExtensionName

if TYPE_CHECKING:
    import ast

_METHODS = ("opened", "from_client", "from_server", "ended", "info", "close")
_LONGEST_TEXT = 200


def check(config: Config, origin: str, *, loading: bool = False) -> None:
    """ConfigError with every extension of the file that cannot be used, and why. `loading` runs
    their modules, too."""
    importlib.invalidate_caches()
    look = _unloadable if loading else fault
    problems = [
        Problem(origin, rule.extension.line, written(rule.extension.path), why)
        for rule in config.rules
        if rule.accept and rule.extension and (why := look(rule.extension))
    ]
    if problems:
        raise ConfigError(problems)


def load(name: ExtensionName) -> Callable[[str], Extension]:
    """The class; ImportError for what it is not, and whatever its module raises."""
    if why := fault(name):
        raise ImportError(why)
    found: object = getattr(importlib.import_module(name.module), name.attribute)
    if not isinstance(found, type):
        raise ImportError(f"{name.attribute} is no class")
    if missing := [each for each in _METHODS if not callable(getattr(found, each, None))]:
        raise ImportError(f"{name.attribute} has no {', '.join(missing)}")
    return cast("Callable[[str], Extension]", found)


def told(problem: BaseException) -> str:
    """The error and where it was raised, in bounds: what is in it may come from a client."""
    text = f"{type(problem).__name__}: {problem}"[:_LONGEST_TEXT]
    frames = traceback.extract_tb(problem.__traceback__)
    if not frames or frames[-1].filename == __file__:
        return text
    return f"{text} ({Path(frames[-1].filename).name} line {frames[-1].lineno})"


def _unloadable(name: ExtensionName) -> str:
    why = fault(name)
    try:
        if not why:
            load(name)
    except (Exception, SystemExit) as problem:
        why = str(problem) if type(problem) is ImportError else told(problem)
    return why


def fault(name: ExtensionName) -> str:
    """What is wrong with it; nothing: it may be loaded."""
    spec = _find(name.module)
    if spec is None or spec.origin is None:
        return f"there is no installed Python module {name.module}"
    file = Path(spec.origin).resolve()
    try:
        for place in (file, *file.parents):
            if _others_may_write(place, alone=place in (file, file.parent)):
                return f"{place} is writable for everybody: {name.module} is not trusted"
        named = name.attribute in _names(file) if file.suffix == ".py" else True
    except (OSError, SyntaxError, ValueError) as problem:
        return f"{file}: {problem}"
    return "" if named else f"{file} has no {name.attribute}"


def _find(module: str) -> ModuleSpec | None:
    # Without -P the first place is the current directory or that of the program itself.
    path = sys.path if sys.flags.safe_path else sys.path[1:]
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), [place for place in path if place])
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _others_may_write(place: Path, *, alone: bool) -> bool:
    """In a sticky directory others can only add files: harmless unless modules are sought there."""
    mode = place.stat().st_mode
    return bool(mode & stat.S_IWOTH) and (alone or not mode & stat.S_ISVTX)


def _names(file: Path) -> set[str]:
    """What the module has at its top, as far as that is written there."""
    import ast  # REG stays small without it

    return set(_bound(ast.parse(file.read_bytes()).body))


def _bound(statements: list[ast.stmt]) -> Iterator[str]:
    import ast

    for statement in statements:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (each.asname or each.name for each in names)
            case ast.Assign(targets=targets):
                yield from (each.id for each in targets if isinstance(each, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If(body=body, orelse=orelse):
                yield from _bound(body + orelse)
            case ast.Try(body=body, handlers=handlers, orelse=orelse):
                yield from _bound(body + orelse)
                yield from _bound([line for each in handlers for line in each.body])
            case _:
                pass
