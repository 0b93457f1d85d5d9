"""The rasteriser against its twin in double precision, and the laws it must keep."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.render import _native, _reference
from fieldpress.render.sh import basis_count, sh_bases, sh_colors
from fieldpress.render.splat import RENDER_MODES, RasterOptions, rasterize

WIDTH, HEIGHT = 53, 37


def make_scene(n=600, seed=0, bases=16, size=-2.2):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g)
    quats = torch.randn(n, 4, generator=g)
    scales = (0.8 * torch.randn(n, 3, generator=g) + size).exp()
    opacities = torch.rand(n, generator=g)
    colors = 0.3 * torch.randn(n, bases, 3, generator=g)
    return means, quats, scales, opacities, colors


def make_cameras(count=2, width=WIDTH, height=HEIGHT):
    views = []
    for i in range(count):
        c, s = math.cos(0.7 * i), math.sin(0.7 * i)
        views.append([[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 3.5], [0, 0, 0, 1]])
    K = [[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]]
    views = torch.tensor(views, dtype=torch.float32).reshape(count, 4, 4)
    return views, torch.tensor(K).expand(count, 3, 3).contiguous()


def twin(scene, cameras, options, width=WIDTH, height=HEIGHT):
    doubles = [part.double() for part in (*scene, *cameras)]
    return _reference.rasterize(*doubles, width, height, options)


def assert_close(ours, truth, peak=1.0):
    error = (ours.double() - truth).abs().flatten() / peak
    assert error.mean() <= 2e-6
    assert error.quantile(0.999) <= 5e-5
    assert -10 * math.log10(float((error**2).mean()) + 1e-30) >= 90


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", RENDER_MODES)
def test_parity_with_the_twin_in_every_mode(render_mode, rasterize_mode):
    scene, cameras = make_scene(), make_cameras()
    options = RasterOptions(sh_degree=3, render_mode=render_mode, rasterize_mode=rasterize_mode)
    image, alpha, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
    truth, truth_alpha, _ = twin(scene, cameras, options)
    assert image.shape == truth.shape
    assert alpha.shape == (2, HEIGHT, WIDTH, 1)
    assert 0.3 < truth_alpha.mean() < 0.999
    # Depth counts in world units of which a pixel holds about four.
    scale = 4.0 if options.has_depth else 1.0
    if render_mode.endswith("ED"):  # Where alpha vanishes, a cutoff that flips is divided by it.
        solid = (truth_alpha > 0.05) & (alpha > 0.05)
        image, truth = image * solid, truth * solid
    assert_close(image, truth, scale)
    assert_close(alpha, truth_alpha)


def test_antialiasing_and_its_floor_change_the_picture():
    scene, cameras = make_scene(size=-4.5), make_cameras()
    classic = RasterOptions(sh_degree=3)
    mip = replace(classic, rasterize_mode="antialiased")
    old = replace(mip, compensation_floor=0.0)
    pictures = [rasterize(*scene, *cameras, WIDTH, HEIGHT, o)[1] for o in (classic, mip, old)]
    assert (pictures[0] - pictures[1]).abs().max() > 0.05
    assert_close(pictures[2], twin(scene, cameras, old)[1])


@pytest.mark.parametrize("degree", range(5))
def test_parity_at_every_sh_degree_even_with_spare_bases(degree):
    scene = make_scene(300, bases=25)
    options = RasterOptions(sh_degree=degree)
    for bases in {basis_count(degree), 25}:
        part = (*scene[:4], scene[4][:, :bases].contiguous())
        image, _, _ = rasterize(*part, *make_cameras(), WIDTH, HEIGHT, options)
        assert_close(image, twin(part, make_cameras(), options)[0])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17, 32])
@pytest.mark.parametrize("per_camera", [False, True])
def test_parity_with_any_number_of_channels(channels, per_camera):
    scene, cameras = make_scene(300), make_cameras()
    shape = (2, 300, channels) if per_camera else (300, channels)
    colors = torch.rand(*shape, generator=torch.Generator().manual_seed(channels))
    scene = (*scene[:4], colors)
    for mode in ("RGB", "RGB+D"):
        options = RasterOptions(render_mode=mode)
        image, _, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
        assert image.shape[-1] == channels + (mode == "RGB+D")
        assert_close(image, twin(scene, cameras, options)[0], 4.0)


@pytest.mark.parametrize("per_camera", [False, True])
def test_backgrounds_stand_behind_colour_and_not_behind_depth(per_camera):
    scene, cameras = make_scene(60), make_cameras()
    back = torch.tensor([[0.2, 0.5, 0.9], [0.7, 0.1, 0.0]])
    back = back if per_camera else back[0]
    options = RasterOptions(sh_degree=3, backgrounds=back, render_mode="RGB+D")
    image, alpha, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
    bare, _, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, replace(options, backgrounds=None))
    full = back[:, None, None, :] if per_camera else back
    assert alpha.min() < 0.01
    torch.testing.assert_close(image[..., :3], bare[..., :3] + (1 - alpha) * full)
    assert torch.equal(image[..., 3], bare[..., 3])
    assert_close(image, twin(scene, cameras, options)[0], 4.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (16, 16), (17, 33), (130, 3)])
def test_odd_image_sizes(size):
    scene, cameras = make_scene(200), make_cameras(1, *size)
    options = RasterOptions(sh_degree=3)
    image, _, _ = rasterize(*scene, *cameras, *size, options)
    assert_close(image, twin(scene, cameras, options, *size)[0])


def test_nothing_to_draw_and_nobody_to_see_it():
    scene, cameras = make_scene(5), make_cameras()
    empty = tuple(part[:0] for part in scene)
    back = torch.tensor([0.25, 0.5, 1.0])
    options = RasterOptions(sh_degree=3, backgrounds=back, details=True)
    image, alpha, meta = rasterize(*empty, *cameras, WIDTH, HEIGHT, options)
    assert torch.equal(image, back.expand(2, HEIGHT, WIDTH, 3))
    assert not alpha.any()
    assert meta["radii"].shape == (2, 0, 2)
    image, alpha, _ = rasterize(*scene, *make_cameras(0), WIDTH, HEIGHT, options)
    assert image.shape == (0, HEIGHT, WIDTH, 3)
    assert alpha.shape == (0, HEIGHT, WIDTH, 1)


def one_splat(mean=(0.0, 0.0, 0.0), scale=(0.1, 0.1, 0.1), opacity=0.8, quat=(1.0, 0, 0, 0)):
    return (
        torch.tensor([mean]), torch.tensor([quat]), torch.tensor([scale]),
        torch.tensor([opacity]), torch.ones(1, 3),
    )  # fmt: skip


def test_one_splat_peaks_at_its_opacity_and_clamps():
    views, _ = make_cameras(1)
    views[0, :3, :3], views[0, :3, 3] = torch.eye(3), torch.tensor([0.0, 0.0, 4.0])
    Ks = torch.tensor([[[60.0, 0, 20.5], [0, 60.0, 10.5], [0, 0, 1]]])
    for opacity, clamp, peak in ((0.8, 0.99, 0.8), (1.0, 0.99, 0.99), (1.0, 0.999, 0.999)):
        options = RasterOptions(alpha_clamp=clamp)
        _, alpha, _ = rasterize(*one_splat(opacity=opacity), views, Ks, 41, 21, options)
        assert alpha[0, 10, 20, 0].item() == pytest.approx(peak, abs=1e-5)
        assert alpha.max() == alpha[0, 10, 20, 0]
        torch.testing.assert_close(alpha, alpha.flip(2))


@pytest.mark.parametrize(
    ("name", "splat", "seen"),
    [
        ("behind", one_splat(mean=(0.0, 0.0, -5.0)), False),
        ("before the near plane", one_splat(mean=(0.0, 0.0, -3.495)), False),
        ("aside", one_splat(mean=(40.0, 0.0, 0.0)), False),
        ("faint", one_splat(opacity=0.0039), False),
        ("just visible", one_splat(opacity=0.0041, scale=(0.5, 0.5, 0.5)), True),
        ("huge", one_splat(scale=(300.0, 300.0, 300.0)), True),
        ("enormous", one_splat(scale=(3e6, 3e6, 3e6)), True),
        ("huge and far aside", one_splat(mean=(900.0, 0.0, 0.0), scale=(400.0,) * 3), True),
        ("needle", one_splat(scale=(20.0, 1e-4, 1e-4), quat=(0.9, 0.1, 0.2, 0.37)), True),
        ("disc", one_splat(scale=(1.0, 1.0, 0.0)), True),
        ("point", one_splat(scale=(0.0, 0.0, 0.0)), True),
        ("in the corner of the eye", one_splat(mean=(9.0, 0.0, -3.0), scale=(3.0,) * 3), True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_culling_and_extremes(name, splat, seen):
    cameras, options = make_cameras(1), RasterOptions()
    image, alpha, _ = rasterize(*splat, *cameras, WIDTH, HEIGHT, options)
    truth, truth_alpha, _ = twin(splat, cameras, options)
    assert bool((truth_alpha > 0).any()) == seen
    assert bool((alpha > 0).any()) == seen
    assert_close(image, truth)


def test_near_far_and_radius_clip_leave_out_what_they_name():
    scene, cameras = make_scene(400), make_cameras()
    for options in (
        RasterOptions(sh_degree=3, near_plane=3.0, far_plane=4.5),
        RasterOptions(sh_degree=3, radius_clip=6.5),
    ):
        image, _, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
        whole, _, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, RasterOptions(sh_degree=3))
        assert (image - whole).abs().max() > 0.05
        assert_close(image, twin(scene, cameras, options)[0])


@settings(max_examples=30, deadline=None)
@given(
    field=st.integers(0, 4),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    seed=st.integers(0, 1000),
)
def test_numbers_that_are_none_drop_their_gaussian_only(field, value, seed):
    scene, cameras = make_scene(40, seed), make_cameras(1)
    options = RasterOptions(sh_degree=3)
    parts = [part.clone() for part in scene]
    row = parts[field][seed % 40].reshape(-1)
    row[seed % len(row)] = value
    image, alpha, _ = rasterize(*parts, *cameras, WIDTH, HEIGHT, options)
    others = torch.arange(40) != seed % 40
    want, _, _ = rasterize(*(p[others] for p in scene), *cameras, WIDTH, HEIGHT, options)
    assert torch.isfinite(image).all()
    assert torch.isfinite(alpha).all()
    assert torch.equal(image, want)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-30, 30))
def test_wild_magnitudes_end_in_finite_pixels(seed, exponent):
    g = torch.Generator().manual_seed(seed)

    def wild(width):
        powers = 10.0 ** (exponent * torch.rand(50, 1, generator=g))
        return torch.randn(50, width, generator=g) * powers

    scene = (wild(3), wild(4), wild(3).abs(), torch.rand(50, generator=g), wild(3))
    scene[4].clamp_(-1e6, 1e6)
    image, alpha, _ = rasterize(*scene, *make_cameras(1), WIDTH, HEIGHT)
    assert torch.isfinite(image).all()
    assert ((alpha >= 0) & (alpha <= 1)).all()


def test_far_from_the_origin_the_picture_stays():
    scene, (views, Ks) = make_scene(300), make_cameras()
    shift = torch.tensor([4096.0, -8192.0, 2048.0])
    scene = (scene[0].mul(64).round().div(64), *scene[1:])  # So that the shifted means are exact.
    moved = views.double()
    moved[:, :3, 3] -= (moved[:, :3, :3] @ shift.double()[:, None])[..., 0]
    options = RasterOptions(sh_degree=3)
    near, _, _ = rasterize(*scene, views, Ks, WIDTH, HEIGHT, options)
    far, _, _ = rasterize(scene[0] + shift, *scene[1:], moved.float(), Ks, WIDTH, HEIGHT, options)
    assert (near - far).abs().mean() < 2e-3


@pytest.mark.parametrize("isa", _native.available_isas())
def test_every_instruction_set_within_tolerance(isa):
    scene, cameras = make_scene(), make_cameras()
    usual = _native.isa()
    try:
        _native.set_isa(isa)
        assert _native.isa() == isa
        for options in (
            RasterOptions(sh_degree=3),
            RasterOptions(sh_degree=2, render_mode="RGB+D"),
        ):
            image, _, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
            assert_close(image, twin(scene, cameras, options)[0], 4.0)
    finally:
        _native.set_isa(usual)
    with pytest.raises(ValueError, match="isa"):
        _native.set_isa("abacus")


def test_threads_change_no_bit():
    scene, cameras = make_scene(40_000, size=-3.5), make_cameras(2, 200, 150)
    options = RasterOptions(sh_degree=3, render_mode="RGB+ED", details=True)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(rasterize(*scene, *cameras, 200, 150, options))
    for image, alpha, meta in results[1:]:
        assert torch.equal(image, results[0][0])
        assert torch.equal(alpha, results[0][1])
        assert torch.equal(meta["tiles_per_gauss"], results[0][2]["tiles_per_gauss"])


def test_details_are_gsplats_quantities():
    scene, cameras = make_scene(500), make_cameras(1)
    options = RasterOptions(sh_degree=3, details=True)
    _, _, meta = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
    doubles = [part.double() for part in (*scene[:4], *cameras)]
    p = _reference._project(*doubles[:4], doubles[4][0], doubles[5][0], WIDTH, HEIGHT, options)
    seen = meta["radii"][0, p.index, 0] > 0
    assert 100 < seen.sum() < 500
    index = p.index[seen]
    for name in ("means2d", "depths", "conics", "opacities"):
        want = getattr(p, name)[seen].float()
        torch.testing.assert_close(meta[name][0, index], want, rtol=1e-3, atol=1e-4)
    hidden = torch.ones(500, dtype=torch.bool)
    hidden[index] = False
    assert not meta["tiles_per_gauss"][0, hidden].any()


def test_order_is_by_depth_and_ties_keep_their_order():
    views, Ks = make_cameras(1)
    colors = torch.eye(3)
    means = torch.zeros(3, 3)
    scene = (
        means,
        torch.tensor([[1.0, 0, 0, 0]] * 3),
        torch.full((3, 3), 0.5),
        torch.full((3,), 0.9),
    )
    image, _, _ = rasterize(*scene, colors, views, Ks, WIDTH, HEIGHT)
    mean = image.mean((0, 1, 2))
    assert mean[0] > mean[1] > mean[2]
    means[2] = views[0, :3, :3].T @ torch.tensor([0.0, 0.0, -1.0])
    image, _, _ = rasterize(*scene, colors, views, Ks, WIDTH, HEIGHT)
    mean = image.mean((0, 1, 2))
    assert mean[2] > mean[0] > mean[1]


def test_spherical_harmonics_are_orthonormal():
    n = 200
    cosines, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(n))
    turns = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64)
    sines = (1 - cosines**2).sqrt()
    x, y = sines[:, None] * turns.cos(), sines[:, None] * turns.sin()
    bases = sh_bases(4, torch.stack([x, y, cosines[:, None].expand_as(x)], -1))
    gram = torch.einsum("i,ijk,ijl->kl", weights, bases, bases) * (2 * math.pi / 64)
    torch.testing.assert_close(gram, torch.eye(25, dtype=torch.float64), rtol=0, atol=1e-9)


def test_sh_colors_are_clamped_at_zero_from_below():
    up = torch.tensor([[0.0, 0.0, 1.0]])
    coefficients = torch.tensor([[[-9.0, 0.0, 1.0]]])
    color = sh_colors(0, up, coefficients)
    torch.testing.assert_close(color, torch.tensor([[0.0, 0.5, 0.5 + _native.SH_C0]]))
    with pytest.raises(ValueError, match="coefficients: expected 4"):
        sh_colors(1, up, coefficients)


def test_the_twin_has_gradients():
    scene = [part.double().requires_grad_() for part in make_scene(12, bases=4)]
    views, Ks = (part.double() for part in make_cameras(1, 6, 5))
    options = RasterOptions(sh_degree=1, render_mode="RGB+D")
    image, alpha, _ = _reference.rasterize(*scene, views, Ks, 6, 5, options)
    (image.sum() + alpha.sum()).backward()
    for part in scene:
        assert part.grad is not None
        assert torch.isfinite(part.grad).all()
        assert part.grad.abs().sum() > 0


def test_inputs_stay_as_they_are_and_need_not_be_contiguous():
    scene, cameras = make_scene(100), make_cameras()
    before = [part.clone() for part in scene]
    options = RasterOptions(sh_degree=3)
    image, _, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, options)
    assert all(torch.equal(a, b) for a, b in zip(scene, before, strict=True))
    loose = [torch.stack([part, part], -1)[..., 0] for part in scene]
    assert not loose[0].is_contiguous()
    again, _, _ = rasterize(*loose, *cameras, WIDTH, HEIGHT, options)
    assert torch.equal(image, again)
