"""exp, log, sine and cosine: accurate, and the same bits everywhere."""

from __future__ import annotations

import warnings
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.quant import _reference_exact
from fieldpress.quant.exact import exact_exp, exact_log, exact_sincos, quaternions

PI = 3.141592653589793


def sine(x: float) -> Decimal:
    """By its series, whose 40 terms reach 1e-50 at pi."""
    return series(Decimal(x), Decimal(x), 1)


def cosine(x: float) -> Decimal:
    return series(Decimal(x), Decimal(1), 0)


def series(x: Decimal, term: Decimal, power: int) -> Decimal:
    total = Decimal(0)
    for _ in range(40):
        total += term
        power += 2
        term *= -x * x / (power * (power - 1))
    return total


@given(st.floats(-700, 700))
def test_exp_is_accurate(x):
    with localcontext() as context:
        context.prec = 60
        expected = Decimal(x).exp()
        assert abs(Decimal(float(exact_exp(np.float64(x)))) - expected) <= expected * Decimal(
            "1e-15"
        )


positive = st.floats(5e-324, 1.7e308, allow_infinity=False)


@given(positive | st.floats(0.5, 2.0))
def test_log_is_accurate(x):
    with localcontext() as context:
        context.prec = 60
        expected = Decimal(x).ln()
        error = abs(Decimal(float(exact_log(np.float64(x)))) - expected)
        assert error <= Decimal("1e-15") * max(Decimal(1), abs(expected))


@given(st.lists(positive | st.floats(0.9, 1.1), min_size=2, max_size=9))
def test_log_rises_and_does_not_depend_on_place(values):
    x = np.array(sorted(values))
    found = exact_log(x)
    assert found.tolist() == [float(exact_log(np.float64(v))) for v in x]
    assert found.tolist() == exact_log(np.repeat(x, 5)[::5]).tolist()
    assert (np.diff(found) >= -1e-15 * np.maximum(1, abs(found[1:]))).all()


@given(st.floats(-600, 600))
def test_log_undoes_exp(x):
    assert abs(float(exact_log(exact_exp(np.float64(x)))) - x) <= 4e-15 * max(1.0, abs(x))


def test_log_of_what_has_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = exact_log(np.array([0.0, -0.0, -1.0, -np.inf, np.nan, 1.0, 2.0]))
    assert np.isnan(found[:5]).all()
    assert found[5] == 0.0
    assert found[6] == float.fromhex("0x1.62e42fefa39efp-1")


@given(st.floats(-PI, PI))
def test_sine_and_cosine_are_accurate(x):
    with localcontext() as context:
        context.prec = 60
        s, c = (Decimal(float(value)) for value in exact_sincos(np.float64(x)))
        assert abs(s - sine(x)) <= Decimal("2e-15")
        assert abs(c - cosine(x)) <= Decimal("2e-15")


@given(st.floats(-PI, PI))
def test_symmetries_are_exact(x):
    s, c = exact_sincos(np.array([x, -x]))
    assert s[0] == -s[1]
    assert c[0] == c[1]


def test_particular_values_are_exact():
    assert exact_exp(np.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    s, c = exact_sincos(np.zeros(2))
    assert s.tolist() == [0.0, 0.0]
    assert c.tolist() == [1.0, 1.0]


@given(st.lists(st.floats(-700, 700), max_size=9))
def test_values_do_not_depend_on_their_place(values):
    """Vector loops and their scalar ends must round alike."""
    x = np.array(values)
    alone = [float(exact_exp(np.float64(v))) for v in values]
    assert exact_exp(x).tolist() == alone
    assert exact_exp(np.repeat(x, 5)[::5]).tolist() == alone


@given(st.lists(st.floats(-700, 700), min_size=2, max_size=2))
def test_exp_does_not_fall(pair):
    low, high = exact_exp(np.array(sorted(pair)))
    assert low <= high * (1 + 1e-15)


def test_exp_is_clipped():
    x = np.array([-1e300, -701.0, -np.inf, np.inf, 701.0, 1e300])
    assert exact_exp(x).tolist() == exact_exp(np.array([-700.0] * 3 + [700.0] * 3)).tolist()
    assert np.isfinite(exact_exp(x)).all()


def test_nan_stays_and_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.array([np.nan, 0.0])
        for found in (exact_exp(x), exact_log(x + 1), exact_sincos(x)[0]):
            assert np.isnan(found[0])
            assert not np.isnan(found[1])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int32])
