"""Words on the command line, and which function they mean."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from udpproxy import __version__
from udpproxy.cli import ctl, daemon, offline
from udpproxy.cli.program import Program
from udpproxy.config import reading
from udpproxy.errors import InvalidArgument
from udpproxy.process.logs import MOST, level_from
from udpproxy.process.verbs import Arguments, Verb
from udpproxy.process.wire import Plain
from udpproxy.proxy.identity import IDENTITY
from udpproxy.proxy.verbs import VERBS

_EPILOG = "Manual: udp-proxy(8), udp-proxy.toml(5)."
_READ: Any = {
    "metavar": "FILE",
    "type": lambda word: reading.path_of(word, IDENTITY.configurations),
    "help": "a TOML file, the name of an instance in /etc/udp-proxy, or - for standard input",
}


def _over_bus(instance: str, verb: Verb, arguments: Arguments) -> Plain:
    from udpproxy.proxy import over_bus

    return over_bus.ask(instance, verb, arguments)


PROGRAM = Program(
    identity=IDENTITY,
    verbs=VERBS,
    columns={
        "sessions": (
            *("session", "client", "listener", "source", "server", "acl", "type", "state"),
            *("age", "idle", "datagrams-up", "datagrams-down", "bytes-up", "bytes-down"),
        ),
        "servers": ("group", "server", "state", "weight", "sessions", "since", "why"),
    },
    over_bus=_over_bus,
    processes="parent, reg, acr, apr",
)


def main(argv: list[str] | None = None) -> int:
    """The exit status."""
    words = _parser().parse_args(argv)
    match words.command:
        case "run":
            from udpproxy.instance import start
            from udpproxy.instance.options import Mode
            from udpproxy.proxy.product import PROXY

            return start.run(
                PROXY,
                words.file,
                mode=Mode(words.mode),
                level=words.level,
                runtime_dir=words.runtime_dir,
                session_bus=words.session_bus,
            )
        case "check":
            return max(offline.check(file, resolve=words.resolve) for file in words.files)
        case "explain":
            return offline.explain(words.file, client=words.client, to=words.to, at=words.at)
        case "show":
            return offline.show(words.file, defaults=words.defaults)
        case "transparent":
            return offline.transparent(words.file)
        case "daemon":
            from udpproxy.cli import daemon_actions

            return daemon_actions.run(words)
        case _:
            return ctl.run(words, PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="udp-proxy", description="A UDP session proxy.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"udp-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run an instance in the foreground")
    _file(run)
    mode = run.add_mutually_exclusive_group()
    mode.add_argument(
        "--single", dest="mode", action="store_const", const="single", default="fork",
        help="one process, for debugging",
    )  # fmt: skip
    mode.add_argument(
        "--units", dest="mode", action="store_const", const="units",
        help="the children are units of systemd (for udp-proxy@.service)",
    )  # fmt: skip
    run.add_argument(
        "--session-bus", action="store_true", help="be controlled over the session bus"
    )
    run.add_argument("--level", metavar="L", type=_level, help="log level: 3 to 9 or a name")
    _runtime_dir(run)

    check = commands.add_parser("check", help="check configuration files")
    check.add_argument("files", nargs="+", **_READ)
    check.add_argument("-r", "--resolve", action="store_true", help="resolve its names, too")

    explain = commands.add_parser("explain", help="which rule decides, and why")
    explain.add_argument("file", **_READ)
    explain.add_argument(
        "--from", dest="client", metavar="A[:P]", required=True, help="the client's address"
    )
    explain.add_argument("--to", metavar="A:P", help="the address that it writes to")
    explain.add_argument("--at", metavar="TIME", help="local time, ISO 8601; default: now")

    show = commands.add_parser("show", help="print a configuration as it is understood")
    show.add_argument("file", **_READ)
    show.add_argument("--defaults", action="store_true", help="with every default")

    transparent = commands.add_parser(
        "transparent", help="print what the firewall has to do for addresses of others"
    )
    transparent.add_argument("file", **_READ)

    ctl.add_parser(commands, PROGRAM)
    daemon.add_parser(commands)
    return parser


def _level(word: str) -> str:
    """The word itself: what +1 and -1 mean depends on the file."""
    try:
        level_from(word, MOST)
    except InvalidArgument as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return word


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the instance's TOML file")


def _runtime_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime-dir", metavar="D", type=Path, help="instead of /run/udp-proxy/NAME"
    )


if __name__ == "__main__":
    sys.exit(main())
