"""Per-Gaussian statistics against the twin, and the sums they must add up to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.render import _native, _reference
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.statistics import statistics

WIDTH, HEIGHT = 45, 39
FIELDS = ("hits", "opacity_hits", "weight", "weight_sq", "max_weight")


def make_scene(n=500, seed=0, size=-2.2):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g)
    quats = torch.randn(n, 4, generator=g)
    scales = (0.8 * torch.randn(n, 3, generator=g) + size).exp()
    return means, quats, scales, torch.rand(n, generator=g)


def make_cameras(count=3, width=WIDTH, height=HEIGHT):
    views = torch.zeros(count, 4, 4)
    for i in range(count):
        c, s = math.cos(0.9 * i), math.sin(0.9 * i)
        rows = [[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 3.5], [0, 0, 0, 1]]
        views[i] = torch.tensor(rows)
    K = [[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]]
    return views, torch.tensor(K).expand(count, 3, 3).contiguous()


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("isa", _native.available_isas())
def test_parity_with_the_twin(mode, isa):
    scene, cameras = make_scene(), make_cameras()
    options = RasterOptions(rasterize_mode=mode)
    usual = _native.isa()
    try:
        _native.set_isa(isa)
        ours = statistics(*scene, *cameras, WIDTH, HEIGHT, options)
    finally:
        _native.set_isa(usual)
    doubles = [part.double() for part in (*scene, *cameras)]
    truth = _reference.statistics(*doubles, WIDTH, HEIGHT, options)
    assert truth.hits.sum() > 10_000
    # A cutoff that flips moves one hit; it may not move many.
    assert (ours.hits - truth.hits).abs().sum() <= 1e-4 * truth.hits.sum()
    for name in FIELDS[1:]:
        got, want = getattr(ours, name), getattr(truth, name)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-4, atol=4e-3)
    assert (ours.weight - truth.weight).abs().sum() <= 1e-5 * truth.weight.sum()


def test_weights_add_up_to_alpha_and_colour():
    scene, cameras = make_scene(), make_cameras()
    sums = statistics(*scene, *cameras, WIDTH, HEIGHT)
    color = torch.rand(500, 1, generator=torch.Generator().manual_seed(1))
    image, alpha, _ = rasterize(*scene, color, *cameras, WIDTH, HEIGHT)
    assert sums.weight.sum().item() == pytest.approx(alpha.double().sum().item(), rel=1e-5)
    total = (sums.weight * color[:, 0]).sum().item()
    assert total == pytest.approx(image.double().sum().item(), rel=1e-5)


def test_laws_of_each_gaussian():
    scene, cameras = make_scene(), make_cameras()
    sums = statistics(*scene, *cameras, WIDTH, HEIGHT)
    assert (sums.weight <= sums.hits * sums.max_weight.double() * (1 + 1e-5)).all()
    assert (sums.weight**2 <= sums.hits * sums.weight_sq * (1 + 1e-5)).all()
    assert ((sums.hits > 0) == (sums.max_weight > 0)).all()
    torch.testing.assert_close(
        sums.opacity_hits, sums.hits * scene[3].double(), rtol=1e-6, atol=1e-9
    )
    assert (sums.max_weight <= 0.99).all()


def test_cameras_add_up():
    scene, (views, Ks) = make_scene(), make_cameras()
    whole = statistics(*scene, views, Ks, WIDTH, HEIGHT)
    parts = [statistics(*scene, views[i : i + 1], Ks[i : i + 1], WIDTH, HEIGHT) for i in range(3)]
    for name in FIELDS[:4]:
        torch.testing.assert_close(getattr(whole, name), sum(getattr(p, name) for p in parts))
    peaks = torch.stack([p.max_weight for p in parts])
    assert torch.equal(whole.max_weight, peaks.amax(0))


def test_threads_change_no_bit():
    scene, cameras = make_scene(40_000, size=-3.5), make_cameras(2, 200, 150)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(statistics(*scene, *cameras, 200, 150))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_what_lies_behind_a_wall_is_not_hit():
    views, Ks = make_cameras(1)
    walls = 12
    means = torch.zeros(walls + 1, 3)
    means[:walls, 2] = -1.0
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(walls + 1, 4)
    scene = (means, quats, torch.full((walls + 1, 3), 20.0), torch.full((walls + 1,), 0.95))
    sums = statistics(*scene, views, Ks, WIDTH, HEIGHT)
    # (1 - 0.95)^3 = 1.25e-4 is above the threshold, the fourth falls to 6e-6: it is left out.
    assert (sums.hits[:3] == WIDTH * HEIGHT).all()
    assert (sums.hits[4:] == 0).all()
    assert sums.weight[-1] == 0


def test_nothing_to_measure():
    scene, cameras = make_scene(5), make_cameras()
    empty = statistics(*(part[:0] for part in scene), *cameras, WIDTH, HEIGHT)
    assert all(getattr(empty, name).shape == (0,) for name in FIELDS)
    unseen = statistics(*scene, *make_cameras(0), WIDTH, HEIGHT)
    assert not any(getattr(unseen, name).any() for name in FIELDS)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60))
def test_a_gaussian_without_hits_may_go(seed, n):
    scene, cameras = make_scene(n, seed), make_cameras(2)
    sums = statistics(*scene, *cameras, WIDTH, HEIGHT)
    color = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))
    keep = sums.hits > 0
    whole, _, _ = rasterize(*scene, color, *cameras, WIDTH, HEIGHT)
    fewer, _, _ = rasterize(*(p[keep] for p in (*scene, color)), *cameras, WIDTH, HEIGHT)
    assert torch.equal(whole, fewer)


def test_bad_arguments_end_in_one_line():
    scene, cameras = make_scene(5), make_cameras()
    with pytest.raises(ValueError, match="quats: expected shape"):
        statistics(scene[0], scene[1][:2], *scene[2:], *cameras, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="width: expected 1 to"):
        statistics(*scene, *cameras, 0, HEIGHT)


def test_lists_beyond_memory_are_refused():
    n = 130
    scene = (torch.zeros(n, 3), torch.ones(n, 4), torch.full((n, 3), 1e4), torch.full((n,), 0.9))
    views, Ks = make_cameras(1, 32768, 32768)
    with pytest.raises(ValueError, match="means: expected at most"):
        statistics(*scene, views, Ks, 32768, 32768)
