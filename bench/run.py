#!/usr/bin/env python3
"""Measures udp-proxy beside other UDP proxies on loopback; see README.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

from udpbench import fetched, machine, namespace, sample, sampling
from udpbench.build import BENCH, OUTPUT, compiled
from udpbench.markdown import Report
from udpbench.peers import Peer
from udpbench.points import FULL, POINTS, SHORT, Form
from udpbench.results import Results
from udpbench.rounds import peers, run
from udpbench.sample import About, Sample
from udpbench.svg import plot

SAMPLES = OUTPUT / "results.jsonl"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", help="about 5 minutes (the default)")
    form.add_argument("--full", action="store_true", help="all points; writes bench/RESULTS.md")
    parser.add_argument("--points", help="only these, with commas between (--list names them)")
    parser.add_argument("--proxies", help="only these, with commas between")
    parser.add_argument("--rounds", type=int, help="how often each point is measured")
    parser.add_argument("--window", type=float, default=0.6, help="seconds of load per sample")
    parser.add_argument("--fetch", action="store_true", help="download and unpack missing peers")
    parser.add_argument("--list", action="store_true", help="show points and peers, do nothing")
    parser.add_argument("--report", action="store_true", help="only render the last run again")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is at least 1")
    if not 0.1 <= options.window <= 60:
        parser.error("--window is 0.1 to 60 seconds")
    options.points = chosen(parser, options.points, list(POINTS))
    options.proxies = chosen(parser, options.proxies, [peer.name for peer in peers()])
    return options


def chosen(parser: argparse.ArgumentParser, words: str | None, known: list[str]) -> list[str]:
    names = words.split(",") if words else []
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return names


def form_of(options: argparse.Namespace) -> Form:
    form = FULL if options.full else SHORT
    if options.points:
        form = dataclasses.replace(form, points=tuple(options.points))
    if options.rounds:
        form = dataclasses.replace(form, rounds=options.rounds, budget=None)
    return form


def show_list() -> None:
    for point in POINTS.values():
        forms = " ".join(form.name for form in (SHORT, FULL) if point.name in form.points)
        print(f"{point.name:<12} {point.title:<36} {forms}")
    print()
    for peer in peers():
        print(f"{peer.name:<20} {peer.missing() or peer.version()}")


def publish(about: About, samples: list[Sample]) -> None:
    results = Results(about, samples)
    text = Report(results).text("results.svg")
    (OUTPUT / "results.md").write_text(text)
    (OUTPUT / "results.svg").write_text(plot(results))
    print(text)
    if about.complete:
        (BENCH / "RESULTS.md").write_text(text)
        shutil.copyfile(OUTPUT / "results.svg", BENCH / "results.svg")


def measure(options: argparse.Namespace) -> None:
    machine.prepare()
    form = form_of(options)
    wanted = [
        peer
        for peer in peers()
        if (peer.name in options.proxies if options.proxies else form.variants or not peer.points)
    ]
    present: list[Peer] = []
    left_out: dict[str, str] = {}
    for peer in wanted:
        if reason := sampling.check(peer):
            left_out[peer.name] = reason
            print(f"{peer.name} left out: {reason}", file=sys.stderr)
        else:
            present.append(peer)
    about = About(
        form=form.name,
        rounds=form.rounds,
        window=options.window,
        complete=form == FULL and not options.proxies,
        machine=machine.described(),
        versions={peer.name: peer.version() for peer in present},
        left_out=left_out,
    )
    SAMPLES.write_text(about.to_json() + "\n")
    publish(about, run(form, present, options.window, SAMPLES))


def main() -> int:
    options = parsed()
    if options.list:
        show_list()
    elif options.report:
        publish(*sample.read(SAMPLES))
    elif namespace.inside():
        measure(options)
    else:
        if options.fetch:
            fetched.fetch({peer.name for peer in peers() if peer.missing()})
        compiled("udpload")
        compiled("echo")
        return namespace.run_inside(Path(__file__).resolve(), sys.argv[1:])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except machine.Unfit as error:
        sys.exit(f"bench: {error}")
