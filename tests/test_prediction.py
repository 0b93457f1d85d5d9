"""Closed-loop prediction: equal to its plain twin, and both halves of the loop agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.quant import _native, _reference, entropy

LARGEST = (1 << 24) - 1
VALUE_LIMIT = 1 << 28
BOTH = pytest.mark.parametrize("coder", [_native, _reference], ids=["native", "twin"])


def causal(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    rows = [[rng.integers(-1, i) if i else -1 for _ in range(k)] for i in range(n)]
    return np.array(rows, np.int32).reshape(n, k)


@dataclass(frozen=True)
class Loop:
    """What both halves of closed-loop prediction take."""

    scale: np.ndarray
    neighbors: np.ndarray
    side: np.ndarray
    weights: np.ndarray
    fill: np.ndarray

    @property
    def all(self) -> tuple[np.ndarray, ...]:
        return self.scale, self.neighbors, self.side, self.weights, self.fill


def loop(seed: int, n: int, c: int, k: int, magnitude: float) -> tuple[np.ndarray, Loop]:
    """Wanted values, and a predictor whose gains are tame for small magnitudes only."""
    rng = np.random.default_rng(seed)
    previous, sides = int(rng.integers(0, 5)), int(rng.integers(0, 4))
    columns = k + previous + sides + 1
    gain = (1 << 20) if magnitude > 1e6 else 5000 // columns

    def whole(most: int, *shape: int) -> np.ndarray:
        return rng.integers(-most, most + 1, shape).astype(np.int32)

    weights = whole(gain, c, columns)
    weights[:, -1] = whole(VALUE_LIMIT if magnitude > 1e6 else 1000, c)
    top = int(min(magnitude * 4, VALUE_LIMIT))
    wanted = np.rint(rng.normal(size=(n, c)) * magnitude).clip(-(2**31), 2**31 - 1)
    scale = rng.choice([1, 3, 8, 64, 1 << 24] if magnitude > 1e6 else [1, 3, 8, 64], n)
    return wanted.astype(np.int32), Loop(
        scale.astype(np.int32), causal(rng, n, k), whole(top, n, sides), weights, whole(top, c)
    )


LOOPS = [
    (0, 1, 0, 10.0), (1, 1, 0, 10.0), (1, 48, 8, 10.0), (40, 3, 4, 300.0), (63, 2, 1, 1e4),
    (30, 45, 4, 20.0), (40, 5, 8, 1e9), (40, 1, 2, 2.0**28),
]  # fmt: skip


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_prediction_equals_its_twin(case):
    wanted, p = loop(3, *case)
    for rounding, bias in ((32, 0), (1, 31), (64, 7)):
        native = _native.quantise_predicted(wanted, *p.all, rounding, bias)
        twin = _reference.quantise_predicted(wanted, *p.all, rounding, bias)
        for a, b in zip(native, twin, strict=True):
            np.testing.assert_array_equal(a, b)
        for coder in (_native, _reference):
            restored = coder.reconstruct_predicted(native[0], *p.all, bias)
            np.testing.assert_array_equal(restored, native[1])


@given(
    st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 48), st.integers(0, 8),
    st.sampled_from([1.0, 100.0, 1e5, 2.0**27, 1e12]), st.integers(1, 64), st.integers(0, 31),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_what_the_encoder_saw_is_what_the_decoder_restores(seed, n, c, k, size, rounding, bias):
    wanted, p = loop(seed, n, c, k, size)
    symbols, values = entropy.quantise_predicted(wanted, *p.all, rounding, bias)
    np.testing.assert_array_equal(entropy.reconstruct_predicted(symbols, *p.all, bias), values)
    assert abs(symbols.astype(np.int64)).max(initial=0) <= LARGEST
    assert abs(values.astype(np.int64)).max(initial=0) <= VALUE_LIMIT
    if size <= 1e5:  # Nothing is clipped: the rounding and the bias bound the error.
        most = np.maximum(rounding, 64 - rounding) * p.scale / 64 + p.scale * bias // 64
        assert (abs(values.astype(np.int64) - wanted) <= most[:, None]).all()


@BOTH
def test_rounding_by_hand(coder):
    """A step of 8; `round` is the fraction of a step, in 1/64, from which a magnitude goes up."""
    wanted = np.array([[3], [4], [5], [-4], [12], [-20]], np.int32)
    none = np.zeros((6, 0), np.int32)
    p = np.full(6, 8, np.int32), none, none, np.zeros((1, 1), np.int32), np.zeros(1, np.int32)
    for rounding, expected in ((32, [0, 1, 1, -1, 2, -3]), (33, [0, 0, 1, 0, 1, -2])):
        symbols, values = coder.quantise_predicted(wanted, *p, rounding, 0)
        assert symbols[:, 0].tolist() == expected
        assert values[:, 0].tolist() == [8 * s for s in expected]
    _, values = coder.quantise_predicted(wanted, *p, 32, 17)  # pulled back by 8 * 17 // 64 = 2
    assert values[:, 0].tolist() == [0, 6, 6, -6, 14, -22]


@BOTH
def test_prediction_by_hand(coder):
    """Half the neighbour, a quarter of the channel before, three of the side, and a constant."""
    p = (
        np.array([1, 1], np.int32),
        np.array([[-1], [0]], np.int32),
        np.array([[5], [-7]], np.int32),
        np.array([[2048, 1024, 3 * 4096, 10], [2048, 1024, 0, -1]], np.int32),
        np.array([100, -101], np.int32),
    )
    values = coder.reconstruct_predicted(np.array([[0, 0], [2, -1]], np.int32), *p, 0)
    first = [50 + 15 + 10, -51 - 1 + 19]  # -50.5 + 18.75 - 1 rounds to -33
    second = [38 - 21 + 10 + 2, -17 - 1 + 7 - 1]  # 37.5 rounds up; -16.5 + 7.25 - 1 to -10
    assert values.tolist() == [first, [second[0], -10 - 1]]
    assert second[0] == 29
