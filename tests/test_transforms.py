"""Transforms: inverses, energy compaction, and decoding to the last bit."""

from __future__ import annotations

import struct
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.quant.transforms import (
    apply_forward,
    apply_inverse,
    contract,
    expand,
    fit_klt,
    pack_basis,
    rgb_to_ycocg,
    rgb_to_ycocg_lossless,
    unpack_basis,
    ycocg_to_rgb,
    ycocg_to_rgb_lossless,
)

torch.set_num_threads(1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    spread = torch.logspace(1, -2, dim, dtype=torch.float64)
    mix = torch.linalg.qr(normal(dim, dim, seed=seed + 1))[0]
    return normal(count, dim, seed=seed) * spread @ mix


# Colour


def test_ycocg_matches_its_definition():
    matrix = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0, -0.5], [-0.25, 0.5, -0.25]])
    rgb = normal(50, 3).float()
    torch.testing.assert_close(rgb_to_ycocg(rgb), rgb @ matrix.T)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 3), (5, 15, 3)])
def test_ycocg_round_trip(shape):
    rgb = normal(*shape)
    torch.testing.assert_close(ycocg_to_rgb(rgb_to_ycocg(rgb)), rgb, rtol=0, atol=1e-14)


def test_ycocg_error_gains():
    # What the docstring promises to whoever chooses steps.
    gains = (ycocg_to_rgb(torch.eye(3)) ** 2).sum(-1)
    assert gains.tolist() == [3.0, 2.0, 3.0]


@given(st.lists(st.tuples(*[st.integers(-(2**29), 2**29)] * 3), max_size=20))
def test_lossless_ycocg_is_lossless(pixels):
    rgb = torch.tensor(pixels, dtype=torch.int32).reshape(-1, 3)
    assert torch.equal(ycocg_to_rgb_lossless(rgb_to_ycocg_lossless(rgb)), rgb)


def test_lossless_ycocg_range():
    axis = torch.tensor([0, 1, 2, 127, 128, 254, 255], dtype=torch.int32)
    ycocg = rgb_to_ycocg_lossless(torch.cartesian_prod(axis, axis, axis))
    assert ycocg[:, 0].min() == 0
    assert ycocg[:, 0].max() == 255
    assert ycocg[:, 1:].abs().max() == 255
    grey = rgb_to_ycocg_lossless(axis[:, None].expand(-1, 3))
    assert torch.equal(grey[:, 0], axis)
    assert not grey[:, 1:].any()


def test_colour_shapes_and_kinds_are_checked():
    with pytest.raises(ValueError, match=r"^rgb: expected \[\.\.\., 3\], got \[4\]"):
        rgb_to_ycocg(torch.zeros(4))
    with pytest.raises(ValueError, match=r"^ycocg: expected int32 or int64, got torch.float32"):
        ycocg_to_rgb_lossless(torch.zeros(3))


# Karhunen-Loeve


def test_klt_rows_are_orthonormal_sorted_and_signed():
    x = correlated(500, 9)
    weights = normal(500, seed=3).abs()
    basis = fit_klt(x, weights)
    torch.testing.assert_close(basis @ basis.T, torch.eye(9, dtype=torch.float64))
    energy = ((x @ basis.T) ** 2 * weights[:, None]).sum(0)
    assert (energy.diff() <= 1e-9).all()
    assert (basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all()


def test_klt_decorrelates_under_its_weights():
    x, weights = correlated(400, 6), normal(400, seed=4).abs()
    coefs = x @ fit_klt(x, weights).T
    moment = (coefs * weights[:, None]).T @ coefs
    off = moment - moment.diagonal().diag()
    assert off.abs().max() < 1e-9 * moment.diagonal().max()


def test_weights_mean_repeats():
    x = correlated(40, 5)
    repeats = torch.arange(40) % 4
    got = fit_klt(x, repeats.double())
    expected = fit_klt(x.repeat_interleave(repeats, 0), torch.ones(int(repeats.sum())))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_klt_of_few_points_is_still_a_basis(count):
    for weight in (0.0, 1.0):
        basis = fit_klt(correlated(count, 4), torch.full((count,), weight))
        torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64))


def test_klt_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"^x, weights: expected \[N, D\] and \[N\]"):
        fit_klt(torch.zeros(3, 2), torch.zeros(2))
    for x, weight in ((float("nan"), 1.0), (0.0, -1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match=r"^x, weights: expected finite values"):
            fit_klt(torch.full((2, 2), x), torch.full((2,), weight))


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 1 / 254), (16, 1 / 65534)])
def test_packed_bases(bits, tolerance):
    basis = fit_klt(correlated(200, 15), torch.ones(200))
    data = pack_basis(basis, bits)
    assert len(data) == 15 * 15 * bits // 8
    found = unpack_basis(data, 15, bits)
    assert (found - basis).abs().max() <= tolerance * (1 + 1e-9)
    assert pack_basis(found, bits) == data
    with pytest.raises(
        ValueError, match=rf"^basis: expected {len(data)} bytes, got {len(data) - 1}"
    ):
        unpack_basis(data[1:], 15, bits)


