"""The plan of a run: rounds over points, at each point all peers back to back."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import sampling
from .fetched import DockerProxy, Envoy
from .ours import UdpProxy, variants
from .peers import Direct, KernelNat, Nginx, Peer
from .points import POINTS, Form
from .sample import Sample


def peers() -> list[Peer]:
    return [
        Direct(),
        KernelNat(),
        Nginx("nginx", 9201),
        Nginx("nginx-multi-accept", 9202, "multi_accept on"),
        DockerProxy(),
        Envoy(),
        UdpProxy("python", 9205, engine="python"),
        UdpProxy("native", 9206),
        *variants(),
    ]


def _orders(present: list[Peer], rounds: int) -> Iterator[list[Peer]]:
    """Another order in each round after the first, so that no peer always follows the same."""
    shuffle = random.Random(1)
    yield list(present)
    for _ in range(rounds - 1):
        yield shuffle.sample(present, len(present))


def _report(sample: Sample) -> None:
    if sample.good:
        figures = f"{sample.per_second:>10,.0f}/s  {sample.peer_us:6.2f} µs"
        figures += f"  p99 {sample.p99_us:8.1f} µs  others {sample.foreign:4.0%}"
        if sample.lost or sample.wrong:
            figures += f"  lost {sample.lost}  wrong {sample.wrong}"
    else:
        figures = sample.failure or "no answer at all"
    where = f"{sample.round}  {sample.point:<11} {sample.peer:<19}"
    print(where, figures, file=sys.stderr, flush=True)


def run(form: Form, present: list[Peer], window: float, file: Path) -> list[Sample]:
    """Every sample is in the file as soon as it is taken."""
    samples: list[Sample] = []
    began = time.monotonic()
    for number, order in enumerate(_orders(present, form.rounds), start=1):
        for point in form.points:
            for peer in order:
                if peer.points and point not in peer.points:
                    continue
                sample = sampling.take(peer, POINTS[point], number, window)
                samples.append(sample)
                _report(sample)
                with file.open("a") as output:
                    print(sample.to_json(), file=output)
        elapsed = time.monotonic() - began
        if form.budget and elapsed / number * (number + 1) > form.budget:
            break
    return samples
