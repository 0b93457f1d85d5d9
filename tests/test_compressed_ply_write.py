"""Our compressed PLY read back: within half a step of every lattice, and the same ever after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fieldpress.gaussians.compressed_ply_write import write_compressed
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.pack import drop_one
from fieldpress.gaussians.ply import read_ply
from fieldpress.gaussians.unpack import restore_largest

TEN_BITS = 2**0.5 / 1023  # A step of a rotation's component.


def assert_half_a_step(got: SplatModel, model: SplatModel) -> None:
    """Element for element: both in the order of the file."""
    rounding = 4e-7  # Of float32, relative to the bounds.
    for start in range(0, len(model), 256):
        rows = slice(start, start + 256)
        for name, top in (("means", (2047, 1023, 2047)), ("scales", (2047, 1023, 2047))):
            value = getattr(model, name)[rows].double()
            step = (value.amax(0) - value.amin(0)) / torch.tensor(top)
            error = (getattr(got, name)[rows].double() - value).abs()
            assert (error <= 0.5 * step + rounding * value.abs().amax(0)).all(), name
        value = model.sh0[rows, 0].double()
        step = (value.amax(0) - value.amin(0)) / 255
        error = (got.sh0[rows, 0] - value).abs()
        assert (error <= 0.5 * step + rounding * (value.abs().amax(0) + 2)).all()
    alpha = model.opacities.double().sigmoid()
    assert ((got.opacities.double().sigmoid() - alpha).abs() <= 0.5 / 255 + 1e-6).all()
    assert got.shN.shape == model.shN.shape
    tame = model.shN.clamp(-4, 4)
    inner = 1 / 64 + (tame.abs() > 3.95) / 64  # The outermost steps are half as wide again.
    assert ((got.shN - tame).abs() <= inner + 1e-6).all()
    unit = torch.nn.functional.normalize(model.quats.double())
    sign = torch.where((unit * got.quats).sum(1, keepdim=True) < 0, -1, 1)
    assert ((got.quats * sign - unit).square().sum(1) <= 3 * TEN_BITS**2).all()


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 256, 257, 600])
def test_half_a_step(tiny_model, n, sh_degree):
    model = tiny_model(n, sh_degree)
    data = write_compressed(model, sort=False)
    got = read_ply(data)
    assert (len(got), got.sh_degree, got.antialiased) == (n, sh_degree, False)
    assert_half_a_step(got, model)
    head = data.index(b"end_header\n") + len(b"end_header\n")
    assert len(data) == head + 72 * -(-n // 256) + n * (16 + 3 * ((sh_degree + 1) ** 2 - 1))
    assert write_compressed(got) == data


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.floats(-12, 12), st.floats(-100, 100), st.integers(0, 999))
def test_half_a_step_at_any_size_and_place(tiny_model, n, log_size, place, seed):
    """And what was read once is written and read again without a further loss."""
    model = tiny_model(n, 1, seed)
    size = float(np.exp(log_size))
    model = replace(model, means=size * (model.means + place), shN=40 * model.shN)
    got = read_ply(write_compressed(model, sort=False))
    assert_half_a_step(got, model)
    again = read_ply(write_compressed(got))
    for name in ("means", "quats", "scales", "opacities", "shN"):
        assert torch.equal(again.tensors()[name], got.tensors()[name]), name
    torch.testing.assert_close(again.sh0, got.sh0, rtol=1e-6, atol=1e-6)


def test_no_gaussians(tiny_model):
    got = read_ply(write_compressed(tiny_model(0, 2)))
    assert (len(got), got.sh_degree) == (0, 2)


def test_order_is_the_curve_s_and_not_the_input_s(tiny_model):
    """Chunks are places; an outlier does not change that."""
    model = tiny_model(4096, 0)
    model.means[5] = torch.tensor([1e9, -1e9, 1e9])
    shuffled = model[torch.randperm(4096, generator=torch.Generator().manual_seed(1))]
    assert write_compressed(shuffled) == write_compressed(model)

    def spread(got: SplatModel) -> float:
        chunks = got.means.view(16, 256, 3)
        return float((chunks.amax(1) - chunks.amin(1)).median())

    assert spread(read_ply(write_compressed(model))) < 0.6 * spread(model)
    kept = replace(model, extra={"source_format": "compressed ply"})
    assert write_compressed(kept) == write_compressed(model, sort=False)
    assert write_compressed(kept, sort=True) == write_compressed(model)


def test_ends_of_the_lattices(tiny_model):
    model = tiny_model(6, 1)
    model.opacities[:4] = torch.tensor([-torch.inf, torch.inf, -1e30, 1000.0])
    model.scales[0] = torch.tensor([-1e9, 30.0, 20.5])
    model.shN[0, 0] = torch.tensor([-9.0, 9.0, 3.99])
    model.shN[1, 0] = torch.tensor([-3.97, 3.97, 0.0])
    model.quats[0], model.quats[1] = 0, torch.tensor([0.0, -1e30, 0, 0])
    got = read_ply(write_compressed(model, sort=False))
    torch.testing.assert_close(got.opacities[:4], torch.tensor([-13.815510, 13.815510] * 2))
    assert got.scales[0].tolist() == [-20, 20, 20]
    assert got.shN[0, 0].tolist() == [-4, 4, 4]
    assert got.shN[1, 0].tolist() == [-3.953125, 3.953125, pytest.approx(0, abs=1 / 64)]
    torch.testing.assert_close(got.quats[:2].abs(), torch.eye(4)[:2], atol=2e-3, rtol=0)


@pytest.mark.parametrize("where", [0.0, 1e30, -7.25])
def test_all_in_one_place(tiny_model, where):
    model = tiny_model(300, 0)
    model = replace(model, means=torch.full((300, 3), where), sh0=torch.full((300, 1, 3), 0.5))
    got = read_ply(write_compressed(model, sort=False))
    assert torch.equal(got.means, model.means)
    torch.testing.assert_close(got.sh0, model.sh0)


def test_what_mip_splatting_needs_survives(tiny_model):
    model = replace(tiny_model(3, 0), antialiased=True)
    assert read_ply(write_compressed(model)).antialiased


@pytest.mark.parametrize("name", ["means", "quats", "scales", "sh0", "shN"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -3.4028e38])
def test_no_infinities(tiny_model, name, value):
    model = tiny_model(3, 1)
    getattr(model, name)[1, 0] = value
    with pytest.raises(ValueError, match=f"^compressed PLY {name}: expected finite values; "):
        write_compressed(model)


def test_refusals(tiny_model):
    with pytest.raises(ValueError, match="compressed PLY SH degree: expected 0 to 3, got 4"):
        write_compressed(tiny_model(2, 4))
    model = tiny_model(2, 0)
    model.opacities[1] = torch.nan
    with pytest.raises(ValueError, match="compressed PLY opacities: expected numbers, got NaN"):
        write_compressed(model)


component = st.sampled_from([0.0, 0.5, -0.5, 0.5**0.5, -(0.5**0.5), 1.0, -1.0]) | st.floats(
    -1, 1, width=32
)


@settings(max_examples=200, deadline=None)
@example([0.0, 0.5, 0.5, 0.2270827740430832], 1023)
@given(st.lists(component, min_size=4, max_size=4), st.sampled_from([255, 1023]))
def test_rotations_are_as_good_as_they_can_be_and_stay(quat, steps):
    quats = np.array([quat], np.float32)
    norm = np.linalg.norm(quats.astype(np.float64))
    unit = quats / norm if norm > 0 else np.array([[1.0, 0, 0, 0]])
    codes, dropped = drop_one(quats, steps)

    def decoded(codes: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        return restore_largest(((codes / steps - 0.5) * 2**0.5).astype(np.float32), dropped)

    got = decoded(codes, dropped)
    largest = np.abs(unit).argmax(1)
    plain = np.delete(unit * np.sign(unit[0, largest]), largest, axis=1)
    plain = decoded(np.rint((plain * 0.5**0.5 + 0.5) * steps).clip(0, steps), largest)

    def error(found: np.ndarray) -> float:
        return float(min(np.square(found - unit).sum(), np.square(found + unit).sum()))

    assert error(got) <= error(plain) + 1e-9
    assert error(got) <= 3 * (2**0.5 / steps) ** 2
    again = decoded(*drop_one(got, steps))
    assert np.abs(again - got).max() <= 1e-6


def test_a_real_scene(data_dir):
    """A file of another tool's, whose bounds are wider than they need be; then ours, for good."""
    model = read_ply(data_dir / "gaussians/angel/angel.compressed.ply")
    got = read_ply(write_compressed(model))
    assert_half_a_step(got, model)
    again = read_ply(write_compressed(got))
    for name in ("means", "quats", "scales", "opacities"):
        assert torch.equal(again.tensors()[name], got.tensors()[name]), name
