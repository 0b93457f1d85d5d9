"""Rate-distortion curves as SVG, written by hand: the same bytes every time.

The drawing stands alone on white and follows a page's own colours where it is put into one (the
custom properties of report.css).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, COLUMNS = 480, 350, 2  # Of one panel; panels a row.
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 62, 52
LEGEND, ROW, CHARACTER = 34, 24, 7.0  # Pixels: of the mark and gaps, a row, a letter of 12.5 px.
LEVEL_NAME = 152  # Pixels that "uncompressed: 30.32 dB" takes.
X_SPACE, Y_TICKS = 52, 6  # Least distance of labels; ticks aimed at.
MANTISSAS = (
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,),
)  # fmt: skip
# Told apart by colour-blind readers and on both white and near-black: 3:1 and more.
COLORS = ("#0a7f86", "#d2600a", "#3f74d1", "#b8448f", "#6b8e23", "#8a6fd1", "#7d838c", "#c23b3b")
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross")
STYLE = """
.rd { font-family: Inter, "Segoe UI", system-ui, Roboto, "DejaVu Sans", sans-serif; }
.rd text { font-size: 12px; fill: #4c525b; fill: var(--soft, #4c525b); }
.rd .title { font-size: 15px; font-weight: 600; fill: #1d1f23; fill: var(--ink, #1d1f23); }
.rd .name { font-size: 12.5px; fill: #1d1f23; fill: var(--ink, #1d1f23); }
.rd .grid { stroke: #e6e7e4; stroke: var(--line, #e6e7e4); }
.rd .frame { fill: none; stroke: #b9bdc4; stroke: var(--soft, #b9bdc4); stroke-opacity: .6; }
.rd .level { stroke: #4c525b; stroke: var(--soft, #4c525b); stroke-dasharray: 5 4; }
.rd .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.rd .first { stroke-width: 2.8; }
.rd .other { opacity: .38; }
.rd .halo { paint-order: stroke; stroke: #ffffff; stroke: var(--card, #ffffff);
  stroke-width: 4; }
.rd .mark { stroke: #ffffff; stroke: var(--card, #ffffff); stroke-width: 1; }
"""


@dataclass(frozen=True)
class Point:
    """Bytes, dB, and what a reader who points at it is told."""

    x: float
    y: float
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """A label, the points that a line joins (x rising), and others that are only shown."""

    label: str
    points: tuple[Point, ...]
    others: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what stands above it.
        curves: what it shows.
        level: a quality to compare with, drawn as a dashed line, or None.
        whole: bytes that the upper axis counts ratios from, or None for no such axis.
    """

    title: str
    curves: tuple[Curve, ...]
    level: float | None = None
    whole: float | None = None


def draw(panels: Sequence[Panel], y_label: str, x_label: str = "file size") -> str:
    """An SVG document of panels, two a row, with one legend; x is bytes, logarithmic.

    A curve has the same colour in all panels; the first label of all gets the thickest line.
    Points of no positive finite x or no finite y are left out.
    """
    panels = [_finite(panel) for panel in panels]
    labels = list(dict.fromkeys(c.label for panel in panels for c in panel.curves))
    columns = min(COLUMNS, max(1, len(panels)))
    width = WIDTH * columns
    legend, top = _legend(labels, width)
    height = top + HEIGHT * max(1, -(-len(panels) // columns))
    body = [
        f'<g transform="translate({WIDTH * (i % columns)} {top + HEIGHT * (i // columns)})">\n'
        f"{_panel(panel, labels, x_label, y_label)}\n</g>"
        for i, panel in enumerate(panels)
    ]
    return (
        f'<svg class="rd" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="Rate-distortion curves">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="{width}" height="{height}" style="fill: #ffffff; '
        'fill: var(--card, #ffffff)"/>\n' + "\n".join([*legend, *body]) + "\n</svg>\n"
    )


def size_label(size: float) -> str:
    """A number of bytes for people: "950 B", "12.5 kB", "1.2 MB" (of 10^6 bytes)."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit * 0.9995:
            return f"{size / unit:.3g} {name}"
    return f"{size:.3g} B"


def _finite(panel: Panel) -> Panel:
    def good(points: Sequence[Point]) -> tuple[Point, ...]:
        return tuple(p for p in points if 0 < p.x < math.inf and math.isfinite(p.y))

    curves = tuple(Curve(c.label, good(c.points), good(c.others)) for c in panel.curves)
    return Panel(panel.title, curves, panel.level, panel.whole)


def _legend(labels: Sequence[str], width: int) -> tuple[list[str], int]:
    """Marks and names in rows that fit the width, and the height that they take."""
    parts, x, y = [], float(LEFT), 18
    for number, label in enumerate(labels):
        room = LEGEND + 22 + CHARACTER * len(label)
        if x > LEFT and x + room > width:
            x, y = float(LEFT), y + ROW
        color = COLORS[number % len(COLORS)]
        first = " first" if number == 0 else ""
        parts.append(
            f'<path class="line{first}" d="M{x:.0f} {y}h26" stroke="{color}"/>'
            f"{_mark(number, x + 13, y)}"
            f'<text class="name" x="{x + LEGEND:.0f}" y="{y + 4}">{escape(label)}</text>'
        )
        x += room
    return parts, (y + 8 if labels else 0)


@dataclass(frozen=True)
class _Frame:
    """Where log x and y fall in a panel."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        share = (math.log(value) - self.across[0]) / (self.across[1] - self.across[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.up[0]) / (self.up[1] - self.up[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _panel(panel: Panel, labels: Sequence[str], x_label: str, y_label: str) -> str:
    title = f'<text class="title" x="{LEFT}" y="26">{escape(panel.title)}</text>'
    points = [p for c in panel.curves for p in (*c.points, *c.others)]
    if not points:
        return f'{title}\n<text x="{LEFT}" y="52">nothing measured</text>'
    xs = [math.log(p.x) for p in points]
    ys = [p.y for p in points] + ([] if panel.level is None else [panel.level])
    frame = _Frame(_spread(min(xs), max(xs), 0.1), _spread(min(ys), max(ys), 0.5))
    parts = [title, *_grid(frame, x_label, y_label)]
    if panel.whole:
        parts += _ratios(frame, panel.whole)
    for curve in reversed(panel.curves):  # The first lies on top.
        parts += _curve(frame, curve, labels.index(curve.label))
    if panel.level is not None:
        parts.append(_level(frame, panel.level, panel.curves))
    return "\n".join(parts)


def _spread(low: float, high: float, least: float) -> tuple[float, float]:
    margin = max(0.07 * (high - low), least)
    return low - margin, high + margin


def _grid(frame: _Frame, x_label: str, y_label: str) -> list[str]:
    left, right, floor = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for size in _log_ticks(*frame.across):
        x = frame.x(size)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>'
            f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{size_label(size)}</text>'
        )
    for value in _ticks(*frame.up):
        y = frame.y(value)
        parts.append(
            f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    middle = (left + right) / 2
    return [
        *parts,
        f'<rect class="frame" x="{left}" y="{TOP}" width="{right - left}" height="{floor - TOP}"/>',
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {(TOP + floor) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>',
    ]


def _ratios(frame: _Frame, whole: float) -> list[str]:
    """The upper axis: how many times smaller than `whole` bytes."""
    low, high = (math.log(whole) - end for end in reversed(frame.across))
    parts = []
    for ratio in _log_ticks(low, high):
        x = frame.x(whole / ratio)
        parts.append(
            f'<path class="frame" d="M{x:.1f} {TOP}v-4"/>'
            f'<text x="{x:.1f}" y="{TOP - 9}" text-anchor="middle">{ratio:g}\u00d7</text>'
        )
    return parts


def _level(frame: _Frame, level: float, curves: Sequence[Curve]) -> str:
    """A dashed line, and its name at whichever of its ends the curves leave most room."""
    y = frame.y(level)
    trail = [at for curve in curves for at in _trail(frame, curve)]

    def room(place: tuple[float, float]) -> float:
        x, middle = place[0] + LEVEL_NAME / 2, place[1] - 4
        aside = (math.hypot(max(abs(a - x) - LEVEL_NAME / 2, 0), b - middle) for a, b in trail)
        return min(aside, default=0.0)

    ends = (LEFT + 8.0, WIDTH - RIGHT - 8.0 - LEVEL_NAME)
    x, at = max(((x, y + down) for down in (-7, 17) for x in ends), key=room)
    return (
        f'<path class="level" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="halo" x="{x:.0f}" y="{at:.1f}">uncompressed: {level:.2f} dB</text>'
    )


def _trail(frame: _Frame, curve: Curve) -> list[tuple[float, float]]:
    """Places that a curve passes, ten a segment."""
    at = [(frame.x(p.x), frame.y(p.y)) for p in curve.points]
    found = list(at)
    for (x0, y0), (x1, y1) in itertools.pairwise(at):
        found += [(x0 + (x1 - x0) * i / 10, y0 + (y1 - y0) * i / 10) for i in range(1, 10)]
    return found


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between e^low and e^high, as many as have room for their labels."""
    decades = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    room = X_SPACE / (WIDTH - LEFT - RIGHT) * (high - low)
    found: list[float] = []
    for mantissas in MANTISSAS:
        values = [m * 10.0**d for d in decades for m in mantissas]
        found = [v for v in values if low <= math.log(v) <= high]
        places = [math.log(v) for v in found]
        if all(b - a >= room for a, b in itertools.pairwise(places)):
            return found
    return found[:: max(1, math.ceil(room / math.log(10)))]


def _ticks(low: float, high: float) -> list[float]:
    """Multiples of a round step between low and high."""
    rough = (high - low) / Y_TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * f for f in (1, 2, 5, 10) if unit * f >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.6g}") for number in range(first, last + 1)]


def _curve(frame: _Frame, curve: Curve, number: int) -> list[str]:
    color = COLORS[number % len(COLORS)]
    parts = []
    if len(curve.points) > 1:
        at = "L".join(f"{frame.x(p.x):.1f} {frame.y(p.y):.1f}" for p in curve.points)
        first = " first" if number == 0 else ""
        parts.append(f'<path class="line{first}" d="M{at}" stroke="{color}"/>')
    for points, group in ((curve.others, "other"), (curve.points, "")):
        for p in points:
            said = ", ".join(filter(None, [curve.label, p.note]))
            told = f"{said}: {size_label(p.x)}, {p.y:.2f} dB"
            mark = _mark(number, frame.x(p.x), frame.y(p.y), 3.2 if group else 4.4)
            shown = f' class="{group}"' if group else ""
            parts.append(f"<g{shown}><title>{escape(told)}</title>{mark}</g>")
    return parts


def _mark(number: int, x: float, y: float, size: float = 4.4) -> str:
    """The sign of a curve: a colour and a shape of its own, for print and for any eyes."""
    s, w = size, size * 1.15
    paths = {
        "circle": f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        "square": f"M{x - s * 0.9:.1f} {y - s * 0.9:.1f}h{1.8 * s:.1f}v{1.8 * s:.1f}"
        f"h{-1.8 * s:.1f}z",
        "triangle": f"M{x:.1f} {y - w:.1f}l{w:.1f} {1.8 * w:.1f}h{-2 * w:.1f}z",
        "diamond": f"M{x:.1f} {y - w:.1f}l{w:.1f} {w:.1f}l{-w:.1f} {w:.1f}l{-w:.1f} {-w:.1f}z",
        "down": f"M{x:.1f} {y + w:.1f}l{w:.1f} {-1.8 * w:.1f}h{-2 * w:.1f}z",
        "cross": f"M{x - s:.1f} {y - s / 3:.1f}h{s * 2 / 3:.1f}v{-s * 2 / 3:.1f}h{s * 2 / 3:.1f}"
        f"v{s * 2 / 3:.1f}h{s * 2 / 3:.1f}v{s * 2 / 3:.1f}h{-s * 2 / 3:.1f}v{s * 2 / 3:.1f}"
        f"h{-s * 2 / 3:.1f}v{-s * 2 / 3:.1f}h{-s * 2 / 3:.1f}z",
    }
    path = paths[SHAPES[number % len(SHAPES)]]
    return f'<path class="mark" d="{path}" fill="{COLORS[number % len(COLORS)]}"/>'
