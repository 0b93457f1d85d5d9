"""Gradients of the rasteriser against double autograd of its twin, and the laws they must keep."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from fieldpress.render import _native, _reference
from fieldpress.render.sh import basis_count
from fieldpress.render.splat import RENDER_MODES, RasterOptions, rasterize

WIDTH, HEIGHT = 45, 35
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


def make_scene(n=300, seed=0, bases=16, size=-2.0):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g)
    quats = torch.randn(n, 4, generator=g) * (1 + torch.rand(n, 1, generator=g))
    scales = (0.8 * torch.randn(n, 3, generator=g) + size).exp()
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g)
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


def gradients(
    draw, scene, cameras, options, size=(WIDTH, HEIGHT), dtype=torch.float32
) -> dict[str, Any]:
    """Of a fixed random linear form of image and alpha, by name; None where there is none."""
    views, Ks = cameras
    leaves = [part.to(dtype, copy=True).requires_grad_() for part in (*scene, views)]
    back = options.backgrounds
    if back is not None:
        back = back.to(dtype, copy=True).requires_grad_()
        options = replace(options, backgrounds=back)
    image, alpha, _ = draw(*leaves, Ks.to(dtype), *size, options)
    g = torch.Generator().manual_seed(7)
    forms = [torch.randn(t.shape, generator=g).to(dtype) for t in (image, alpha)]
    torch.autograd.backward([image, alpha], forms)
    grads = [leaf.grad for leaf in leaves]
    return dict(zip(NAMES, [*grads, None if back is None else back.grad], strict=True))


def ours(scene, cameras, options, size=(WIDTH, HEIGHT)):
    return gradients(rasterize, scene, cameras, options, size)


def assert_parity(scene, cameras, options, size=(WIDTH, HEIGHT)):
    got = ours(scene, cameras, options, size)
    want = gradients(_reference.rasterize, scene, cameras, options, size, torch.float64)
    for name in NAMES:
        assert (got[name] is None) == (want[name] is None), name
        if got[name] is not None:
            assert_close(got[name].double(), want[name], name)
    return got


def assert_close(got, want, name, limit=1e-4):
    assert torch.isfinite(got).all(), name
    assert want.norm() > 0, name
    assert (got - want).norm() <= limit * want.norm(), name
    cosine = torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0)
    assert cosine >= 0.99999, name


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", RENDER_MODES)
def test_parity_in_every_mode(render_mode, rasterize_mode):
    options = RasterOptions(sh_degree=2, render_mode=render_mode, rasterize_mode=rasterize_mode)
    options = replace(options, backgrounds=torch.tensor([0.3, 0.6, 0.1]))
    got = assert_parity(make_scene(size=-2.5), make_cameras(), options)
    assert (got["colors"] is not None) == options.has_color
    assert not got["viewmats"][:, 3].any()


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_parity_where_the_compensation_is_at_its_floor(floor):
    options = RasterOptions(sh_degree=0, rasterize_mode="antialiased", compensation_floor=floor)
    assert_parity(make_scene(size=-4.0), make_cameras(), options)


@pytest.mark.parametrize("degree", range(5))
def test_parity_at_every_sh_degree(degree):
    scene = make_scene(150, bases=25)
    options = RasterOptions(sh_degree=degree)
    used = basis_count(degree)
    part = (*scene[:4], scene[4][:, :used].contiguous())
    assert_parity(part, make_cameras(1), options)
    assert not ours(scene, make_cameras(1), options)["colors"][:, used:].any()


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 32])
@pytest.mark.parametrize("per_camera", [False, True])
def test_parity_with_any_number_of_channels(channels, per_camera):
    g = torch.Generator().manual_seed(channels)
    shape = (2, 200, channels) if per_camera else (200, channels)
    scene = (*make_scene(200)[:4], torch.rand(*shape, generator=g))
    for mode in ("RGB", "RGB+ED"):
        back = torch.rand(channels, generator=g)
        assert_parity(scene, make_cameras(), RasterOptions(render_mode=mode, backgrounds=back))


@pytest.mark.parametrize("per_camera", [False, True])
def test_backgrounds_have_gradients(per_camera):
    back = torch.tensor([[0.2, 0.5, 0.9], [0.7, 0.1, 0.0]])
    options = RasterOptions(sh_degree=1, backgrounds=back if per_camera else back[0])
    got = assert_parity(make_scene(60), make_cameras(), options)
    assert got["backgrounds"].shape == ((2, 3) if per_camera else (3,))


def test_no_gradient_passes_the_alpha_clamp():
    scene = list(make_scene(30, size=-1.2))
    scene[3] = torch.ones(30)
    for clamp in (0.5, 0.99, 1.0):
        assert_parity(scene, make_cameras(1), RasterOptions(sh_degree=1, alpha_clamp=clamp))


def test_rays_that_end_leave_later_splats_without_gradient():
    scene, cameras = list(make_scene(400, size=-0.5)), make_cameras(1)
    scene[3] = torch.full((400,), 0.9)
    got = assert_parity(scene, cameras, RasterOptions(sh_degree=1))
    _, alpha, _ = rasterize(*scene, *cameras, WIDTH, HEIGHT, RasterOptions(sh_degree=1))
    assert alpha.min() > 0.999
    hidden = (got["opacities"] == 0).sum()
    assert 100 < hidden < 400


def test_splats_beside_the_picture_and_close_by():
    """Outside the frustum the Jacobian's slope is clamped, and has no gradient there."""
    scene = list(make_scene(200, size=-0.7))
    scene[0] = scene[0] * torch.tensor([3.5, 2.5, 1.2])
    assert_parity(scene, make_cameras(), RasterOptions(sh_degree=1, near_plane=0.3))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (16, 16), (17, 33)])