def test_everything_is_float64(kind):
    x = np.array([-3, -1, 0, 2], kind)
    for found in (exact_exp(x), exact_log(x + 4), *exact_sincos(x)):
        assert found.dtype == np.float64
    assert exact_exp(x).tobytes() == exact_exp(x.astype(np.float64)).tobytes()


def test_shapes_stay_and_arguments_too():
    x = np.linspace(-3, 3, 24).reshape(2, 3, 4)
    before = x.copy()
    for found in (exact_exp(x), exact_log(x), *exact_sincos(x)):
        assert found.shape == x.shape
    assert exact_exp(np.zeros((0, 3))).shape == (0, 3)
    assert np.array_equal(x, before)


def test_golden_bits():
    """Part of the format: these bits may not change."""
    x = np.array([-650.3, -7.7, -1e-9, 0.1, 1.0, 3.3, 12.34567, 699.9])
    assert exact_exp(x).astype("<f8").tobytes().hex(" ", 8) == (
        "88808e6f28284c05 5d03f5f02dad3d3f a18f76ffffffef3f d4005ab3c7aef13f "
        "6a57148b0abf0540 7b7b80e7d51c3b40 498ce42e51120c41 8f2f58d2c2c30a7f"
    )
    x = np.array([5e-324, 1e-9, 0.7071, 0.7072, 1.5, 3.3, 12.34567, 1e300])
    assert exact_log(x).astype("<f8").tobytes().hex(" ", 8) == (
        "c3716d44854387c0 b8ff2bf327b934c0 5ea242386b2ed6bf 000184171a2cd6bf "
        "4c98bfec23f3d93f 77c740724e1af33f eb5acbdb3f1b0440 b57ff84734968540"
    )
    angles = np.array([-3.1, -1.5707963267948966, -0.3, 1e-9, 0.7853981633974483, 2.0, 3.14159])
    s, c = exact_sincos(angles)
    assert s.astype("<f8").tobytes().hex(" ", 8) == (
        "021098820f4aa5bf 000000000000f0bf 33baba95cde9d2bf 95d626e80b2e113e "
        "cc3b7f669ea0e63f 47b4d1eaf618ed3f 75eaa76a8a42c63e"
    )
    assert c.astype("<f8").tobytes().hex(" ", 8) == (
        "28a65647eaf8efbf 000000000000b0bc ba092fd41d92ee3f 000000000000f03f "
        "cd3b7f669ea0e63f 0472535726a2dabf 2084ffffffffefbf"
    )


anything = st.floats(-800, 800) | st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(anything, max_size=9))
def test_functions_equal_their_twins(values):
    x = np.array(values)
    with np.errstate(all="ignore"):
        for native, twin in (
            (exact_exp(x), _reference_exact.exact_exp(x)),
            (exact_log(x), _reference_exact.exact_log(x)),
            *zip(exact_sincos(x), _reference_exact.exact_sincos(x), strict=True),
        ):
            np.testing.assert_array_equal(native, twin)
            assert (np.signbit(native) == np.signbit(twin))[~np.isnan(twin)].all()


@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 3), max_size=9))
def test_quaternions_equal_their_twin_and_have_length_one(rows):
    x = np.array(rows).reshape(-1, 3)
    native, twin = quaternions(x[:, :2], x[:, 2]), _reference_exact.quaternions(x[:, :2], x[:, 2])
    assert native.tobytes() == twin.tobytes()
    np.testing.assert_allclose((native * native).sum(1), 1, atol=1e-12)
