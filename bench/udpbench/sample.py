"""One sample: a peer at a point in a round. A sample that failed has a reason and no figures."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    peer: str
    kind: str
    point: str
    round: int
    failure: str = ""
    primed: int = 0
    sent: int = 0
    received: int = 0
    lost: int = 0
    late: int = 0
    corrupt: int = 0
    misdelivered: int = 0
    errors: int = 0
    seconds: float = 0.0  # of the load, to the last answer
    per_second: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    p999_us: float = 0.0
    max_us: float = 0.0
    lag_p99_us: float = 0.0  # open loop: how late the generator was itself
    elapsed: float = 0.0  # between the two readings of CPU time
    peer_cpu: float = 0.0  # seconds, the whole process tree
    load_cpu: float = 0.0  # generator and echo server
    foreign: float = 0.0  # share of the machine that others used meanwhile
    idle_kib: int = 0
    busy_kib: int = 0

    @property
    def good(self) -> bool:
        return not self.failure and self.received > 0

    @property
    def wrong(self) -> int:
        return self.corrupt + self.misdelivered

    @property
    def peer_us(self) -> float:
        """CPU time per datagram relayed (a round trip is two), in churn per new session."""
        return self.peer_cpu * 1e6 / self.received / (1 if self.point == "churn" else 2)

    @property
    def load_us(self) -> float:
        return self.load_cpu * 1e6 / self.received / (1 if self.point == "churn" else 2)

    @property
    def utilisation(self) -> float:
        return self.peer_cpu / self.elapsed if self.elapsed else 0.0

    @property
    def load_use(self) -> float:
        return self.load_cpu / self.elapsed if self.elapsed else 0.0

    @property
    def session_kib(self) -> float:
        return (self.busy_kib - self.idle_kib) / self.primed if self.primed else 0.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class About:
    """The first line of a results file: what the samples below were taken on and with."""

    form: str
    rounds: int
    window: float
    complete: bool  # a whole form, not a choice of points or peers
    machine: dict[str, str]
    versions: dict[str, str]
    left_out: dict[str, str]

    def to_json(self) -> str:
        return json.dumps({"about": dataclasses.asdict(self)})


def read(path: Path) -> tuple[About, list[Sample]]:
    first, *lines = path.read_text().splitlines()
    about = About(**json.loads(first)["about"])
    return about, [Sample(**json.loads(line)) for line in lines]