def test_odd_image_sizes(size):
    assert_parity(make_scene(200), make_cameras(1, *size), RasterOptions(sh_degree=1), size)


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("channels", [3, 6])
def test_parity_with_every_instruction_set(isa, channels):
    scene = (
        *make_scene()[:4],
        torch.rand(300, channels, generator=torch.Generator().manual_seed(1)),
    )
    usual = _native.isa()
    try:
        _native.set_isa(isa)
        assert_parity(scene, make_cameras(1), RasterOptions(render_mode="RGB+D"))
        assert_parity(make_scene(), make_cameras(1), RasterOptions(sh_degree=3))
    finally:
        _native.set_isa(usual)


def test_threads_change_no_bit():
    scene, cameras = make_scene(6_000, size=-3.0), make_cameras(2, 130, 90)
    back = torch.tensor([0.1, 0.2, 0.3])
    options = RasterOptions(sh_degree=3, render_mode="RGB+D", backgrounds=back)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ours(scene, cameras, options, (130, 90)))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in NAMES)


def test_a_second_backward_pass_makes_the_frames_again():
    scene, cameras = make_scene(100), make_cameras()
    leaves = [part.clone().requires_grad_() for part in scene]
    image, _, meta = rasterize(*leaves, *cameras, WIDTH, HEIGHT, RasterOptions(sh_degree=3))
    once = torch.autograd.grad(image.square().sum(), leaves, retain_graph=True)
    assert meta["seconds"]["backward_unblend"] > 0
    twice = torch.autograd.grad(image.square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_gradients_of_several_cameras_are_the_sum_of_each():
    scene, (views, Ks) = make_scene(), make_cameras(3)
    leaves = [part.clone().requires_grad_() for part in scene]
    options = RasterOptions(sh_degree=3)
    g = torch.randn(3, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3))
    image, _, _ = rasterize(*leaves, views, Ks, WIDTH, HEIGHT, options)
    together = torch.autograd.grad(image, leaves, g)
    for c in range(3):
        image, _, _ = rasterize(*leaves, views[c : c + 1], Ks[c : c + 1], WIDTH, HEIGHT, options)
        image.backward(g[c : c + 1])
    for leaf, sum_of_all in zip(leaves, together, strict=True):
        torch.testing.assert_close(leaf.grad, sum_of_all, rtol=1e-4, atol=1e-4)


def test_only_what_asks_gets_a_gradient():
    scene, (views, Ks) = make_scene(50), make_cameras()
    options = RasterOptions(sh_degree=3)
    whole = ours(scene, (views, Ks), options)
    for i, name in enumerate(NAMES[:6]):
        parts = [part.clone() for part in (*scene, views)]
        parts[i].requires_grad_()
        image, alpha, _ = rasterize(*parts, Ks, WIDTH, HEIGHT, options)
        g = torch.Generator().manual_seed(7)
        forms = [torch.randn(t.shape, generator=g) for t in (image, alpha)]
        torch.autograd.backward([image, alpha], forms)
        assert torch.equal(parts[i].grad, whole[name])
        assert all(part.grad is None for k, part in enumerate(parts) if k != i)
    image, alpha, _ = rasterize(*scene, views, Ks, WIDTH, HEIGHT, options)
    assert not image.requires_grad
    with torch.no_grad():
        parts = [part.clone().requires_grad_() for part in scene]
        again, _, _ = rasterize(*parts, views, Ks, WIDTH, HEIGHT, options)
    assert torch.equal(image, again)
    assert not again.requires_grad


