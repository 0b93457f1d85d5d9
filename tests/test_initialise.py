"""What a fit starts from."""

import math

import pytest
import torch

from fieldpress.gaussians import initialise
from fieldpress.gaussians.initialise import (
    focus_distance,
    from_points,
    neighbour_distance,
    random_points,
)
from fieldpress.gaussians.unpack import SH_C0
from fieldpress.scenes.orbit import orbit


def ring(count=8, radius=4.0):
    return orbit([1.0, 2.0, 0.5], radius, count, width=48, height=32, up=[0.0, 1.0, 0.0])


def test_a_gaussian_stands_on_every_finite_point():
    points = torch.rand(50, 3)
    points[7, 1] = torch.nan
    colors = torch.rand(50, 3)
    model = from_points(points, colors, sh_degree=2, opacity=0.3)
    kept = torch.isfinite(points).all(1)
    assert torch.equal(model.means, points[kept])
    assert model.sh_degree == 2
    assert not model.shN.any()
    torch.testing.assert_close(model.sh0[:, 0] * SH_C0 + 0.5, colors[kept])
    torch.testing.assert_close(model.opacities.sigmoid(), torch.full((49,), 0.3))


def test_scales_are_the_distance_to_three_neighbours():
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(1))
    found = neighbour_distance(points, torch.Generator().manual_seed(0))
    for i in range(len(points)):
        others = torch.cat([points[:i], points[i + 1 :]])
        nearest = (others - points[i]).norm(dim=1).sort().values[:3]
        expected = min(math.sqrt(float(nearest.square().mean())), 0.1 * math.sqrt(3))
        assert float(found[i]) == pytest.approx(expected, rel=0.2)
        if expected < 0.15:
            assert float(found[i]) == pytest.approx(expected, rel=1e-3)


def test_a_thinned_search_finds_about_the_same_distances(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    flat = torch.rand(4000, 3, generator=generator)
    flat[:, 2] = 0  # A surface, as scanned points lie on.
    exact = neighbour_distance(flat, generator).median()
    monkeypatch.setattr(initialise, "EXACT_NEIGHBOURS", 1000)
    thinned = neighbour_distance(flat, generator).median()
    assert float(thinned / exact) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_points_have_a_size(count):
    model = from_points(torch.ones(count, 3), None)
    assert len(model) == count
    assert torch.isfinite(model.scales).all()


def test_no_finite_point_is_refused():
    with pytest.raises(ValueError, match="finite"):
        from_points(torch.full((3, 3), torch.inf), None)


def test_a_budget_thins_and_a_seed_repeats():
    points = torch.rand(100, 3)
    one, two = (from_points(points, None, budget=30, seed=5) for _ in range(2))
    assert len(one) == 30
    assert torch.equal(one.means, two.means)
    assert not torch.equal(one.means, from_points(points, None, budget=30, seed=6).means)


def test_random_points_lie_in_front_of_a_camera_that_sees_them():
    cameras = ring()
    points, colors = random_points(cameras, 500)
    seen = torch.zeros(500, dtype=torch.bool)
    for view, K in zip(cameras.viewmats, cameras.Ks, strict=True):
        at = points @ view[:3, :3].T + view[:3, 3]
        pixel = (at @ K.T)[:, :2] / at[:, 2:]
        inside = (pixel >= 0).all(1) & (pixel[:, 0] <= 48) & (pixel[:, 1] <= 32)
        seen |= inside & (at[:, 2] > 0)
    assert seen.all()
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert torch.equal(points, random_points(cameras, 500)[0])


def test_the_focus_of_a_ring_is_its_middle():
    distance = focus_distance(ring(radius=4.0))
    torch.testing.assert_close(distance, torch.full((8,), 4.0), rtol=1e-3, atol=1e-3)


def test_parallel_axes_have_a_focus_in_front():
    one = ring(1)
    many = one[[0, 0, 0]]
    moved = many.viewmats.clone()
    moved[:, 0, 3] += torch.tensor([0.0, 0.5, 1.0])
    many = type(one)(moved, many.Ks, many.width, many.height)
    assert (focus_distance(many) > 0).all()
    assert torch.isfinite(focus_distance(many)).all()
