"""Rate-distortion curves: which points count, and Bjontegaard's comparison of two curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RatePoint = tuple[float, float]  # Bytes (or any rate), and a quality in dB.


@dataclass(frozen=True)
class BdRate:
    """How many more bytes one curve takes than another at equal quality.

    Attributes:
        percent: +100 says twice the bytes, -50 half of them, in the mean over the dB that both
            curves reach; None where that cannot be said.
        overlap: lowest and highest dB that both reach, or None.
        reason: why there is no figure; empty where there is one.
    """

    percent: float | None
    overlap: tuple[float, float] | None
    reason: str = ""


def front(points: Sequence[RatePoint]) -> list[RatePoint]:
    """The points that no other beats in both rate and quality, both rising strictly.

    A method with several knobs makes a cloud of points; its curve is what the best use of its
    knobs gives. Points that are not finite, or of no rate, are left out.
    """
    left: list[RatePoint] = []
    usable = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1]) and p[0] > 0]
    for rate, quality in sorted(usable, key=lambda p: (p[0], -p[1])):
        if not left or quality > left[-1][1]:
            left.append((rate, quality))
    return left


def bd_rate(anchor: Sequence[RatePoint], test: Sequence[RatePoint]) -> BdRate:
    """Bjontegaard's delta rate (VCEG-M33, 2001) of `test` against `anchor`, over their fronts.

    Piecewise cubic Hermite interpolation of log rate over dB (JCT-VC's change, which does not
    overshoot and makes do with two points), by the package `bjontegaard`.
    """
    curves = [front(anchor), front(test)]
    for curve, whose in zip(curves, (" to compare with", ""), strict=True):
        if len(curve) < 2:
            return BdRate(None, None, f"{'no' if not curve else 'only 1'} point{whose}")
    low = max(curve[0][1] for curve in curves)
    high = min(curve[-1][1] for curve in curves)
    if low >= high:
        ours, theirs = (f"{curve[0][1]:.1f} to {curve[-1][1]:.1f} dB" for curve in curves)
        return BdRate(None, None, f"no overlap: {theirs}, compared with {ours}")
    try:
        import bjontegaard
    except ImportError:
        return BdRate(None, (low, high), "needs the package bjontegaard")
    (rates, qualities), (test_rates, test_qualities) = (
        ([p[0] for p in curve], [p[1] for p in curve]) for curve in curves
    )
    percent: Any = bjontegaard.bd_rate(
        rates, qualities, test_rates, test_qualities,
        method="pchip", require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return BdRate(float(percent), (low, high))