def test_image_alone_and_alpha_alone():
    scene, cameras = make_scene(50), make_cameras(1)
    parts = [part.clone().requires_grad_() for part in scene]
    image, alpha, _ = rasterize(*parts, *cameras, WIDTH, HEIGHT, RasterOptions(sh_degree=3))
    first = torch.autograd.grad(image.sum(), parts, retain_graph=True)
    second = torch.autograd.grad(alpha.sum(), parts, retain_graph=True)
    both = torch.autograd.grad(image.sum() + alpha.sum(), parts)
    assert not second[4].any()
    for a, b, c in zip(first, second, both, strict=True):
        torch.testing.assert_close(a + b, c, rtol=1e-4, atol=1e-4)


def test_no_gaussians_no_cameras_nothing_seen():
    scene, cameras = make_scene(5), make_cameras()
    back = torch.tensor([0.25, 0.5, 1.0])
    options = RasterOptions(sh_degree=3, backgrounds=back)
    empty = ours(tuple(part[:0] for part in scene), cameras, options)
    assert empty["means"].shape == (0, 3)
    assert not empty["viewmats"].any()
    assert empty["backgrounds"].any()
    nobody = ours(scene, make_cameras(0), options)
    behind = ours((scene[0] - 100, *scene[1:]), cameras, options)
    for name in NAMES[:5]:
        assert not nobody[name].any()
        assert not behind[name].any()
    assert_parity(tuple(part[:1] * 0.3 for part in scene), cameras, options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", range(5))
def test_numbers_that_are_none_spoil_no_other_gaussian(field, value):
    scene, cameras = make_scene(40), make_cameras(1)
    options = RasterOptions(sh_degree=3)
    parts = [part.clone() for part in scene]
    parts[field][17].reshape(-1)[0] = value
    got = ours(parts, cameras, options)
    others = torch.arange(40) != 17
    want = ours(tuple(p[others] for p in scene), cameras, options)
    for name in NAMES[:5]:
        assert torch.equal(got[name][others], want[name])
        assert not got[name][17].any()


def test_points_discs_and_needles_have_finite_gradients():
    scene = list(make_scene(60, size=-1.0))
    scene[2][:20, 2] = 0.0
    scene[2][20:40, 1:] = 1e-4
    scene[2][40:50] = 0.0
    scene[2][50:] *= 1e3
    for mode in ("classic", "antialiased"):
        got = ours(scene, make_cameras(1), RasterOptions(sh_degree=3, rasterize_mode=mode))
        assert all(torch.isfinite(got[name]).all() for name in NAMES[:6])


def test_far_from_the_origin_the_pose_keeps_its_gradient():
    scene, (views, Ks) = make_scene(100), make_cameras(1)
    scene = (scene[0].mul(64).round().div(64) + 512.0, *scene[1:])
    views = views.clone()
    views[:, :3, 3] -= views[:, :3, :3] @ torch.full((3,), 512.0)
    options = RasterOptions(sh_degree=3)
    got = ours(scene, (views, Ks), options)
    want = gradients(_reference.rasterize, scene, (views, Ks), options, dtype=torch.float64)
    for name in NAMES[:6]:
        assert_close(got[name].double(), want[name], name, 1e-2)


def test_a_step_along_the_gradient_lowers_the_loss():
    scene, cameras = make_scene(100), make_cameras()
    options = RasterOptions(sh_degree=3)
    target = rasterize(*make_scene(100, seed=1), *cameras, WIDTH, HEIGHT, options)[0]
    leaves = [part.clone().requires_grad_() for part in scene]
    losses = []
    for _ in range(5):
        image, _, _ = rasterize(*leaves, *cameras, WIDTH, HEIGHT, options)
        loss = (image - target).square().mean()
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, leaves)
        norm = sum(float(g.square().sum()) for g in grads)
        with torch.no_grad():
            for leaf, g in zip(leaves, grads, strict=True):
                leaf -= 0.02 * losses[-1] / norm * g
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]


def test_gradients_of_gradients_are_refused():
    scene, cameras = make_scene(20), make_cameras(1)
    leaves = [part.clone().requires_grad_() for part in scene]
    image, _, _ = rasterize(*leaves, *cameras, WIDTH, HEIGHT, RasterOptions(sh_degree=3))
    grads = torch.autograd.grad(image.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grads[0].sum().backward()
