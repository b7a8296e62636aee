"""The daemon itself: `python3 -m MODULE INSTANCE FILE ...`, as `daemon start` runs the product's
module, which calls main(); in a session of its own, with our signals blocked from its birth on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from udpproxy.daemon.pidfile import PidFile
from udpproxy.daemon.report import Report
from udpproxy.instance import start
from udpproxy.instance.options import Mode
from udpproxy.instance.service import Product
from udpproxy.process import signals
from udpproxy.process.verbs import signals_of


def main(argv: list[str], product: Product[Any]) -> int:
    """The exit status, as of `run`."""
    signals.block(signals_of(product.verbs))
    words = _parser(product.identity.name).parse_args(argv)
    for descriptor in (words.pid_file, words.report):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - it takes no keyword
    file, report = PidFile(words.pid_file, Path()), Report(words.report)
    # From here on whoever finds the number can signal it: nothing is lost, nothing kills us.
    file.write(b"%d\n" % os.getpid())
    status = start.run(
        product,
        words.file,
        mode=Mode.FORK,
        level=words.level,
        runtime_dir=words.runtime_dir,
        starter=report,
    )
    file.write(b"")
    report.close()
    return status


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Not for people: see {name} daemon.")
    parser.add_argument("instance")
    parser.add_argument("file", type=Path)
    parser.add_argument("--pid-file", type=int, required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--level")
    parser.add_argument("--runtime-dir", type=Path)
    return parser
