"""Rate-distortion curves as SVG, written by hand: the same bytes every time."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 320  # of one panel
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 46
COLORS = ("#8a8a8a", "#0b6e99", "#c2410c", "#4d7c0f")
TICKS = 5


@dataclass(frozen=True)
class Curve:
    """A label and its points (x, y), x rising."""

    label: str
    points: tuple[tuple[float, float], ...]


Panel = tuple[str, list[Curve], float | None]  # title, curves, a level to compare with


def draw(panels: list[Panel], x_label: str, y_label: str) -> str:
    """An SVG document of panels side by side; x is logarithmic."""
    width = WIDTH * max(1, len(panels))
    body = [_panel(p, WIDTH * i, x_label, y_label) for i, p in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'width="{width}" height="{HEIGHT}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _panel(panel: Panel, at: int, x_label: str, y_label: str) -> str:
    title, curves, level = panel
    points = [p for c in curves for p in c.points]
    if not points:
        return f'<text x="{at + LEFT}" y="{TOP}">{title}: nothing measured</text>'
    xs = [math.log(p[0]) for p in points]
    ys = [p[1] for p in points] + ([] if level is None else [level])
    low, high = _spread(min(xs), max(xs)), _spread(min(ys), max(ys))
    frame = _Frame(at, low, high)
    parts = [f'<text x="{at + LEFT}" y="20" font-size="13" font-weight="bold">{title}</text>']
    parts += _axes(frame, sorted({p[0] for p in points}), x_label, y_label)
    if level is not None:
        y = frame.y(level)
        parts.append(
            f'<line x1="{at + LEFT}" x2="{at + WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="#222222" stroke-dasharray="5 4"/>'
            f'<text x="{at + LEFT + 6}" y="{y - 5:.1f}">uncompressed, {level:.2f} dB</text>'
        )
    for number, (curve, color) in enumerate(zip(curves, COLORS, strict=False)):
        parts += _curve(frame, curve, color, HEIGHT - BOTTOM - 14 * (len(curves) - number))
    return "\n".join(parts)


@dataclass(frozen=True)
class _Frame:
    """Where log x and y fall in a panel that begins at `at`."""

    at: int
    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        share = (math.log(value) - self.across[0]) / (self.across[1] - self.across[0])
        return self.at + LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.up[0]) / (self.up[1] - self.up[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _spread(low: float, high: float) -> tuple[float, float]:
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


def _axes(frame: _Frame, sizes: list[float], x_label: str, y_label: str) -> list[str]:
    left, right, floor = frame.at + LEFT, frame.at + WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<rect x="{left}" y="{TOP}" width="{right - left}" height="{floor - TOP}" fill="none" '
        'stroke="#999999"/>',
        f'<text x="{(left + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x_label}</text>',
        f'<text transform="translate({frame.at + 14} {(TOP + floor) / 2}) rotate(-90)" '
        f'text-anchor="middle">{y_label}</text>',
    ]
    last = -math.inf
    for size in sizes:  # The sizes measured, as far as their labels do not touch.
        if frame.x(size) - last > 34:
            last = frame.x(size)
            parts.append(
                f'<text x="{last:.1f}" y="{floor + 15}" text-anchor="middle">{size:.0f}</text>'
            )
    step = _round_step((frame.up[1] - frame.up[0]) / TICKS)
    tick = math.ceil(frame.up[0] / step) * step
    while tick <= frame.up[1]:
        y = frame.y(tick)
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eeeeee"/>'
            f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        )
        tick += step
    return parts


def _round_step(rough: float) -> float:
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * f for f in (1, 2, 5, 10) if unit * f >= rough)


def _curve(frame: _Frame, curve: Curve, color: str, legend: float) -> list[str]:
    if not curve.points:
        return []
    at = [(frame.x(x), frame.y(y)) for x, y in curve.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
    right = frame.at + WIDTH - RIGHT - 150
    return [
        f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>', *dots,
        f'<rect x="{right}" y="{legend - 8:.1f}" width="14" height="3" fill="{color}"/>'
        f'<text x="{right + 20}" y="{legend - 3:.1f}">{curve.label}</text>',
    ]  # fmt: skip
