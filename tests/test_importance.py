"""Laws of importance: what it sums, what it leaves out, and the classes that follow from it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians import importance as rule
from fieldpress.gaussians.importance import importance, reference, to_classes
from fieldpress.render import _reference
from fieldpress.render.sh import sh_bases
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import look_at, pinhole

WIDTH, HEIGHT = 40, 32
UP = (0.0, -1.0, 0.0)


def around(*eyes, focal=None):
    """Cameras [C] at these places that look at the origin."""
    at = torch.tensor(eyes, dtype=torch.float64)
    views = look_at(at.numpy(), torch.zeros_like(at).numpy(), UP).float()
    Ks = pinhole(len(eyes), WIDTH, HEIGHT)
    if focal is not None:
        Ks[:, (0, 1), (0, 1)] = focal
    return Cameras(views, Ks, WIDTH, HEIGHT)


def ring(count, radius=4.0):
    turns = [2 * math.pi * (i + 0.3) / count for i in range(count)]
    return around(*[(radius * math.cos(t), 0.4, radius * math.sin(t)) for t in turns])


@pytest.fixture
def cloud(tiny_model):
    model = tiny_model(300, 2)
    return replace(model, means=0.6 * model.means)  # All of it in all of the views.


def joined(a, b):
    return Cameras(torch.cat([a.viewmats, b.viewmats]), torch.cat([a.Ks, b.Ks]), a.width, a.height)


def test_it_is_the_twins_sum_of_squared_blending_weights(cloud):
    views = ring(3)
    found = importance(cloud, views)
    means, quats, scales, opacities, _ = (x.double() for x in cloud.activated())
    truth = _reference.statistics(
        means, quats, scales, opacities, views.viewmats.double(), views.Ks.double(),
        WIDTH, HEIGHT, cloud.options(),
    )  # fmt: skip
    assert rule.covered(cloud.means, views).all()
    assert found.weight.dtype == found.mass.dtype == torch.float64
    assert truth.weight_sq.sum() > 100
    torch.testing.assert_close(found.weight, truth.weight_sq, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.mass, truth.weight, rtol=1e-3, atol=1e-4)


def test_views_add_up(cloud):
    views = ring(5)
    whole, *parts = (importance(cloud, v) for v in (views, views[:2], views[2:]))
    for name in ("weight", "mass"):
        one, two = (getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(whole, name), one + two, rtol=1e-12, atol=0)


def test_order_changes_nothing(cloud):
    views, order = ring(3), torch.randperm(len(cloud), generator=torch.Generator().manual_seed(5))
    found, turned = importance(cloud, views), importance(cloud[order], views)
    torch.testing.assert_close(turned.weight, found.weight[order], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(turned.mass, found.mass[order], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(turned.moments, found.moments, rtol=1e-5, atol=1e-6)


def test_threads_change_no_bit(tiny_model):
    model, views = tiny_model(5000, 1), ring(2)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(importance(model, views))
    torch.set_num_threads(1)
    for other in found[1:]:
        assert torch.equal(other.weight, found[0].weight)
        assert torch.equal(other.mass, found[0].mass)
        torch.testing.assert_close(other.moments, found[0].moments, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_seen_weighs_nothing(cloud):
    views = around((0.0, 0.0, -4.0))
    faint = cloud.opacities.clone()
    faint[:40] = -7.0  # alpha 0.0009, below 1/255
    wall = replace(
        cloud[:8],
        means=torch.tensor([[0.0, 0.0, -3.2 - 0.01 * i] for i in range(8)]),
        scales=torch.tensor([[3.0, 3.0, -5.0]]).repeat(8, 1),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(8, 1),
        opacities=torch.full((8,), 6.0),
    )
    found = importance(replace(cloud, opacities=faint), views)
    assert (found.weight[:40] == 0).all()
    assert (found.mass[:40] == 0).all()
    behind = {n: torch.cat([x, wall.tensors()[n]]) for n, x in cloud.tensors().items()}
    weight = importance(replace(cloud, **behind), views).weight
    assert (weight[: len(cloud)] == 0).all()
    assert weight[len(cloud) :].max() > 0


def test_outside_every_frustum_a_share_of_the_estimate_counts(cloud):
    views = ring(3)
    alone = importance(cloud, views)
    means = cloud.means.clone()
    means[::3] += torch.tensor([0.0, 50.0, 0.0])  # Far above what any view shows.
    model = replace(cloud, means=means)
    found = importance(model, views)
    guess = rule.estimate(model)
    known = torch.ones(len(model), dtype=torch.bool)
    known[::3] = False
    assert not rule.covered(model.means, views)[::3].any()
    for name in ("weight", "mass"):
        values = getattr(found, name)
        scale = (values[known] / guess[known])[values[known] > 0].median()
        torch.testing.assert_close(values[::3], rule.UNSEEN_SHARE * scale * guess[::3])
        # Fewer stand before them.
        assert (values[known] >= getattr(alone, name)[known] - 1e-4).all()


def test_moments_of_one_direction(tiny_model):
    model = replace(tiny_model(1, 3), means=torch.tensor([[0.2, -0.1, 0.3]]))
    eye = torch.tensor([1.5, 0.7, -3.0])
    moments = importance(model, around(tuple(eye.tolist()))).moments
    direction = torch.nn.functional.normalize(model.means[0] - eye, dim=0)
    bases = sh_bases(3, direction.double())[1:]
    expected = 4 * math.pi * bases[:, None] * bases[None]
    torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-5)


def test_moments_are_means_over_shares_of_each_gaussians_weight(cloud):
    views = joined(around((0.0, 0.0, -3.0)), around((5.0, 1.0, 3.0), (-7.0, 0.5, 1.0)))
    faint = cloud.opacities.clone()
    faint[::7] = -7.0  # Never seen: no directions at all.
    cloud = replace(cloud, opacities=faint)
    each = torch.stack([importance(cloud, views[c : c + 1]).weight for c in range(3)])
    total, counted = torch.zeros(8, 8, dtype=torch.float64), 0
    for i in range(len(cloud)):
        if each[:, i].sum() == 0:
            continue
        counted += 1
        for c in range(3):
            away = torch.nn.functional.normalize(cloud.means[i] - views.positions[c], dim=0)
            bases = sh_bases(2, away.double())[1:]
            total += each[c, i] / each[:, i].sum() * torch.outer(bases, bases)
    moments = importance(cloud, views).moments
    torch.testing.assert_close(moments, 4 * math.pi * total / counted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_moments_have_the_trace_of_the_identity(tiny_model, degree):
    """The addition theorem: the squares of one degree's bases sum to (2 l + 1) / (4 pi)."""
    moments = importance(tiny_model(150, degree), ring(3)).moments
    bases = (degree + 1) ** 2 - 1
    assert moments.shape == (bases, bases)
    assert torch.equal(moments, moments.T) or torch.allclose(moments, moments.T)
    assert float(moments.trace()) == pytest.approx(bases, rel=1e-5)
    assert float(torch.linalg.eigvalsh(moments).min()) > -1e-9


