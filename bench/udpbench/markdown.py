"""The results as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from . import results as figures
from .points import POINTS
from .results import FOREIGN_LIMIT, Measure, Results, Spread

STOCK, TUNED = "nginx", "nginx-multi-accept"
_MEMORY_POINTS = ("10000/64", "1000/64")

Cell = Callable[[str, str], str]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _range(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    least, most = _number(spread.least), _number(spread.most)
    middle = _number(spread.median)
    return middle if least == most else f"{middle} ({least}-{most})"


def _median(spread: Spread | None) -> str:
    return _number(spread.median) if spread else "-"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)] + [""]


class Report:
    def __init__(self, results: Results) -> None:
        self._results = results
        self._closed = [name for name in results.points if POINTS[name].mode == "closed"]
        self._loaded = [name for name in results.points if POINTS[name].mode != "churn"]

    def text(self, plot: str) -> str:
        lines = ["# Benchmark results", ""]
        lines += self._about()
        lines += [f"![CPU time, throughput, latency and new sessions]({plot})", ""]
        lines += self._summary()
        lines += self._grids()
        lines += self._open() + self._churn() + self._memory()
        lines += self._saturation() + self._faults() + self._quality()
        return "\n".join(lines).rstrip() + "\n"

    def _about(self) -> list[str]:
        about = self._results.about
        rounds = max((sample.round for sample in self._results.samples), default=0)
        lines = [f"* {name}: {value}" for name, value in about.machine.items()]
        lines += [
            f"* form: {about.form}, {rounds} of {about.rounds} rounds, {about.window:g} s for each "
            "closed and open sample; how it is measured and how to read it: [README.md](README.md)",
            "",
        ]
        lines += _table(["peer", "version"], [[k, v] for k, v in about.versions.items()])
        if about.left_out:
            lines += ["Left out:", ""]
            lines += [f"* {name}: {reason}" for name, reason in about.left_out.items()] + [""]
        return lines

    def _grid(self, title: str, points: list[str], cell: Cell, note: str = "") -> list[str]:
        peers = self._results.peers
        rows = [[peer, *(cell(peer, point) for point in points)] for peer in peers]
        rows = [row for row in rows if set(row[1:]) != {"-"}]
        if not rows or not points:
            return []
        head = ["peer", *(POINTS[point].title for point in points)]
        return [f"## {title}", "", *([note, ""] if note else []), *_table(head, rows)]

    def _spread(self, measure: Measure) -> Cell:
        return lambda peer, point: _range(self._results.spread(peer, point, measure))

    def _ratio(self, base: str, measure: Measure) -> Cell:
        def cell(peer: str, point: str) -> str:
            return "-" if peer == base else _range(self._results.ratio(peer, base, point, measure))

        return cell

    def _summary(self) -> list[str]:
        small = [name for name in self._closed if name.endswith("/64")]
        sessions = " / ".join(f"{POINTS[name].clients:,}" for name in small)
        head = ["peer", f"CPU µs per datagram, {sessions} sessions of 64 B"]
        head += [f"ratio to {STOCK}", "round trips/s (thousands)", "p50 / p99 µs at 20,000/s"]
        head += ["new sessions/s", "memory KiB per session", "lost / wrong"]
        rows = [self._summary_row(peer, small) for peer in self._results.peers]
        note = "Medians of the rounds; ratios are medians of the ratios within each round."
        return ["## Summary", "", note, "", *_table(head, rows)]

    def _summary_row(self, peer: str, small: list[str]) -> list[str]:
        found = self._results

        def along(value: Callable[[str], Spread | None], scale: float = 1) -> str:
            spreads = [value(point) for point in small]
            return " / ".join(_number(s.median / scale) if s else "-" for s in spreads) or "-"

        kept = [sample for point in found.points for sample in found.kept(peer, point)]
        memory = next((name for name in _MEMORY_POINTS if name in found.points), "")
        p50 = found.spread(peer, "open", lambda sample: sample.p50_us)
        p99 = found.spread(peer, "open", lambda sample: sample.p99_us)
        grown = found.spread(peer, memory, figures.session_memory)
        return [
            peer,
            along(lambda point: found.spread(peer, point, figures.relay_cpu)),
            along(lambda point: found.ratio(peer, STOCK, point, figures.relay_cpu)),
            along(lambda point: found.spread(peer, point, figures.throughput), 1000),
            f"{_median(p50)} / {_median(p99)}",
            _median(found.spread(peer, "churn", figures.throughput)),
            _median(grown) if found.kind(peer) == "proxy" else "-",
            f"{sum(s.lost for s in kept):,} / {sum(s.wrong for s in kept):,}",
        ]

    def _grids(self) -> list[str]:
        cpu, rate = figures.relay_cpu, figures.throughput
        note = "Of nft-nat: what generator and echo server use more than with direct."
        lines = self._grid("CPU µs per datagram", self._loaded, self._spread(cpu), note)
        for base in (STOCK, TUNED):
            title = f"CPU per datagram, ratio to {base}, paired by round"
            lines += self._grid(title, self._loaded, self._ratio(base, cpu))
        lines += self._grid("Round trips per second", self._closed, self._spread(rate))
        for base in (STOCK, TUNED):
            title = f"Round trips per second, ratio to {base}, paired by round"
            lines += self._grid(title, self._closed, self._ratio(base, rate))
        return lines

    def _open(self) -> list[str]:
        columns: dict[str, Measure] = {
            "p50 µs": lambda sample: sample.p50_us,
            "p99 µs": lambda sample: sample.p99_us,
            "p99.9 µs": lambda sample: sample.p999_us,
            "lost %": figures.loss_percent,
            "generator's lag, p99 µs": lambda sample: sample.lag_p99_us,
        }
        return self._single("open", columns)

    def _churn(self) -> list[str]:
        columns: dict[str, Measure] = {
            "sessions/s": figures.throughput,
            "CPU µs per session": figures.relay_cpu,
            "p50 µs": lambda sample: sample.p50_us,
            "p99 µs": lambda sample: sample.p99_us,
            "lost %": figures.loss_percent,
        }
        return self._single("churn", columns)

    def _single(self, point: str, columns: dict[str, Measure]) -> list[str]:
        """One point, several measures; the first measure's ratios to both nginx at the end."""
        found = self._results
        if point not in found.points:
            return []
        first, measure = next(iter(columns.items()))
        rows = [
            [
                peer,
                *(_range(found.spread(peer, point, column)) for column in columns.values()),
                *(_median(found.ratio(peer, base, point, measure)) for base in (STOCK, TUNED)),
            ]
            for peer in found.peers
            if any(sample.good for sample in found.of(peer, point))
        ]
        ratios = [f"{first}, ratio to {base}" for base in (STOCK, TUNED)]
        title = POINTS[point].title
        return [f"## {title[0].upper()}{title[1:]}", "", *_table(["peer", *columns, *ratios], rows)]

    def _memory(self) -> list[str]:
        points = [name for name in self._closed if POINTS[name].clients >= 1000]

        def cell(peer: str, point: str) -> str:
            if self._results.kind(peer) != "proxy":
                return "-"
            total = self._results.spread(peer, point, figures.total_memory)
            grown = self._results.spread(peer, point, figures.session_memory)
            return f"{_median(total)} ({_median(grown)})" if total else "-"

        title = "Memory: MiB in all (KiB grown per session)"
        return self._grid(title, points, cell)

    def _saturation(self) -> list[str]:
        def of_proxy(peer: str, point: str) -> str:
            if self._results.kind(peer) != "proxy":
                return "-"
            return _median(self._results.spread(peer, point, lambda sample: sample.utilisation))

        def of_load(peer: str, point: str) -> str:
            return _median(self._results.spread(peer, point, lambda sample: sample.load_use))

        note = "Clearly below 1 in a closed loop: the load's CPU was the limit, not the proxy."
        lines = self._grid("CPU use of the proxy", self._loaded, of_proxy, note)
        note = "Two workers have what it leaves of its CPU."
        return lines + self._grid(
            "CPU use of generator and echo server", self._loaded, of_load, note
        )

    def _faults(self) -> list[str]:
        failed = [s for s in self._results.samples if not s.good]
        rows = [
            [
                *(s.peer, s.point, str(s.round)),
                *(f"{n:,}" for n in (s.lost, s.late, s.corrupt, s.misdelivered, s.errors)),
            ]
            for s in self._results.samples
            if s.good and (s.lost or s.late or s.wrong or s.errors)
        ]
        lines = ["## Faults", ""]
        lines += [
            f"* {s.peer} at {s.point}, round {s.round}: {s.failure or 'no answer at all'}"
            for s in failed
        ]
        lines += [""] if failed else []
        head = ["peer", "point", "round", "lost", "late", "corrupt", "misdelivered", "errors"]
        lines += _table(head, rows) if rows else []
        return lines if failed or rows else [*lines, "None: every datagram was answered.", ""]

    def _quality(self) -> list[str]:
        good = [sample for sample in self._results.samples if sample.good]
        if not good:
            return []
        shares = sorted(sample.foreign for sample in good)
        return [
            "## Disturbance",
            "",
            f"{len(good)} samples, {len(self._results.all_kept())} kept; other programs used "
            f"{statistics.median(shares):.0%} of the machine in the median, "
            f"{shares[int(0.9 * (len(shares) - 1))]:.0%} in the worst tenth. Dropped: more than "
            f"{FOREIGN_LIMIT:.0%}, where at least three calmer samples exist.",
        ]
