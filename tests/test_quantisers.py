"""Scalar quantisers: error bounds, dead zones, and reconstruction to the last bit."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.quant.quantisers import PowerQuantiser, UniformQuantiser

torch.set_num_threads(1)

values = st.lists(st.floats(-1e4, 1e4, width=32), max_size=20).map(
    lambda x: torch.tensor(x, dtype=torch.float32)
)
steps = st.floats(1e-3, 1e2)
indices = st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=20).map(
    lambda q: torch.tensor(q, dtype=torch.int32)
)


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


@given(values, steps)
def test_uniform_error_is_at_most_half_a_step(x, step):
    quantiser = UniformQuantiser(step)
    q = quantiser.quantise(x)
    assert q.dtype == torch.int32
    assert q.shape == x.shape
    back = quantiser.dequantise(q)
    assert back.dtype == torch.float32
    error = (back.double() - x.double()).abs()
    assert (error <= step / 2 * (1 + 1e-9) + x.double().abs() * 2**-23).all()


@given(values, steps, st.floats(0, 0.5))
def test_rounding_sets_the_dead_zone(x, step, rounding):
    q = UniformQuantiser(step, rounding=rounding).quantise(x)
    ratio = x.double().abs() / step
    assert (q[ratio < (1 - rounding) * (1 - 1e-9)] == 0).all()
    assert (q[ratio > (1 - rounding) * (1 + 1e-9)] != 0).all()
    assert (q.double() * x.double() >= 0).all()
    # The index never exceeds that of rounding to the nearest, and a whole step is always counted.
    assert (q.abs() <= UniformQuantiser(step).quantise(x).abs()).all()
    assert (q.abs().double() >= ratio.floor()).all()


@pytest.mark.parametrize("make", [UniformQuantiser, lambda *a, **k: PowerQuantiser(*a, 4, **k)])
def test_dead_zone_by_hand(make):
    x = torch.tensor([0.4, 0.6, 0.7, 0.9, 1.7, 1.9, -0.7, -0.9])
    assert make(1.0).quantise(x).tolist() == [0, 1, 1, 1, 2, 2, -1, -1]
    assert make(1.0, rounding=0.25).quantise(x).tolist() == [0, 0, 0, 1, 1, 2, 0, -1]
    assert make(1.0, rounding=0.0).quantise(x).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


@given(indices, steps, st.sampled_from((0.0, 0.125, 0.3)))
def test_uniform_values_are_ieee_products(q, step, shift):
    got = UniformQuantiser(step, shift=shift).dequantise(q).tolist()
    for index, value in zip(q.tolist(), got, strict=True):
        sign = (index > 0) - (index < 0)
        assert value == float32((index - sign * shift) * step)


@given(indices, steps, st.integers(1, 16))
def test_indices_survive_reconstruction(q, step, quarters):
    # Few enough indices that float32 tells neighbours apart.
    q = q % 5000 - 2500
    for quantiser in (UniformQuantiser(step), PowerQuantiser(step, quarters)):
        assert torch.equal(quantiser.quantise(quantiser.dequantise(q)), q)


@given(values, st.integers(3, 16), st.floats(1e-2, 1.0))
def test_power_error_is_half_a_step_of_the_companded_value(x, quarters, step):
    quantiser = PowerQuantiser(step, quarters)
    back = quantiser.dequantise(quantiser.quantise(x)).double()
    power = 4 / quarters
    error = (back.abs() ** power - x.double().abs() ** power).abs()
    slack = 1e-6 * x.double().abs() ** power
    assert (error <= step / 2 * (1 + 1e-9) + slack).all()
    assert (back * x.double() >= 0).all()


@given(indices, st.sampled_from((0.5, 0.75, 3.0)), st.sampled_from((4, 8, 12, 16)))
def test_whole_powers_are_exact(q, step, quarters):
    # Small integers times a short step: every product is exact, so the result is rounded once.
    q = q % 64
    got = PowerQuantiser(step, quarters).dequantise(q).tolist()
    for index, value in zip(q.tolist(), got, strict=True):
        assert value == float32(float((Fraction(index) * Fraction(step)) ** (quarters // 4)))


def power_twin(index: int, step: float, quarters: int, shift: float) -> float:
    """One value in Python floats, in the order that docs/format.md gives."""
    sign = (index > 0) - (index < 0)
    y = abs((index - sign * shift) * step)
    out = 1.0
    for _ in range(quarters // 4):
        out *= y
    if quarters & 2:
        out *= math.sqrt(y)
    if quarters & 1:
        out *= math.sqrt(math.sqrt(y))
    return float32(sign * out)


@given(indices, steps, st.integers(1, 16), st.sampled_from((0.0, 0.125, 0.3)))
def test_power_values_equal_their_twin_to_the_last_bit(q, step, quarters, shift):
    got = PowerQuantiser(step, quarters, shift=shift).dequantise(q).tolist()
    assert got == [power_twin(index, step, quarters, shift) for index in q.tolist()]


def test_power_golden_bits():
    # Reconstruction is part of the format: these bits may not change.
    q = torch.tensor([-70000, -3, -1, 0, 1, 2, 4096], dtype=torch.int32)
    got = PowerQuantiser(0.1, 7, shift=0.125).dequantise(q).numpy().tobytes()
    assert got.hex(" ", 4) == ("6d7ba3ca 862de7bd c2a366bc 00000000 c2a3663c 2ad55a3d 3bab1147")


def test_four_quarters_is_uniform():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 30
    power, uniform = PowerQuantiser(0.37, 4), UniformQuantiser(0.37)
    q = uniform.quantise(x)
    assert torch.equal(power.quantise(x), q)
    assert torch.equal(power.dequantise(q), uniform.dequantise(q))


def test_power_spends_levels_near_zero():
    x = torch.tensor([1e-4, 2e-4, 100.0, 100.3])
    q = PowerQuantiser(0.02, 16).quantise(x)
    assert q[0] != q[1]
    assert q[2] == q[3]


@pytest.mark.parametrize("make", [UniformQuantiser, PowerQuantiser])
def test_a_tensor_of_steps_equals_its_numbers_one_by_one(make):
    steps = torch.tensor([[0.5], [0.1], [3.0]])
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)) * 20
    q = make(steps).quantise(x)
    back = make(steps).dequantise(q)
    for row, step in enumerate(steps[:, 0].tolist()):
        assert torch.equal(make(step).quantise(x[row]), q[row])
        assert torch.equal(make(step).dequantise(q[row]), back[row])


@pytest.mark.parametrize("make", [UniformQuantiser, PowerQuantiser])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), ()])
def test_empty_and_single(make, shape):
    q = make(0.5).quantise(torch.full(shape, 4.0))
    assert q.shape == shape
    assert make(0.5).dequantise(q).shape == shape


@pytest.mark.parametrize("make", [UniformQuantiser, PowerQuantiser])
def test_results_do_not_depend_on_threads_or_on_layout(make):
    q = torch.randint(-9000, 9000, (300, 45), generator=torch.Generator().manual_seed(2)).int()
    whole = make(0.013, shift=0.1).dequantise(q)
    assert torch.equal(make(0.013, shift=0.1).dequantise(q.T).T, whole)
    for row in (0, 17, 299):
        assert torch.equal(make(0.013, shift=0.1).dequantise(q[row, 1:]), whole[row, 1:])


@pytest.mark.parametrize("make", [UniformQuantiser, PowerQuantiser])
def test_what_cannot_be_quantised_is_refused(make):
    with pytest.raises(ValueError, match="x: expected finite values, got 2 that are not"):
        make(1.0).quantise(torch.tensor([1.0, float("nan"), float("inf")]))
    with pytest.raises(ValueError, match="x: expected indices of 32 bits"):
        make(1e-12).quantise(torch.tensor([1.0, 1e12]))
    for step in (0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="step: expected positive finite numbers"):
            make(step)
    with pytest.raises(ValueError, match=r"rounding: expected 0\.0 to 0\.5, got 0\.6"):
        make(1.0, rounding=0.6)
    with pytest.raises(ValueError, match=r"shift: expected 0\.0 to 0\.5, got -0\.1"):
        make(1.0, shift=-0.1)


def test_largest_indices():
    quantiser = UniformQuantiser(1.0)
    x = torch.tensor([2.0**31 - 1, -(2.0**31 - 1)], dtype=torch.float64)
    assert quantiser.quantise(x).tolist() == [2**31 - 1, -(2**31) + 1]
    with pytest.raises(ValueError, match="32 bits"):
        quantiser.quantise(x[:1] + 1)
