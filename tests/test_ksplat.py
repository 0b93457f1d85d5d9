"""mkkellogg's .ksplat: bytes by hand, every level there and back, buckets, damage."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
import torch

from fieldpress.gaussians import ksplat
from fieldpress.gaussians.ksplat import LIMITS, read_ksplat, write_ksplat
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel

SH_C0 = 0.28209479177387814


def written(model: SplatModel, level: int) -> bytes:
    return b"".join(write_ksplat(model, level=level))


def header(level: int, sections: int = 1, most: int = 1, low: float = 0, high: float = 0) -> bytes:
    head = struct.pack("<BBxxIIIIH2x3f2f", 0, 1, most, sections, 1, 1, level, 0, 0, 0, low, high)
    return head.ljust(4096, b"\0")


def section(count: int, *fields: float, sh_degree: int = 0, size: int = 0) -> bytes:
    bucket, buckets, block, steps, full, partial = fields or (0, 0, 0.0, 0, 0, 0)
    return struct.pack(
        "<IIIIfHxxIIIIH", count, count, bucket, buckets, block, 12, steps, size, full, partial,
        sh_degree,
    ).ljust(1024, b"\0")  # fmt: skip


def test_one_gaussian_by_hand():
    """Level 2, degree 1: a bucket around (10, 0, 0), five units a side, 8-bit colours."""
    place = struct.pack("<3H", 32767 + 13107, 32767, 0)  # x + 1, y + 0, z - 2.5
    sizes = np.array([1, 0.5, 2, 0, 1, 0, 0], "<f2").tobytes()
    rest = bytes([255, 0, 128, *[0] * 3, *[255] * 3])  # Channel after channel.
    body = struct.pack("<I3f", 1, 10, 0, 0) + place + sizes + bytes([255, 0, 128, 51]) + rest
    data = header(2) + section(1, 256, 1, 5.0, 32767, 0, 1, sh_degree=1) + body
    model = read_ksplat(data)
    torch.testing.assert_close(model.means, torch.tensor([[11.0, 0, -2.5]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.scales.exp(), torch.tensor([[1, 0.5, 2]]))
    assert model.quats.tolist() == [[0, 1, 0, 0]]
    torch.testing.assert_close(model.opacities.sigmoid(), torch.tensor([0.2]))
    torch.testing.assert_close(model.sh0[0, 0] * SH_C0 + 0.5, torch.tensor([1, 0, 128 / 255]))
    expected = torch.tensor([[1.5, -1.5, 1.5], [-1.5, -1.5, 1.5], [128 / 85 - 1.5, -1.5, 1.5]])
    torch.testing.assert_close(model.shN, expected[None])


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(("sh_degree", "count"), [(0, 1), (1, 255), (2, 700), (2, 256)])
def test_round_trip_within_half_a_step(tiny_model, level, sh_degree, count):
    model = tiny_model(count, sh_degree)
    model = SplatModel(**model.tensors() | {"means": model.means * 9})  # Many cells.
    model, _ = within(model, LIMITS)
    got = read_ksplat(written(model, level))
    assert got.extra == {"source_format": f"ksplat level {level}"}
    if level:
        order = ksplat._Buckets.of(model.means.numpy()).order
        assert sorted(order.tolist()) == list(range(count))
        model = model[torch.from_numpy(order)]
    relative = 0 if level == 0 else 2.0**-11
    step = ksplat.BLOCK / 2 / ksplat.STEPS if level else 0
    assert (got.means - model.means).abs().max() <= 0.5 * step + 1e-5
    assert (got.scales - model.scales).abs().max() <= relative * 1.01 + 1e-6
    assert (got.sh0 - model.sh0).abs().max() * SH_C0 <= 0.5 / 255 + 1e-6
    unit = torch.nn.functional.normalize
    assert (unit(got.quats) - unit(model.quats)).abs().max() <= 2 * relative + 1e-6
    reach = float(model.shN.abs().max()) if sh_degree else 0
    error = {0: 0, 1: relative, 2: reach / 255}[level] + 1e-6
    assert not sh_degree or (got.shN - model.shN).abs().max() <= error


def test_degree_3_and_far_colours_are_cut(tiny_model):
    model = tiny_model(20)
    model.shN[0, 0, 0] = 7
    cut, report = within(model, LIMITS)
    assert (report["sh_degree"], report["clamped"]["shN"]) == (2, 1)
    assert read_ksplat(written(cut, 2)).shN.abs().max() <= 1.5


def test_many_sections_join():
    one = np.arange(11, dtype="<f4").tobytes()[:40] + bytes([1, 2, 3, 4])
    data = header(0, 2, 3) + section(1) + section(2) + bytes(1024) + one * 3
    assert len(read_ksplat(data)) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\1", "truncated .ksplat: expected a header"),
        (header(3) + section(1), "expected version 0.1 and level 0 to 2, got 0.1 and 3"),
        (header(0, 2, 1) + section(1), "sections: expected 1 to 1"),
        (header(0, 1, 1 << 30) + section(1), "sections: expected 1 to 1073741824 within"),
        (header(0) + section(5), "expected at most 5 Gaussians and 0 bytes, got 5 and 220"),
        (header(0) + section(2**32 - 1), "expected at most 4294967295 Gaussians"),
        (header(0) + section(0), "none of its 1 sections has Gaussians"),
        (header(1) + section(1, 256, 0, 5.0, 0, 1, 0) + bytes(24), "expected 0 buckets of 12"),
        (header(1) + section(1, 256, 1, 5.0, 0, 0, 0) + bytes(36), "its buckets hold 0 of 1"),
        (header(0) + section(1, sh_degree=3) + bytes(300), "SH degree: expected 0 to 2, got 3"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(ValueError, match="^a: .*" + re.escape(message)):
        read_ksplat(data, name="a")


@pytest.mark.parametrize("level", [0, 1, 2])
def test_cuts_are_seen(tiny_model, level):
    data = written(within(tiny_model(300, 2), LIMITS)[0], level)
    for cut in range(0, len(data), 997):
        with pytest.raises(ValueError, match=r"^a: [^\n]*$"):
            read_ksplat(data[:cut], name="a")


def test_a_level_that_there_is_not(tiny_model):
    with pytest.raises(ValueError, match="level: expected 0, 1 or 2, got 3"):
        written(tiny_model(5, 0), 3)
