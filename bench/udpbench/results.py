"""From samples to figures: which samples count, medians, ratios paired by round.

A sample counts when it succeeded and, where at least three calmer ones exist for the same peer and
point, when others used at most 12 % of the machine meanwhile.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from .sample import About, Sample

FOREIGN_LIMIT = 0.12
_ENOUGH = 3

Measure = Callable[[Sample], float]


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values))


def relay_cpu(sample: Sample) -> float:
    return sample.peer_us


def throughput(sample: Sample) -> float:
    return sample.per_second


def session_memory(sample: Sample) -> float:
    return sample.session_kib


def total_memory(sample: Sample) -> float:
    return sample.busy_kib / 1024


def loss_percent(sample: Sample) -> float:
    return 100 * sample.lost / sample.sent if sample.sent else 0.0


class Results:
    def __init__(self, about: About, samples: list[Sample]) -> None:
        self.about = about
        self.samples = samples
        # In the order of the first round, which is the order of the tables.
        self.peers = list(dict.fromkeys(s.peer for s in sorted(samples, key=lambda s: s.round)))
        self.points = list(dict.fromkeys(sample.point for sample in samples))

    def of(self, peer: str, point: str) -> list[Sample]:
        return [s for s in self.samples if s.peer == peer and s.point == point]

    def kept(self, peer: str, point: str) -> list[Sample]:
        good = [sample for sample in self.of(peer, point) if sample.good]
        calm = [sample for sample in good if sample.foreign <= FOREIGN_LIMIT]
        return calm if len(calm) >= _ENOUGH else good

    def all_kept(self) -> list[Sample]:
        return [s for peer in self.peers for point in self.points for s in self.kept(peer, point)]

    def kind(self, peer: str) -> str:
        return next((sample.kind for sample in self.samples if sample.peer == peer), "")

    def by_round(self, peer: str, point: str, measure: Measure) -> dict[int, float]:
        """A peer inside the kernel costs its senders: what they use more than with no peer."""
        kept = {sample.round: sample for sample in self.kept(peer, point)}
        if measure is not relay_cpu or self.kind(peer) == "proxy":
            return {number: measure(sample) for number, sample in kept.items()}
        if self.kind(peer) == "limit":
            return {}
        bare = {sample.round: sample for sample in self.kept("direct", point)}
        both = kept.keys() & bare.keys()
        return {number: kept[number].load_us - bare[number].load_us for number in both}

    def spread(self, peer: str, point: str, measure: Measure) -> Spread | None:
        return Spread.of(list(self.by_round(peer, point, measure).values()))

    def ratio(self, peer: str, base: str, point: str, measure: Measure) -> Spread | None:
        own = self.by_round(peer, point, measure)
        other = self.by_round(base, point, measure)
        pairs = own.keys() & other.keys()
        return Spread.of([own[number] / other[number] for number in pairs if other[number]])