def test_moments_are_the_identity_if_all_directions_are_alike(tiny_model):
    model = replace(
        tiny_model(1, 2), means=torch.zeros(1, 3), scales=torch.full((1, 3), -2.0)
    )  # A ball, which weighs the same from everywhere.
    golden = math.pi * (3 - math.sqrt(5))
    eyes = []
    for i in range(400):
        y = 1 - 2 * (i + 0.5) / 400
        r = 4 * math.sqrt(1 - y * y)
        eyes.append((r * math.cos(golden * i), 4 * y, r * math.sin(golden * i)))
    moments = importance(model, around(*eyes)).moments
    torch.testing.assert_close(moments, torch.eye(8, dtype=torch.float64), rtol=0, atol=0.03)


def test_no_bases_no_moments(tiny_model):
    found = importance(tiny_model(20, 0), ring(2))
    assert found.moments.shape == (0, 0)
    assert found.weight.shape == found.mass.shape == (20,)


def test_the_estimate_knows_alpha_and_the_widest_section(cloud):
    base = rule.estimate(cloud)
    larger = rule.estimate(replace(cloud, scales=cloud.scales + math.log(2)))
    torch.testing.assert_close(larger, 4 * base, rtol=1e-5, atol=0)
    turned = replace(cloud, scales=cloud.scales.roll(1, 1), quats=cloud.quats.flip(0))
    torch.testing.assert_close(rule.estimate(turned), base)
    thin = cloud.scales.clone()
    thin[torch.arange(len(cloud)), thin.argmin(1)] -= 3  # Flatter: as wide as before.
    torch.testing.assert_close(rule.estimate(replace(cloud, scales=thin)), base)
    alpha = cloud.opacities.sigmoid().double()
    half = replace(cloud, opacities=(alpha / 2).logit().float())
    torch.testing.assert_close(rule.estimate(half), base / 4, rtol=1e-4, atol=0)


def test_covered_is_the_frustum():
    views = around((0.0, 0.0, -4.0))
    K = views.Ks[0]
    edge = 4 * float(WIDTH - K[0, 2]) / float(K[0, 0])  # Where the right border passes z = 0.
    near = -4 + 0.005  # Nearer than the near plane.
    points = [(0, 0, 0), (0, 0, -3.9), (0, 0, -5), (0, 0, near)]
    points += [(0.99 * edge, 0, 0), (1.01 * edge, 0, 0)]
    right = torch.tensor(points, dtype=torch.float32)
    found = rule.covered(right, views) | rule.covered(right * torch.tensor([-1.0, 1, 1]), views)
    assert found.tolist() == [True, True, False, False, True, False]
    assert rule.covered(right, joined(views, around((0.0, 0.0, 4.0))))[2]


# Classes

LAST = 9  # Ten classes: part of the format.
weights = st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(weights, st.floats(1e-6, 1e6))
def test_classes_level_the_error(values, ref):
    weight = torch.tensor(values, dtype=torch.float64)
    classes = to_classes(weight, ref)
    assert classes.min() >= 0
    assert classes.max() <= LAST
    octaves = 0.5 * torch.log2(ref / weight).numpy()
    free = (classes > 0) & (classes < LAST)
    assert (abs(octaves - classes)[free] <= 0.5 + 1e-9).all()  # weight * step^2 within one octave.
    assert (octaves[classes == 0] < 0.5 + 1e-9).all()
    assert (octaves[classes == LAST] > LAST - 0.5 - 1e-9).all()
    assert (classes == to_classes(weight * 1024, ref * 1024)).all()
    quarter = to_classes(weight / 4, ref)
    assert ((quarter == classes + 1) | (classes == LAST) | (octaves < -0.5 + 1e-9)).all()


def test_the_reference_leaves_the_strongest_few_above_it():
    weight = torch.cat([torch.arange(1.0, 1001.0), torch.zeros(500)]).double()
    assert reference(weight) == pytest.approx(970, abs=1.5)  # The invisible do not count.
    assert reference(torch.zeros(5, dtype=torch.float64)) == 1.0
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    assert reference(weight[order]) == reference(weight)
