"""Transforms: inverses, energy compaction, and decoding to the last bit."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.quant.entropy import apply_basis
from fieldpress.quant.transforms import (
    contract,
    expand,
    fit_klt,
    pack_basis,
    rgb_to_ycocg,
    to_coefficients,
    unpack_basis,
    ycocg_to_rgb,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def correlated(count: int, dim: int, seed: int = 0) -> np.ndarray:
    mix = np.linalg.qr(normal(dim, dim, seed=seed + 1))[0]
    return normal(count, dim, seed=seed) * np.logspace(1, -2, dim) @ mix


# Colour


def test_ycocg_matches_its_definition():
    matrix = np.array([[0.25, 0.5, 0.25], [0.5, 0, -0.5], [-0.25, 0.5, -0.25]])
    rgb = normal(50, 3)
    np.testing.assert_allclose(rgb_to_ycocg(rgb), rgb @ matrix.T, atol=1e-15)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 3), (5, 15, 3)])
def test_ycocg_round_trip(shape):
    rgb = normal(*shape)
    found = ycocg_to_rgb(rgb_to_ycocg(rgb))
    assert found.shape == shape
    np.testing.assert_allclose(found, rgb, rtol=0, atol=1e-14)


def test_ycocg_error_gains():
    # What the docstring promises to whoever chooses steps.
    gains = (ycocg_to_rgb(np.eye(3)) ** 2).sum(-1)
    assert gains.tolist() == [3.0, 2.0, 3.0]


def test_colour_shapes_are_checked():
    with pytest.raises(ValueError, match=r"^rgb: expected \[\.\.\., 3\], got \[4\]"):
        rgb_to_ycocg(np.zeros(4))
    with pytest.raises(ValueError, match=r"^ycocg: expected \[\.\.\., 3\], got \[\]"):
        ycocg_to_rgb(np.zeros(()))


# Karhunen-Loeve


def test_klt_rows_are_orthonormal_sorted_and_signed():
    x, weights = correlated(500, 9), abs(normal(500, seed=3))
    basis = fit_klt(x, weights)
    np.testing.assert_allclose(basis @ basis.T, np.eye(9), atol=1e-12)
    energy = ((x @ basis.T) ** 2 * weights[:, None]).sum(0)
    assert (np.diff(energy) <= 1e-9).all()
    assert (basis[np.arange(9), abs(basis).argmax(1)] > 0).all()


def test_klt_decorrelates_under_its_weights():
    x, weights = correlated(400, 6), abs(normal(400, seed=4))
    coefs = x @ fit_klt(x, weights).T
    moment = (coefs * weights[:, None]).T @ coefs
    off = moment - np.diag(np.diag(moment))
    assert abs(off).max() < 1e-9 * np.diag(moment).max()


def test_weights_mean_repeats():
    x, repeats = correlated(40, 5), np.arange(40) % 4
    got = fit_klt(x, repeats)
    expected = fit_klt(np.repeat(x, repeats, 0), np.ones(repeats.sum()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_klt_of_few_points_is_still_a_basis(count):
    for weight in (0.0, 1.0):
        basis = fit_klt(correlated(count, 4), np.full(count, weight))
        np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-12)


def test_klt_of_nothing():
    assert fit_klt(np.zeros((9, 0)), np.ones(9)).shape == (0, 0)
    assert fit_klt(np.zeros((9, 3)), np.ones(9)).tolist() == np.eye(3).tolist()


def test_klt_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"^x, weights: expected \[N, D\] and \[N\]"):
        fit_klt(np.zeros((3, 2)), np.zeros(2))
    for x, weight in ((np.nan, 1.0), (0.0, -1.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match=r"^x, weights: expected finite values"):
            fit_klt(np.full((2, 2), x), np.full(2, weight))


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 1 / 254), (16, 1 / 65534)])
def test_packed_bases(bits, tolerance):
    basis = fit_klt(correlated(200, 15), np.ones(200))
    data = pack_basis(basis, bits)
    assert len(data) == 15 * 15 * bits // 8
    found = unpack_basis(data, 15, bits)
    assert abs(found - basis).max() <= tolerance * (1 + 1e-9)
    assert pack_basis(found, bits) == data
    short = rf"^basis: expected {len(data)} bytes, got {len(data) - 1}"
    with pytest.raises(ValueError, match=short):
        unpack_basis(data[1:], 15, bits)


def test_packed_bytes_are_fixed():
    basis = np.array([[1.0, -1.0], [0.25, -0.75]])
    assert pack_basis(basis, 8).hex(" ") == "7f 81 20 a1"
    assert pack_basis(basis, 16).hex(" ") == "ff 7f 01 80 00 20 01 a0"
    with pytest.raises(ValueError, match=r"^basis: expected entries in \[-1, 1\]"):
        pack_basis(basis * 2)
    with pytest.raises(ValueError, match=r"^basis: expected \[D, D\], got \[1, 2\]"):
        pack_basis(basis[:1])
    with pytest.raises(ValueError, match=r"^bits: expected 8 or 16, got 4"):
        pack_basis(basis, 4)


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_packed_basis_costs_no_accuracy(count, bits):
    # Not even eight bits: the encoder solves with the basis that is stored.
    x = correlated(count, 6)
    basis = unpack_basis(pack_basis(fit_klt(x, np.ones(count)), bits), 6, bits)
    coefs = to_coefficients(x, basis)
    np.testing.assert_allclose(coefs @ basis, x, rtol=0, atol=1e-10)
    whole = np.rint(coefs * 1e5).astype(np.int32)
    back = apply_basis(whole, basis * 1e-5, np.zeros(6))
    np.testing.assert_allclose(back, x, rtol=0, atol=2e-5)


def test_bases_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"^x, basis: expected \[N, D\] and \[D, D\]"):
        to_coefficients(np.zeros((3, 2)), np.eye(3))


# Companding


@given(st.lists(st.floats(-1e6, 1e6), max_size=20), st.floats(1e-3, 1e3))
def test_contraction_round_trip(values, scale):
    x = np.array(values, np.float64)
    y = contract(x, scale)
    assert (y * x >= 0).all()
    np.testing.assert_allclose(expand(y, scale), x, rtol=1e-12, atol=1e-15 * scale + 1e-300)


def test_contraction_is_linear_near_zero_and_logarithmic_far_out():
    y = contract(np.array([0.001, 1e6, 1e7, -1e7]))
    assert abs(y[0] - 0.001) < 1e-6
    assert abs(y[2] - y[1] - 2.302585) < 1e-5
    assert y[3] == -y[2]


@given(st.floats(-700, 700))
def test_expansion_is_accurate(y):
    got = float(expand(np.float64(y)))
    with localcontext() as context:
        context.prec = 50
        expected = (Decimal(abs(y)).exp() - 1).copy_sign(Decimal(y))
        assert abs(Decimal(got) - expected) <= Decimal(2) ** -50 * (1 + abs(expected))


def test_expansion_golden_bits():
    # Reconstruction is part of the format: these bits may not change.
    y = np.array([-650.3, -7.7, -1e-9, 0.0, 0.1, 1.0, 3.3, 12.34567])
    assert expand(y, 0.37).tobytes().hex(" ", 8) == (
        "90fa35687ee97afa a24aab03c08589c0 000000001c6df9bd 0000000000000000 "
        "20c2aea76feca33f 3625f5522e58e43f d198ca3fc7522340 5553dcfed9c5f440"
    )


def test_expansion_edges():
    assert expand(np.zeros(2)).tolist() == [0.0, 0.0]
    assert expand(np.zeros((0, 3))).shape == (0, 3)
    for bad in (701.0, -701.0, np.nan):
        with pytest.raises(ValueError, match=r"^y: expected \|y\| <= 700"):
            expand(np.array([0.0, bad]))
