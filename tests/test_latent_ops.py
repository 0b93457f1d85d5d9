"""The native operations of latent grids against their twins, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fieldpress.fields import _native, latent_motion
from fieldpress.fields import _reference_latent as twin
from fieldpress.fields.latent_ops import (
    Plane,
    Shape,
    decode_numbers,
    decode_planes,
    encode_numbers,
    encode_planes,
    tail_tables,
)  # fmt: skip

TAPS = ((0, 0, -1), (0, -1, 0), (0, -1, 2), (0, -3, -2), (1, 0, 0), (1, 1, 0), (1, -1, -1))
SIZES = [(1, 1), (5, 7), (6, 140)]


@pytest.fixture(params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


def pyramid(height: int, width: int, seed: int = 0) -> tuple[list[Plane], torch.Tensor]:
    """A plane and the one above it, and values of both."""
    h, w = (height + 1) // 2, (width + 1) // 2
    rng = torch.Generator().manual_seed(seed)
    planes = [Plane(h * w, height, width), Plane(0, h, w, 1)]
    return planes, 2 * torch.randn(h * w + height * width, generator=rng)


def parameters(shape: Shape, seed: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(shape.parameters, generator=rng)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("layers", "outputs", "replicate"), [(0, 3, True), (1, 3, True), (2, 2, False)]
)
def test_slide_and_its_gradients_are_the_twins(isa, size, layers, outputs, replicate) -> None:
    planes, buffer = pyramid(*size)
    shape = Shape(TAPS, layers, 12, outputs, replicate)
    flat = parameters(shape)
    b, p = buffer.double().requires_grad_(), flat.double().requires_grad_()
    want = twin.slide(shape, planes, b, p)
    upstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    (want * upstream).sum().backward()
    net, out = shape.on(*planes), torch.empty(want.shape)
    _native.slide(net, buffer, flat, out)
    grad, by_parameter = torch.zeros_like(buffer), torch.zeros_like(flat)
    _native.slide_back(net, buffer, flat, upstream, grad, by_parameter)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=2e-5)
    torch.testing.assert_close(grad.double(), b.grad, rtol=0, atol=2e-5)
    torch.testing.assert_close(by_parameter.double(), p.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
def test_rate_and_its_gradients_are_the_twins(isa, size, spread) -> None:
    planes, buffer = pyramid(*size)
    shape = Shape(TAPS, 2, 16, 2)
    flat = spread * parameters(shape)
    b, p = buffer.double().requires_grad_(), flat.double().requires_grad_()
    want = twin.rate(shape, planes, b, p)
    want.backward()
    grad, by_parameter = torch.zeros_like(buffer), torch.zeros_like(flat)
    got = _native.rate(shape.on(*planes), buffer, flat, grad, by_parameter)
    assert got == pytest.approx(float(want.detach()), rel=1e-5)
    scale = float(p.grad.abs().max())
    torch.testing.assert_close(grad.double(), b.grad, rtol=1e-3, atol=1e-4 * (1 + scale))
    torch.testing.assert_close(by_parameter.double(), p.grad, rtol=1e-3, atol=1e-4 * (1 + scale))


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (4, 131)])
def test_upsample_and_its_gradients_are_the_twins(isa, size) -> None:
    height, width = size
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, (height + 1) // 2, (width + 1) // 2, generator=rng)
    kernel, upstream = torch.randn(4, generator=rng), torch.randn(2, height, width, generator=rng)
    xd, kd = x.double().requires_grad_(), kernel.double().requires_grad_()
    want = torch.stack([twin.upsample(plane, kd, height, width) for plane in xd])
    (want * upstream).sum().backward()
    out, grad, by_kernel = torch.empty(2, height, width), torch.zeros_like(x), torch.zeros(4)
    _native.upsample(x, kernel, out)
    _native.upsample_back(x, kernel, upstream, grad, by_kernel)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(grad.double(), xd.grad, rtol=0, atol=1e-4)
    torch.testing.assert_close(by_kernel.double(), kd.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 37])
def test_soft_rounding_is_the_twins(isa, count) -> None:
    rng = torch.Generator().manual_seed(0)
    x, noise = 3 * torch.randn(count, generator=rng), torch.randn(count, generator=rng)
    xd = x.double().requires_grad_()
    want = twin.soften(xd, noise.double(), 0.3, 0.2)
    want.sum().backward()
    out, slope = torch.empty(count), torch.empty(count)
    cold = 1 / 0.3
    _native.soften(x, noise, cold, 0.5 / np.tanh(0.5 * cold), 0.2, out, slope)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(slope.double(), xd.grad, rtol=1e-3, atol=1e-3)


def test_decoding_arithmetic_is_the_same_bits_with_every_instruction_set() -> None:
    planes, buffer = pyramid(9, 150)
    shape = Shape(TAPS, 1, 24, 3, replicate=True)
    flat, found = parameters(shape), []
    before = _native.isa()
    for name in _native.available_isas():
        _native.set_isa(name)
        out, large = torch.empty(3, 9, 150), torch.empty(1, 17, 299)
        _native.slide(shape.on(*planes), buffer, flat, out)
        _native.upsample(out[:1].contiguous(), flat[:4].contiguous(), large)
        found.append((out, large))
    _native.set_isa(before)
    assert all(torch.equal(a, b) for one in found for a, b in zip(found[0], one, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (37, 150)])
def test_threads_change_no_bit(size) -> None:
    planes, buffer = pyramid(*size)
    shape = Shape(TAPS, 1, 24, 3, replicate=True)
    flat, found = parameters(shape), []
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    motion = np.random.default_rng(1).integers(-9, 10, latent_motion.grid(*size), np.int32)
    for threads in (1, 2, 3, 1000):
        out, large = torch.empty(3, *size), torch.empty(3, 2 * size[0] - 1, 2 * size[1])
        _native.slide(shape.on(*planes), buffer, flat, out, threads)
        _native.upsample(out, flat[:4].contiguous(), large, threads)
        pixels = np.zeros((*size, 3), np.uint8)
        _native.to_bytes(out, pixels, threads)
        moved = latent_motion.move(frame, motion, threads)
        found.append((out, large, torch.from_numpy(pixels), moved))
    assert all(torch.equal(a, b) for one in found for a, b in zip(found[0], one, strict=True))


def test_bytes_of_a_picture_are_the_twins(isa) -> None:
    planes = torch.linspace(-0.2, 1.2, 3 * 9 * 50).view(3, 9, 50)
    planes[:, 0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, 0.5 / 255])
    found = np.zeros((9, 50, 3), np.uint8)
    _native.to_bytes(planes, found)
    assert np.array_equal(found, twin.to_bytes(planes).numpy())
    assert set(found.reshape(-1)) == set(range(256))
    with pytest.raises(ValueError, match="out"):
        _native.to_bytes(planes, found[1:])


def coded(size: tuple[int, int], seed: int = 0):
    planes, _ = pyramid(*size)
    rng = np.random.default_rng(seed)
    shape = Shape(TAPS, 2, 16, 2)
    alone = Shape(tuple((0, *t[1:]) if t[0] == 0 else (0, -8, 0) for t in TAPS), 2, 16, 2)
    top = Plane(0, planes[1].height, planes[1].width)
    weights = rng.normal(size=(2, shape.parameters)) * 300
    symbols = np.round(rng.laplace(size=planes[0].first + planes[0].size) * 3).astype(np.int32)
    return planes, shape, [alone.on(top), shape.on(*planes)], weights.astype(np.int32), symbols


@pytest.mark.parametrize("size", SIZES)
def test_planes_come_back_and_are_coded_as_the_twin_predicts(isa, size) -> None:
    planes, shape, nets, weights, symbols = coded(size)
    symbols[-1] = 20000  # Far beyond any distribution.
    data = encode_planes(nets, weights, symbols)
    found = np.zeros_like(symbols)
    decode_planes(nets, weights, data, found)
    assert np.array_equal(found, symbols)
    own = encode_planes(nets[1:], weights[1:], symbols)
    centers, scales = twin.predictions(shape, planes, symbols, weights[1])
    assert own == encode_numbers(symbols[planes[0].first :], centers, scales)


def test_bytes_do_not_depend_on_the_instruction_set() -> None:
    _, _, nets, weights, symbols = coded((13, 40))
    before, found = _native.isa(), set()
    for name in _native.available_isas():
        _native.set_isa(name)
        found.add(encode_planes(nets, weights, symbols))
    _native.set_isa(before)
    assert len(found) == 1


def test_numbers_cost_what_their_distributions_say() -> None:
    rng = np.random.default_rng(0)
    numbers = np.round(rng.laplace(size=4000) * 2).astype(np.int32)
    zeros, scales = np.zeros(4000, np.int32), np.full(4000, 44, np.int32)  # Half-life 2^0.5.
    data = encode_numbers(numbers, zeros, scales)
    assert np.array_equal(decode_numbers(data, zeros, scales), numbers)
    octave = torch.tensor([[0.0], [-5 + 44 / 8]])
    bits = twin.laplace_bits(torch.from_numpy(numbers).double(), *octave.double())
    assert 8 * len(data) == pytest.approx(float(bits.sum()), rel=0.01)


def test_tails_fall_and_leave_every_symbol_a_share() -> None:
    tails, first, reach = tail_tables()
    for start, far in zip(first, reach, strict=True):
        tail = tails[start : start + 16 * far + 1].astype(int)
        assert (np.diff(tail) <= 0).all()
        assert 2 * tail[0] + 2 * far + 1 <= 1 << 15


def test_damage_is_told() -> None:
    _, _, nets, weights, symbols = coded((13, 40))
    data = encode_planes(nets, weights, symbols)
    refused = 0
    for at in range(0, len(data), 7):
        bad = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            decode_planes(nets, weights, bad, np.zeros_like(symbols))
        except ValueError:
            refused += 1
    assert refused >= len(range(0, len(data), 7)) - 1


@pytest.mark.parametrize(
    ("planes", "taps", "what"),
    [([(0, 0, 4, 0)], [(0, 0, -1)], "planes"), ([(0, 4, 4, 0)], [(1, 0, -1)], "taps"),
     ([(0, 4, 4, 0)], [(0, 0, -9)], "taps"),
     ([(0, 4, 4, 0), (0, 1, 1, 1)], [(0, 0, -1)], "planes")],
)  # fmt: skip
def test_impossible_networks_are_refused(planes, taps, what) -> None:
    with pytest.raises(ValueError, match=what):
        _native.SlidingNet(2, 16, 2, planes, taps, False)


def test_a_tap_of_what_is_not_decoded_yet_is_refused() -> None:
    shape = Shape(((0, 0, 0),), 2, 16, 2)
    weights = np.zeros((1, shape.parameters), np.int32)
    with pytest.raises(ValueError, match="taps"):
        encode_planes([shape.on(Plane(0, 4, 4))], weights, np.zeros(16, np.int32))
