"""Canonical frames: the same ellipsoid from three angles and sorted scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians.frames import (
    LEAST_LOG,
    from_angles,
    is_needle,
    logit_of_log,
    sort_axes,
    to_angles,
)

HALF = 0.7071067811865476


def rotations(quats: np.ndarray) -> np.ndarray:
    """[N, 3, 3] matrices whose columns are the turned axes, written as q v q* per axis."""
    w, v = quats[:, :1], quats[:, 1:]
    columns = []
    for axis in np.eye(3):
        cross = 2 * np.cross(v, axis)
        columns.append(axis + w * cross + np.cross(v, cross))
    return np.stack(columns, axis=2)


def covariances(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    turned = rotations(quats) * np.exp(scales)[:, None, :]
    return turned @ turned.transpose(0, 2, 1)


def through(quats: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quats and scales after coding without quantisation."""
    axes, ordered = sort_axes(quats, scales)
    needle = is_needle(ordered)
    again = from_angles(*to_angles(axes, needle))
    return again, np.where(needle[:, None], ordered[:, [1, 2, 0]], ordered)


def check(quats: np.ndarray, scales: np.ndarray) -> None:
    again, turned = through(quats, scales)
    np.testing.assert_allclose((again**2).sum(1), 1.0, atol=1e-14)
    size = np.exp(2 * scales.max(1))[:, None, None]
    before, after = covariances(quats, scales) / size, covariances(again, turned) / size
    np.testing.assert_allclose(after, before, atol=1e-13)


def unit(rows: list[list[float]]) -> np.ndarray:
    x = np.array(rows, np.float64)
    return x / np.sqrt((x * x).sum(1, keepdims=True))


