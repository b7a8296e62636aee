"""Drawing in SVG by hand: a canvas of plain elements, and scales that map values to places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK, FAINT, GRID = "#222222", "#666666", "#dddddd"


class Canvas:
    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []

    def _add(self, tag: str, inner: str = "", **attributes: str | float) -> None:
        words = (
            f"{name.replace('_', '-')}={quoteattr(str(round(v, 1) if isinstance(v, float) else v))}"
            for name, v in attributes.items()
        )
        end = f">{inner}</{tag}>" if inner else "/>"
        self._parts.append(f"<{tag} {' '.join(words)}{end}")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        size: int = 12,
        colour: str = INK,
        bold: bool = False,
    ) -> None:
        weight = "bold" if bold else "normal"
        self._add("text", escape(words), x=x, y=y, text_anchor=anchor, font_size=size,
                  fill=colour, font_weight=weight)  # fmt: skip

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, colour: str = GRID, width: float = 1
    ) -> None:
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)

    def curve(self, points: list[tuple[float, float]], *, colour: str, dashes: str) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polyline", points=places, fill="none", stroke=colour, stroke_width=2,
                  stroke_dasharray=dashes)  # fmt: skip

    def dot(self, x: float, y: float, *, colour: str, filled: bool = True) -> None:
        fill = colour if filled else "white"
        self._add("circle", cx=x, cy=y, r=4, fill=fill, stroke=colour, stroke_width=2)

    def bar(self, x: float, y: float, width: float, height: float, *, colour: str) -> None:
        self._add("rect", x=x, y=y, width=max(0.0, width), height=height, fill=colour)

    def finished(self) -> str:
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" role="img">'
        )
        # A background of its own: pages that show the file may be dark.
        ground = f'<rect width="{width}" height="{height}" fill="white"/>'
        title = f"<title>{escape(self._title)}</title>"
        return "\n".join([head, title, ground, *self._parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Scale:
    """Values from low to high onto places from start to end."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = _step(self.high - self.low)
        return [self.low + step * number for number in range(int(self.high / step) + 1)]


def _step(length: float) -> float:
    """1, 2 or 5 times a power of ten, for four to eight steps."""
    power = 10.0 ** math.floor(math.log10(length / 4))
    return max(times * power for times in (1, 2, 5) if times * power <= length / 4)


def linear(values: list[float], start: float, end: float) -> Scale:
    high = max(values, default=1.0) or 1.0
    step = _step(high)
    return Scale(0, math.ceil(high / step) * step, start, end)


def decades(values: list[float], start: float, end: float) -> Scale:
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)))
    return Scale(low, high if high > low else low * 10, start, end, logarithmic=True)