def test_packed_bytes_are_fixed():
    basis = torch.tensor([[1.0, -1.0], [0.25, -0.75]])
    assert pack_basis(basis, 8).hex(" ") == "7f 81 20 a1"
    assert pack_basis(basis, 16).hex(" ") == "ff 7f 01 80 00 20 01 a0"
    with pytest.raises(ValueError, match=r"^basis: expected entries in \[-1, 1\]"):
        pack_basis(basis * 2)
    with pytest.raises(ValueError, match=r"^bits: expected 8 or 16, got 4"):
        pack_basis(basis, 4)


@pytest.mark.parametrize("count", [0, 1, 4096, 4099])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_packed_basis_inverts_exactly(count, bits):
    # Even eight bits must not cost accuracy: the encoder solves with the basis that is stored.
    x = correlated(count, 6)
    basis = unpack_basis(pack_basis(fit_klt(x, torch.ones(count)), bits), 6, bits)
    back = apply_inverse(apply_forward(x, basis), basis)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, x.float(), rtol=0, atol=1e-5)


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


@pytest.mark.parametrize("kind", [torch.int32, torch.float32])
def test_inverse_equals_its_twin_to_the_last_bit(kind):
    basis = unpack_basis(pack_basis(fit_klt(correlated(90, 7), torch.ones(90))), 7)
    coefs = (correlated(60, 7, seed=9) * 1e5).to(kind)
    got = apply_inverse(coefs, basis)
    for row, values in zip(coefs.tolist(), got.tolist(), strict=True):
        for j, value in enumerate(values):
            total = 0.0
            for k in range(7):
                total += float(basis[k, j]) * row[k]
            assert value == float32(total)


def test_inverse_sums_in_order_and_rounds_products_apart():
    ones = torch.ones(3, 3)
    assert not apply_inverse(torch.tensor([[1.0, 2.0**60, -(2.0**60)]]), ones).any()
    assert apply_inverse(torch.tensor([[2.0**60, -(2.0**60), 1.0]]), ones).eq(1).all()
    # A fused multiply-add would leave the rounding error of the product.
    factor = 1 + 2.0**-30
    basis = torch.tensor([[1.0, 1.0], [factor, factor]], dtype=torch.float64)
    coefs = torch.tensor([[-factor * factor, factor]], dtype=torch.float64)
    assert not apply_inverse(coefs, basis).any()


def test_inverse_does_not_depend_on_threads_or_neighbours():
    basis = fit_klt(correlated(100, 45), torch.ones(100))
    coefs = correlated(9000, 45, seed=5).float()
    whole = apply_inverse(coefs, basis)
    try:
        torch.set_num_threads(2)
        assert torch.equal(apply_inverse(coefs, basis), whole)
    finally:
        torch.set_num_threads(1)
    for start, end in ((0, 1), (1, 4), (4095, 4098), (8999, 9000)):
        assert torch.equal(apply_inverse(coefs[start:end], basis), whole[start:end])
    with pytest.raises(ValueError, match=r"^coefs, basis: expected \[N, D\] and \[D, D\]"):
        apply_inverse(coefs[:, 1:], basis)


# Companding


@given(st.lists(st.floats(-1e6, 1e6), max_size=20), st.floats(1e-3, 1e3))
def test_contraction_round_trip(values, scale):
    x = torch.tensor(values, dtype=torch.float64)
    y = contract(x, scale)
    assert (y * x >= 0).all()
    torch.testing.assert_close(expand(y, scale), x, rtol=1e-12, atol=1e-15 * scale + 1e-300)


def test_contraction_is_linear_near_zero_and_logarithmic_far_out():
    y = contract(torch.tensor([0.001, 1e6, 1e7, -1e7]))
    assert abs(float(y[0]) - 0.001) < 1e-6
    assert abs(float(y[2] - y[1]) - 2.302585) < 1e-5
    assert y[3] == -y[2]


@given(st.floats(-700, 700))
def test_expansion_is_accurate(y):
    got = float(expand(torch.tensor(y, dtype=torch.float64)))
    with localcontext() as context:
        context.prec = 50
        expected = (Decimal(abs(y)).exp() - 1).copy_sign(Decimal(y))
        assert abs(Decimal(got) - expected) <= Decimal(2) ** -50 * (1 + abs(expected))


def test_expansion_golden_bits():
    # Reconstruction is part of the format: these bits may not change.
    y = torch.tensor([-650.3, -7.7, -1e-9, 0.0, 0.1, 1.0, 3.3, 12.34567], dtype=torch.float64)
    assert expand(y, 0.37).numpy().tobytes().hex(" ", 8) == (
        "90fa35687ee97afa a24aab03c08589c0 000000001c6df9bd 0000000000000000 "
        "20c2aea76feca33f 3625f5522e58e43f d198ca3fc7522340 5553dcfed9c5f440"
    )


def test_expansion_edges():
    assert expand(torch.zeros(2)).tolist() == [0.0, 0.0]
    assert expand(torch.zeros(0, 3)).shape == (0, 3)
    assert expand(torch.tensor(1.0)).shape == ()
    for bad in (701.0, -701.0, float("nan")):
        with pytest.raises(ValueError, match=r"^y: expected \|y\| <= 700"):
            expand(torch.tensor([0.0, bad]))
