"""A noisy falling function brought into a window by few evaluations: rate control's search."""

from __future__ import annotations

import math
from collections.abc import Callable

FACTOR_RANGE = (1 / 64, 64.0)  # of the steps that a search starts from
MAX_STEP = math.log(6.0)


def solve(
    excess: Callable[[float], float], slope: float, window: tuple[float, float], trials: int
) -> float:
    """A log factor at which a noisy falling function lies in the window, or nearest above it.

    Secant steps to the middle of the window inside a shrinking bracket; at most `trials` calls.
    Nearest means: on the good side of a goal that is an end of the window (above its lower end for
    a quality, below its upper end for a size), so that a goal is kept if it can be. A window around
    the goal has no such side.
    """
    low, high = (math.log(f) for f in FACTOR_RANGE)
    aim = (window[0] + window[1]) / 2
    points: list[tuple[float, float]] = []
    x = 0.0
    for _ in range(trials):
        e = excess(x)
        points.append((x, e))
        if window[0] <= e <= window[1]:
            return x
        low, high = (x, high) if e > aim else (low, x)
        if high - low < 1e-4:
            break
        x = _next(points, low, high, aim, slope)
    good = points
    if 0 in window:
        good = [p for p in points if (p[1] <= 0 if window[1] == 0 else p[1] >= 0)]
    return min(good or points, key=lambda p: abs(p[1] - aim))[0]


def _next(
    points: list[tuple[float, float]], low: float, high: float, aim: float, slope: float
) -> float:
    """The next log factor to try: a secant step, kept inside the bracket."""
    x, e = points[-1]
    if len(points) > 1:
        # The two points nearest the goal; noise may give them a slope of the wrong sign.
        (x, e), (x0, e0) = sorted(points, key=lambda p: abs(p[1] - aim))[:2]
        if x0 != x and (e - e0) / (x - x0) < 0.2 * slope:
            slope = (e - e0) / (x - x0)
    guess = x + min(max((aim - e) / slope, -MAX_STEP), MAX_STEP)
    margin = 0.02 * (high - low)
    if {low, high} <= {p[0] for p in points} and not low < guess < high:
        return (low + high) / 2  # Noise misled the secant: it would creep along the end.
    return min(max(guess, low + margin), high - margin)
