"""The results as one picture: CPU time, throughput, latency and new sessions, a panel each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import results as figures
from .chart import FAINT, INK, Canvas, decades, linear
from .points import OPEN_RATE, POINTS
from .results import Measure, Results

_WIDTH, _PANEL_WIDTH, _PANEL_HEIGHT, _GAP = 1000, 420, 300, 40
_LEFT, _BETWEEN = 50, 70
_TOP, _LABEL_WIDTH = 100, 130
_LEGEND_COLUMNS = 4

_STYLES = {  # colour and dashes; what is no proxy is grey and dashed
    "direct": ("#999999", "2 4"),
    "nft-nat": ("#555555", "6 4"),
    "nginx": ("#2ca02c", ""),
    "nginx-multi-accept": ("#98cf5a", ""),
    "docker-proxy": ("#17becf", ""),
    "envoy": ("#9467bd", ""),
    "udp-proxy-python": ("#ff9f0e", ""),
    "udp-proxy-native": ("#d62728", ""),
}


@dataclass(frozen=True)
class Area:
    x: float
    y: float
    width: float = _PANEL_WIDTH
    height: float = _PANEL_HEIGHT

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def right(self) -> float:
        return self.x + self.width


Panel = Callable[[Canvas, Results, Area], None]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _style(peer: str) -> tuple[str, str]:
    return _STYLES.get(peer, (INK, ""))


def _small_points(results: Results) -> list[str]:
    return [name for name in results.points if name.endswith("/64")]


def _curves(title: str, measure: Measure) -> Panel:
    """Over the number of sessions: median as a curve, least and most as a thin line."""

    def draw(canvas: Canvas, results: Results, area: Area) -> None:
        points = _small_points(results)
        found = {
            (peer, point): spread
            for peer in results.peers
            for point in points
            if (spread := results.spread(peer, point, measure))
        }
        canvas.text(area.x, area.y - 12, title, bold=True, size=13)
        scale = linear([spread.most for spread in found.values()], area.bottom, area.y)
        for tick in scale.ticks():
            canvas.line(area.x, scale.at(tick), area.right, scale.at(tick))
            canvas.text(area.x - 6, scale.at(tick) + 4, _short(tick), anchor="end", colour=FAINT)
        step = area.width / len(points)
        places = {point: area.x + step * (at + 0.5) for at, point in enumerate(points)}
        for point, x in places.items():
            label = f"{POINTS[point].clients:,}"
            canvas.text(x, area.bottom + 18, label, anchor="middle", colour=FAINT)
        for peer in results.peers:
            colour, dashes = _style(peer)
            shown = [
                (places[point], found[peer, point]) for point in points if (peer, point) in found
            ]
            canvas.curve([(x, scale.at(s.median)) for x, s in shown], colour=colour, dashes=dashes)
            for x, spread in shown:
                canvas.line(x, scale.at(spread.least), x, scale.at(spread.most), colour=colour)
                canvas.dot(x, scale.at(spread.median), colour=colour)

    return draw


def _rows(canvas: Canvas, peers: list[str], area: Area) -> dict[str, float]:
    step = area.height / max(1, len(peers))
    places = {peer: area.y + step * (at + 0.5) for at, peer in enumerate(peers)}
    for peer, y in places.items():
        canvas.text(area.x + _LABEL_WIDTH - 10, y + 4, peer, anchor="end")
    return places


def _latency(canvas: Canvas, results: Results, area: Area) -> None:
    """A row for each peer from p50 to p99; logarithmic, as a busy proxy may be 100 times slower."""
    canvas.text(
        area.x, area.y - 12, f"Latency at {OPEN_RATE:,}/s: p50 to p99, µs", bold=True, size=13
    )
    found = {}
    for peer in results.peers:
        half = results.spread(peer, "open", lambda sample: sample.p50_us)
        most = results.spread(peer, "open", lambda sample: sample.p99_us)
        if half and most:
            found[peer] = (max(half.median, 1.0), max(most.median, 1.0))
    values = [value for pair in found.values() for value in pair] or [1.0]
    scale = decades(values, area.x + _LABEL_WIDTH, area.right)
    for tick in scale.ticks():
        canvas.line(scale.at(tick), area.y, scale.at(tick), area.bottom)
        canvas.text(scale.at(tick), area.bottom + 18, _short(tick), anchor="middle", colour=FAINT)
    for peer, y in _rows(canvas, list(found), area).items():
        colour, _ = _style(peer)
        left, right = (scale.at(value) for value in found[peer])
        canvas.line(left, y, right, y, colour=colour, width=3)
        canvas.dot(left, y, colour=colour, filled=False)
        canvas.dot(right, y, colour=colour)


def _new_sessions(canvas: Canvas, results: Results, area: Area) -> None:
    canvas.text(area.x, area.y - 12, "New sessions per second", bold=True, size=13)
    found = {
        peer: spread
        for peer in results.peers
        if (spread := results.spread(peer, "churn", figures.throughput))
    }
    most = [spread.most for spread in found.values()]
    scale = linear(most, area.x + _LABEL_WIDTH, area.right)
    for tick in scale.ticks():
        canvas.line(scale.at(tick), area.y, scale.at(tick), area.bottom)
        canvas.text(scale.at(tick), area.bottom + 18, _short(tick), anchor="middle", colour=FAINT)
    for peer, y in _rows(canvas, list(found), area).items():
        spread, (colour, _) = found[peer], _style(peer)
        canvas.bar(scale.start, y - 8, scale.at(spread.median) - scale.start, 16, colour=colour)
        canvas.line(scale.at(spread.least), y, scale.at(spread.most), y, colour=INK)


def _legend(canvas: Canvas, peers: list[str]) -> None:
    for at, peer in enumerate(peers):
        x = _GAP + at % _LEGEND_COLUMNS * (_WIDTH - 2 * _GAP) / _LEGEND_COLUMNS
        y = 20 + at // _LEGEND_COLUMNS * 20
        colour, dashes = _style(peer)
        canvas.curve([(x, y), (x + 26, y)], colour=colour, dashes=dashes)
        canvas.dot(x + 13, y, colour=colour)
        canvas.text(x + 34, y + 4, peer)


def plot(results: Results) -> str:
    panels: list[Panel] = []
    if _small_points(results):
        panels += [
            _curves("CPU µs per datagram, by sessions (64 B)", figures.relay_cpu),
            _curves("Round trips per second, by sessions (64 B)", figures.throughput),
        ]
    if "open" in results.points:
        panels.append(_latency)
    if "churn" in results.points:
        panels.append(_new_sessions)
    rows = (len(panels) + 1) // 2
    height = _TOP + rows * (_PANEL_HEIGHT + 2 * _GAP)
    canvas = Canvas(_WIDTH, height, "udp-proxy beside other UDP proxies")
    _legend(canvas, results.peers)
    for at, draw in enumerate(panels):
        x = _LEFT + at % 2 * (_PANEL_WIDTH + _BETWEEN)
        draw(canvas, results, Area(x, _TOP + at // 2 * (_PANEL_HEIGHT + 2 * _GAP)))
    return canvas.finished()
