"""Fronts of points, and BD-rates on curves whose answer is known by hand."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.scenes.rate_distortion import bd_rate, front

finite = st.floats(1.0, 1e9)
clouds = st.lists(st.tuples(finite, st.floats(0.0, 100.0)), max_size=30)
# Quality linear in log rate: every interpolation of log rate over dB is that very line.
LINE = [(1000.0 * 10 ** ((db - 30) / 20), db) for db in (30.0, 35.0, 38.0, 44.0, 50.0)]


@given(clouds)
@settings(deadline=None)
def test_a_front_is_what_nothing_beats(points):
    kept = front(points)
    assert set(kept) <= set(points)
    for a, b in itertools.pairwise(kept):
        assert a[0] < b[0]
        assert a[1] < b[1]
    for rate, quality in points:
        assert any(r <= rate and q >= quality for r, q in kept)


def test_points_that_are_no_points_are_left_out():
    assert front([(math.nan, 1), (1, math.nan), (0, 5), (-1, 5), (math.inf, 9), (2, 3)]) == [(2, 3)]


@pytest.mark.parametrize("factor", [0.25, 1.0, 1.37, 4.0])
def test_a_curve_of_so_many_times_the_bytes(factor):
    """The mean over dB of a constant difference of logs is that difference."""
    pytest.importorskip("bjontegaard")
    found = bd_rate(LINE, [(factor * rate, db) for rate, db in LINE])
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert found.overlap == (30.0, 50.0)
    assert found.reason == ""


def test_two_lines_of_different_slope_by_hand():
    """Twice the bytes at 40 dB, eight times at 50: log2 of the ratio has the mean 2, so x4."""
    pytest.importorskip("bjontegaard")
    steep = [(100.0, 20.0), (400.0, 60.0)]  # log2 rises by 1/20 a dB.
    flat = [(2 * 100 * 2**1 * 2 ** ((db - 40) * (1 / 20 + 1 / 5)), db) for db in (40.0, 45.0, 50.0)]
    found = bd_rate(steep, flat)
    assert found.percent == pytest.approx(300, rel=1e-9)
    assert found.overlap == (40.0, 50.0)


def test_only_the_front_counts_and_the_order_does_not():
    pytest.importorskip("bjontegaard")
    double = [(2 * rate, db) for rate, db in LINE]
    beaten = [(5e6, 31.0), (9e5, 29.0)]
    messy = [*reversed(double), *beaten]
    assert bd_rate(LINE, messy) == bd_rate(LINE, double)
    assert bd_rate(messy, LINE).percent == pytest.approx(-50)


def test_what_cannot_be_compared_says_why():
    low = [(100.0, 10.0), (200.0, 20.0)]
    assert bd_rate(LINE, low).percent is None
    assert bd_rate(LINE, low).reason == "no overlap: 10.0 to 20.0 dB, compared with 30.0 to 50.0 dB"
    assert bd_rate(LINE, []).reason == "no point"
    assert bd_rate(LINE, LINE[:1]).reason == "only 1 point"
    assert bd_rate([], LINE).reason == "no point to compare with"
    touching = [(1.0, 10.0), (2.0, 30.0)]  # One dB in common is no overlap.
    assert bd_rate(LINE, touching).percent is None


def test_without_the_package_the_reason_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    found = bd_rate(LINE, LINE)
    assert found.percent is None
    assert found.reason == "needs the package bjontegaard"
    assert found.overlap == (30.0, 50.0)
