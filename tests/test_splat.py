"""antimatter15's 32 bytes a Gaussian: by hand, there and back, and what is no .splat."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.splat import LIMITS, by_size, read_splat, write_splat

SH_C0 = 0.28209479177387814


def written(model: SplatModel) -> bytes:
    return b"".join(write_splat(model))


def test_one_gaussian_by_hand():
    data = struct.pack("<6f8B", 1, -2, 3, 1, math.e, 0.5, 255, 0, 128, 51, 0, 128, 128, 128)
    model = read_splat(data)
    assert model.means.tolist() == [[1, -2, 3]]
    torch.testing.assert_close(model.scales, torch.tensor([[0, 1, math.log(0.5)]]))
    torch.testing.assert_close(model.sh0[0, 0] * SH_C0 + 0.5, torch.tensor([1, 0, 128 / 255]))
    torch.testing.assert_close(model.opacities.sigmoid(), torch.tensor([0.2]))
    assert model.quats.tolist() == [[-1, 0, 0, 0]]
    again = written(model)
    assert (again[:12], again[24:]) == (data[:12], data[24:])  # Logarithms round.


def test_round_trip_within_half_a_step(tiny_model):
    model, report = within(tiny_model(300, 2), LIMITS)
    assert report["sh_degree"] == 0
    assert 0 < report["clamped"]["sh0"] < 100
    got = read_splat(written(model))
    order = by_size({name: value.numpy() for name, value in model.tensors().items()})
    model = model[torch.from_numpy(order)]
    size = model.scales.sum(1) + torch.nn.functional.logsigmoid(model.opacities)
    assert (size.diff() <= 1e-5).all()  # The largest and most opaque come first.
    assert torch.equal(got.means, model.means)
    torch.testing.assert_close(got.scales, model.scales, atol=1e-5, rtol=0)
    assert (got.opacities.sigmoid() - model.opacities.sigmoid()).abs().max() <= 0.5 / 255 + 1e-6
    assert (got.sh0 - model.sh0).abs().max() * SH_C0 <= 0.5 / 255 + 1e-6
    unit = torch.nn.functional.normalize
    quats = unit(model.quats) * (unit(model.quats) * unit(got.quats)).sum(1, keepdim=True).sign()
    assert (quats - got.quats).abs().max() <= 0.5 / 128 + 1e-6


@pytest.mark.parametrize("size", [0, 1, 31, 33])
def test_whole_records_only(size):
    with pytest.raises(ValueError, match=rf"^a: .splat: expected a positive multiple.*got {size}$"):
        read_splat(bytes(size), name="a")


def test_zeros_are_a_gaussian_of_no_size(tiny_model):
    model = read_splat(bytes(32))
    assert model.scales.tolist() == [[-math.inf] * 3]
    assert within(model, LIMITS)[1]["repaired"] == {"clamped_scales": 1}
    with pytest.raises(ValueError, match="count: expected at least 1"):
        written(tiny_model(0, 0))


def test_a_zero_rotation_is_the_identity():
    assert read_splat(bytes(28) + bytes([128] * 4)).quats.tolist() == [[1, 0, 0, 0]]
