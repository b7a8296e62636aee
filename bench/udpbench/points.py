"""What is measured: a point is one kind of load, a form is a set of points and rounds."""

from __future__ import annotations

from dataclasses import dataclass

OPEN_RATE = 20_000
CHURN_SESSIONS = 8_000


@dataclass(frozen=True)
class Point:
    name: str
    mode: str  # closed, open, churn: the load generator's modes
    clients: int
    size: int
    inflight: int
    burst: int = 1

    @property
    def title(self) -> str:
        if self.mode == "open":
            return f"{OPEN_RATE:,}/s over {self.clients} sessions, {self.size} B"
        if self.mode == "churn":
            return f"{CHURN_SESSIONS:,} new sessions, {self.size} B"
        burst = f", bursts of {self.burst}" if self.burst > 1 else ""
        return f"{self.clients:,} x {self.size} B{burst}"

    def arguments(self, seconds: float) -> list[str]:
        words = [self.mode, "--clients", self.clients, "--size", self.size]
        words += ["--inflight", self.inflight, "--burst", self.burst, "--seconds", seconds]
        words += ["--rate", OPEN_RATE, "--count", CHURN_SESSIONS, "--sync"]
        return [str(word) for word in words]


@dataclass(frozen=True)
class Form:
    name: str
    points: tuple[str, ...]
    rounds: int
    budget: float | None  # seconds; no further round is begun that would not fit
    variants: bool = False  # ours with parts switched off, too


# 256 small datagrams or 64 large ones fill a default receive buffer; more would measure losses.
POINTS = {
    point.name: point
    for point in (
        *(Point(f"{n}/64", "closed", n, 64, 256) for n in (1, 100, 1_000, 10_000)),
        *(Point(f"{n}/1200", "closed", n, 1200, 64) for n in (1, 100, 1_000, 10_000)),
        Point("100/1200/b8", "closed", 100, 1200, 64, burst=8),
        Point("open", "open", 100, 64, 64),
        Point("churn", "churn", 1, 64, 64),
    )
}

SHORT = Form(
    "short",
    ("1/64", "100/64", "1000/64", "10000/64", "1000/1200", "open", "churn"),
    rounds=5,
    budget=300,
)
FULL = Form("full", tuple(POINTS), rounds=5, budget=None, variants=True)
