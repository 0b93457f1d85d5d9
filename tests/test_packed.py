"""Packed Gaussians: what rounding costs, and that the kernels read what `unpack` makes of them."""

from __future__ import annotations

import math

import pytest
import torch

from fieldpress.render import packed as packed_module
from fieldpress.render.packed import FORMATS, pack, rasterize_packed
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.splat_cuda import Backend

WIDTH, HEIGHT = 37, 29


def make_scene(n=700, seed=0, bases=16):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g)
    means = means[means[:, 0].argsort()]
    quats = torch.randn(n, 4, generator=g)
    scales = (0.8 * torch.randn(n, 3, generator=g) - 2.4).exp()
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g)
    return means, quats, scales, opacities, 0.3 * torch.randn(n, bases, 3, generator=g)


def make_cameras():
    views = torch.eye(4).repeat(2, 1, 1)
    views[:, 2, 3] = 3.5
    views[1, :2, :2] = torch.tensor([[math.cos(1), math.sin(1)], [-math.sin(1), math.cos(1)]])
    K = [[0.9 * WIDTH, 0, 0.47 * WIDTH], [0, 1.1 * WIDTH, 0.55 * HEIGHT], [0, 0, 1]]
    return views, torch.tensor(K).expand(2, 3, 3).contiguous()


def packed_as(kind, scene):
    if kind == "palette":
        g = torch.Generator().manual_seed(5)
        indices = torch.randint(0, 40_000, (len(scene[0]),), generator=g)
        codewords = 0.1 * torch.randn(40_000, scene[4].shape[1] - 1, 3, generator=g)
        return pack(*scene, palette=(codewords, indices))
    return pack(*scene, half=kind == "half")


@pytest.mark.parametrize("kind", FORMATS)
def test_rounding_stays_within_half_a_step(kind):
    scene = make_scene()
    packed = packed_as(kind, scene)
    assert packed.format == kind
    means, quats, scales, opacities, colors = packed.unpack()
    steps = packed.blocks[:, 3:6].repeat_interleave(256, 0)[: len(means)]
    assert ((means - scene[0]).abs() <= 0.5001 * steps + 1e-6).all()
    unit = torch.nn.functional.normalize(scene[1], dim=1)
    assert ((quats * unit).sum(1).abs() > 1 - 1e-5).all()
    assert ((scales.log() - scene[2].log()).abs() <= 0.51 * packed.blocks[:, 7].max()).all()
    assert ((opacities - scene[3]).abs() <= 0.5001 / 255).all()
    torch.testing.assert_close(colors[:, 0], scene[4][:, 0], rtol=1e-3, atol=1e-4)
    if kind != "palette":
        assert (colors[:, 1:] - scene[4][:, 1:]).abs().max() < 0.01


def test_a_third_of_the_memory_or_less():
    scene = make_scene(5000)
    floats = sum(t.numel() * 4 for t in scene)
    assert packed_as("int8", scene).size < floats / 3.4
    assert packed_as("half", scene).size < floats / 2


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGB+D", "D"])
def test_the_kernels_read_what_unpack_makes(emulate, monkeypatch, kind, mode):
    packed = packed_as(kind, make_scene())
    options = RasterOptions(
        sh_degree=3, render_mode=mode, backgrounds=torch.tensor([0.1, 0.2, 0.3])
    )
    want, alpha, _ = rasterize(*packed.unpack(), *make_cameras(), WIDTH, HEIGHT, options)
    assert alpha.mean() > 0.3
    whole, _ = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT, options)
    assert torch.equal(whole, want)
    backend = Backend(emulate())
    monkeypatch.setattr(packed_module, "backend_of", lambda device: backend)
    got, got_alpha = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT, options)
    assert (got - want).abs().mean() < 2e-6 * (4 if "D" in mode else 1)
    assert (got_alpha - alpha).abs().mean() < 2e-6


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bases", [1, 4, 9, 25])
def test_any_number_of_bases(emulate, monkeypatch, kind, bases):
    packed = packed_as(kind, make_scene(60, bases=bases))
    want, _ = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT)
    backend = Backend(emulate())
    monkeypatch.setattr(packed_module, "backend_of", lambda device: backend)
    got, _ = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT)
    assert (got - want).abs().mean() < 2e-6


@pytest.mark.parametrize("degree", [0, 1, 2, 3, None])
def test_lower_degrees_may_be_asked_for(emulate, monkeypatch, degree):
    packed = pack(*make_scene(60))
    options = RasterOptions(sh_degree=degree)
    want, _ = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT, options)
    backend = Backend(emulate())
    monkeypatch.setattr(packed_module, "backend_of", lambda device: backend)
    got, _ = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT, options)
    assert (got - want).abs().mean() < 2e-6
    if degree == 3:
        with pytest.raises(ValueError, match="sh_degree: expected at most"):
            rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT, RasterOptions(sh_degree=4))


@pytest.mark.parametrize("n", [0, 1, 256, 257])
def test_few_gaussians(n):
    packed = pack(*make_scene(n))
    assert len(packed.blocks) == -(-n // 256)
    assert [len(t) for t in packed.unpack()] == [n] * 5
    image, _ = rasterize_packed(packed, *make_cameras(), WIDTH, HEIGHT)
    assert image.shape == (2, HEIGHT, WIDTH, 3)


def test_gaussians_that_are_all_the_same():
    means, quats, scales, opacities, colors = (part[:1].repeat(300, *[1] * (part.ndim - 1))
                                               for part in make_scene(1))  # fmt: skip
    packed = pack(means, quats, scales, opacities, torch.zeros_like(colors))
    got = packed.unpack()
    torch.testing.assert_close(got[0], means)
    torch.testing.assert_close(got[2], scales, rtol=5e-3, atol=0)  # One range for three axes.
    assert not got[4].any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s[0].fill_(math.nan), "means: expected finite"),
        (lambda s: s[2].zero_(), "scales: expected positive"),
        (lambda s: s.__setitem__(1, s[1][:5]), "quats: expected shape"),
        (lambda s: s.__setitem__(4, s[4].double()), "colors: expected float32"),
    ],
)
def test_bad_arguments_end_in_one_line(spoil, message):
    scene = list(make_scene(10))
    spoil(scene)
    with pytest.raises(ValueError, match=message):
        pack(*scene)


def test_indices_beyond_the_palette_are_refused():
    scene = make_scene(10)
    for indices in (torch.full((10,), 3), torch.full((10,), -1), torch.zeros(9, dtype=torch.long)):
        with pytest.raises(ValueError, match="palette: expected 10 indices below 3"):
            pack(*scene, palette=(torch.zeros(3, 15, 3), indices))