SHAPES = {
    "ball": (-2.0, -2.0, -2.0),
    "disc": (0.5, 0.5, -9.0),
    "needle": (1.0, -9.0, -9.0),
    "long disc": (1.0, 0.9, -20.0),
    "flat needle": (8.0, -1.0, -1.1),
    "between": (2.0, 0.0, -2.0),
    "tie of the last": (0.0, -1.0, -1.0),
    "tie of the first": (0.0, 0.0, -1.0),
}


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_covariance_is_kept(shape, order):
    rng = np.random.default_rng(1)
    quats = unit(rng.normal(size=(300, 4)).tolist())
    check(quats, np.tile(np.array(shape)[list(order)], (300, 1)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_covariance_is_kept_along_the_axes_and_on_the_edge_of_the_hemisphere(shape):
    turns = [
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0],
        [1, 1, 0, 0], [1, -1, 0, 0], [1, 0, 1, 0], [1, 0, -1, 0], [1, 0, 0, 1], [1, 0, 0, -1],
        [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, -1, 1, -1],
        [1, 1 + 1e-16, 0, 0], [1, 1 - 3e-16, 0, 0], [1, 1e-9, 1, 0], [1, 1, 3e-8, 1],
    ]  # fmt: skip
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        check(unit(turns), np.tile(np.array(shape)[list(order)], (len(turns), 1)))


component = st.floats(-1, 1, allow_subnormal=False)


@given(
    st.lists(st.tuples(*[component] * 4), min_size=1, max_size=8),
    st.lists(st.tuples(*[st.floats(-12, 12)] * 3), min_size=8, max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_covariance_is_kept_whatever_the_numbers(quats, scales):
    lengths = [sum(v * v for v in q) for q in quats]
    kept = [list(q) for q, length in zip(quats, lengths, strict=True) if length > 1e-6]
    if kept:
        check(unit(kept), np.array(scales[: len(kept)]))


def test_axes_are_sorted_and_stay_with_their_scales():
    rng = np.random.default_rng(2)
    quats, scales = unit(rng.normal(size=(50, 4)).tolist()), rng.normal(size=(50, 3))
    axes, ordered = sort_axes(quats, scales)
    assert (np.diff(ordered, axis=1) <= 0).all()
    columns = rotations(quats).transpose(0, 2, 1)
    for i in range(50):
        for axis, scale in zip(axes[i], ordered[i], strict=True):
            np.testing.assert_allclose(
                axis, columns[i, scales[i].tolist().index(scale)], atol=1e-15
            )


def test_angles_stay_in_their_ranges():
    rng = np.random.default_rng(3)
    quats, scales = unit(rng.normal(size=(2000, 4)).tolist()), rng.normal(size=(2000, 3))
    axes, ordered = sort_axes(quats, scales)
    square, roll = to_angles(axes, is_needle(ordered))
    assert (abs(square) <= 1).all()
    assert ((roll >= 0) & (roll <= np.pi)).all()
    assert square.std() > 0.4  # The square is filled, not a part of it.
    assert abs(np.histogram(roll, 4, (0, np.pi))[0] - 500).max() < 90


def test_one_ellipsoid_has_one_description():
    """Signs of the quaternion, of its axes and their order do not matter."""
    rng = np.random.default_rng(4)
    quats, scales = unit(rng.normal(size=(100, 4)).tolist()), rng.normal(size=(100, 3))
    w, x, y, z = quats.T
    about_x = np.stack([-x, w, z, -y], 1)  # q i: half a turn about the Gaussian's own x axis
    expected, turned = through(quats, scales)
    for same in (-quats, about_x):
        again, others = through(same, scales)
        np.testing.assert_allclose(
            covariances(again, others), covariances(expected, turned), rtol=1e-9, atol=1e-12
        )
        agree = abs((again * expected).sum(1))
        np.testing.assert_allclose(agree, 1.0, atol=1e-12)


def test_needles_and_discs():
    shapes = np.array([[2, 0, -1], [2, 1, -1], [1, 0, -1], [0, 0, 0]], np.float64)
    assert is_needle(shapes).tolist() == [True, False, False, False]
    assert is_needle(shapes.astype(np.int32)).tolist() == [True, False, False, False]


def test_the_square_keeps_distances():
    """A step on the square turns the primary axis by 0.4 to 2.13 times as many radians."""
    rng = np.random.default_rng(5)
    square, step = rng.uniform(-0.99, 0.99, (4000, 2)), rng.normal(size=(4000, 2)) * 1e-6
    here, there = (
        rotations(from_angles(s, np.zeros(4000)))[:, :, 2] for s in (square, square + step)
    )
    turned = np.sqrt(((here - there) ** 2).sum(1)) / np.sqrt((step * step).sum(1))
    assert 0.4 < turned.min() < turned.max() < 2.13


def test_the_roll_turns_about_the_primary_axis():
    square, roll = np.full((9, 2), (0.3, -0.2)), np.linspace(0, np.pi, 9)
    frames = rotations(from_angles(square, roll))
    np.testing.assert_allclose(frames[:, :, 2], np.tile(frames[0, :, 2], (9, 1)), atol=1e-15)
    np.testing.assert_allclose((frames[:, :, 0] * frames[0, :, 0]).sum(1), np.cos(roll), atol=1e-14)


def test_values_beyond_the_square_are_clipped():
    far = from_angles(np.array([[9.0, -3.0]]), np.array([1.0]))
    edge = from_angles(np.array([[1.0, -1.0]]), np.array([1.0]))
    assert far.tolist() == edge.tolist()


def test_golden_bits():
    """Part of the format: these bits may not change."""
    square = np.array([[0.0, 0.0], [0.25, -0.5], [-1.0, 1.0], [0.1, 0.7]])
    found = from_angles(square, np.array([0.0, 1.0, 3.0, 2.0]))
    assert found.astype("<f8").tobytes().hex(" ", 8) == (
        "000000000000f03f 0000000000000000 0000000000000000 0000000000000000 "
        "3322a098bc86ea3f f20aa0aa51add4bf 1a98f7ca38cdad3f 194ab4bd97fbdc3f "
        "2bd7a9e90e9ca93f 2bd7a9e90e9ca93f a248a1b01b92e6bf a248a1b01b92e63f "
        "c6b4822c4817de3f f6d72e320d73df3f 5c3f3b711153a2bf 5489d04c936ee73f"
    )


# Opacities


@given(st.floats(-30, 6.99))
@settings(max_examples=200, deadline=None)
def test_logits_come_back_from_ln_alpha(logit):
    log_alpha = -np.log1p(np.exp(-logit))
    found = float(logit_of_log(np.array([log_alpha]))[0])
    assert abs(found - logit) <= 1e-11 * max(1.0, abs(logit))


@given(st.lists(st.floats(-800, 3), min_size=2, max_size=9))
def test_logits_rise_with_ln_alpha(values):
    x = np.array(sorted(values))
    found = logit_of_log(x)
    assert np.isfinite(found).all()
    assert (np.diff(found) >= -1e-11).all()
    assert found.tolist() == [float(logit_of_log(np.array([v]))[0]) for v in x]


def test_logits_end_at_seven():
    """Rounding may say that alpha is 1 or more: no model holds that."""
    most = float(logit_of_log(np.array([-LEAST_LOG]))[0])
    assert abs(most - 7) < 1e-3
    x = np.array([-LEAST_LOG * 0.99, -1e-9, 0.0, 0.5, 1e9, np.inf])
    assert logit_of_log(x).tolist() == [most] * 6
    assert float(logit_of_log(np.array([-LEAST_LOG * 1.01]))[0]) < most
    assert np.isfinite(logit_of_log(np.array([-1e9, -np.inf]))).all()


def test_logit_bits():
    """Part of the format: these bits may not change."""
    x = np.array([-20.0, -3.3, -0.6931471805599453, -0.01, 0.0])
    found = logit_of_log(x).astype("<f8").tobytes().hex(" ", 8)
    assert found == (
        "bd25f7ffffff33c0 e0eaf35d6f190ac0 0000000000000080 16afc4eb91661240 31d2334086001c40"
    )
