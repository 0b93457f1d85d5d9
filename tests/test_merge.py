"""Laws of merging: what a merged Gaussian keeps, which pairs are taken, what comes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians import merge as rule
from fieldpress.gaussians.frames import rotations
from fieldpress.gaussians.merge import Measured, Pairs, choose, measure, merge, merged, reduce
from fieldpress.scenes.orbit import orbit


def full(model):
    """[N, 3, 3] float64 covariances."""
    turned = rotations(model.quats.double()) * model.scales.double().exp()[:, None]
    return turned @ turned.transpose(1, 2)


def views(count=4, size=48):
    return orbit([0.0, 0.0, 0.0], 3.0, count, width=size, height=size, up=[0.0, 1.0, 0.0])


def given_all(n, error=1.0):
    one = torch.ones(n, dtype=torch.float64)
    return Measured(one, one, error * one)


def psnr(a, b):
    return -10 * math.log10(float((a - b).square().mean()))


@pytest.fixture
def cloud(tiny_model):
    """Gaussians, each with a twin a third of its size away, in an order that hides it."""
    model = tiny_model(150, 1)
    model = replace(model, opacities=model.opacities - 2)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    both = model[torch.arange(300)[order] % 150].tensors()
    size = both["scales"].exp().amin(1, keepdim=True)
    away = torch.randn(300, 3, generator=torch.Generator().manual_seed(2)) / 3
    return replace(model, **both | {"means": both["means"] + away * size})


def test_a_merged_one_has_the_pairs_mass_mean_and_covariance(tiny_model):
    model = tiny_model(80, 2)
    model = replace(model, opacities=model.opacities - 5)
    first, second = torch.arange(40), torch.arange(40, 80)
    mass = torch.rand(80, dtype=torch.float64) + 0.1
    one = merged(model, first, second, mass)
    share = (mass[second] / (mass[first] + mass[second]))[:, None]
    a, b = model.means[first].double(), model.means[second].double()
    mean = (1 - share) * a + share * b
    torch.testing.assert_close(one.means.double(), mean, rtol=1e-5, atol=1e-6)
    # Second moments about the origin: what a mixture's are is plain there.
    s = share[:, :, None]
    second_moment = (1 - s) * (full(model)[first] + a[:, :, None] * a[:, None])
    second_moment += s * (full(model)[second] + b[:, :, None] * b[:, None])
    found = full(one) + mean[:, :, None] * mean[:, None]
    torch.testing.assert_close(found, second_moment, rtol=1e-4, atol=1e-5)
    color = (1 - s) * model.shN[first].double() + s * model.shN[second].double()
    torch.testing.assert_close(one.shN.double(), color, rtol=1e-4, atol=1e-5)

    every = torch.arange(80)

    def flat(m):
        at = every[: len(m)]
        return m.opacities.double().sigmoid() * rule.area(rule.covariances(m, at))

    whole = flat(model)
    shapes = [rule.covariances(model, i) for i in (first, second)]
    hidden = torch.stack([model.opacities[i].double().sigmoid() for i in (first, second)]).prod(0)
    hidden = hidden * rule.overlap(*shapes, b - a)
    torch.testing.assert_close(flat(one), whole[first] + whole[second] - hidden, rtol=1e-4, atol=0)


def test_the_area_is_that_of_projections(tiny_model):
    model = tiny_model(5, 0)
    directions = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)).double()
    directions = torch.nn.functional.normalize(directions, dim=1)
    inverse = torch.linalg.inv(full(model))
    squares = torch.einsum("di,nij,dj->nd", directions, inverse, directions).mean(1)
    expected = 2 * math.pi * (torch.linalg.det(full(model)) * squares).sqrt()
    found = rule.area(rule.covariances(model, torch.arange(5)))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_the_gap_is_the_mean_over_projections_by_squared_area(tiny_model):
    model = tiny_model(5, 0)
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(5, 3, generator=generator).double()
    total, areas = torch.zeros(5).double(), torch.zeros(5).double()
    for direction in torch.randn(1500, 3, generator=generator).double():
        basis = torch.linalg.svd(direction[None])[2][1:]  # The plane that it is seen on.
        flat = basis @ full(model) @ basis.T
        shift = offset @ basis.T
        inverse = torch.linalg.inv(flat)
        weight = torch.linalg.det(flat)
        total += weight * torch.einsum("ni,nij,nj->n", shift, inverse, shift)
        areas += weight
    found = rule.gap(rule.covariances(model, torch.arange(5)), offset)
    torch.testing.assert_close(found, total / areas, rtol=0.1, atol=0)


@pytest.mark.parametrize("opacity", [0.1, 0.3])
def test_two_halves_in_one_place_become_one_that_looks_the_same(tiny_model, opacity):
    model = tiny_model(30, 2)
    half = torch.full((30,), 1 - math.sqrt(1 - opacity))
    twice = replace(model, opacities=torch.logit(half))[torch.arange(60) // 2]
    even = torch.arange(0, 60, 2)
    one = merged(twice, even, even + 1, torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(one.means, model.means)
    torch.testing.assert_close(full(one), full(model), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.shN, model.shN)
    # One differs from two by the shape of alpha, at most half^2 / 2, and at the cut of 1/255.
    difference = (one.render(views()) - twice.render(views())).double()
    picture = twice.render(views()).double()
    assert float(difference.square().sum() / picture.square().sum()) < 2e-2
    assert float(difference.mean().abs()) < 1e-3


def test_merging_twins_is_better_than_removing_them(cloud):
    cameras = views(6)
    picture = cloud.render(cameras)
    found = measure(cloud, cameras)
    less = merge(cloud, found, 120)
    assert len(less.model) == 180
    assert int((less.partner >= 0).sum()) > 60
    kept = found.error.argsort(descending=True)[:180].sort().values
    assert psnr(less.model.render(cameras), picture) > 3 + psnr(
        cloud[kept].render(cameras), picture
    )
    # The estimate is of the error that comes, to a factor.
    true = float((less.model.render(cameras) - picture).double().square().sum())
    assert true / 5 < less.cost < true * 5


def test_the_rest_stay_as_they_were_and_in_order(cloud):
    found = measure(cloud, views())
    less = merge(cloud, found, 100)
    assert (less.kept.diff() > 0).all()
    alone = less.partner < 0
    for name, value in less.model.tensors().items():
        assert torch.equal(value[alone], cloud.tensors()[name][less.kept[alone]])
    both = torch.cat([less.kept, less.partner[~alone]])
    assert len(both.unique()) == len(both)
    assert (less.partner[~alone] > less.kept[~alone]).all()
    summed = less.summed(found.mass)
    assert torch.equal(summed[alone], found.mass[less.kept[alone]])
    pair = found.mass[less.kept[~alone]] + found.mass[less.partner[~alone]]
    assert torch.equal(summed[~alone], pair)


def test_the_input_is_not_changed(cloud):
    before = {name: value.clone() for name, value in cloud.tensors().items()}
    merge(cloud, measure(cloud, views()), 100)
    assert all(torch.equal(value, before[name]) for name, value in cloud.tensors().items())


def test_the_same_every_time(cloud):
    a, b = (merge(cloud, measure(cloud, views()), 100) for _ in range(2))
    assert torch.equal(a.partner, b.partner)
    assert all(torch.equal(x, b.model.tensors()[n]) for n, x in a.model.tensors().items())


def test_far_apart_ones_are_never_merged(tiny_model):
    model = tiny_model(200, 0)
    model = replace(model, means=1000 * model.means)
    assert len(rule.candidates(model, given_all(200, error=1e9))) == 0
    less = merge(model, given_all(200), 200, prune=False)
    assert len(less.model) == 200


def test_discs_one_behind_the_other_are_far_apart():
    shape = torch.tensor([[1.0, 1.0, 1e-12, 0.0, 0.0, 0.0]]).double()
    across, behind = torch.tensor([[[3.0, 0.0, 0.0]], [[0.0, 0.0, 3.0]]]).double()
    assert float(rule.gap(2 * shape, behind)) > rule.MAX_GAP
    assert float(rule.gap(2 * shape, across)) == pytest.approx(4.5, rel=1e-6)


def test_sizes_that_do_not_compare_are_not_merged(cloud):
    scales = cloud.scales.clone()
    scales[::2] -= 6
    model = replace(cloud, means=0.01 * cloud.means, scales=scales)
    pairs = rule.candidates(model, given_all(300, error=1e9))
    assert len(pairs)
    ratio = rule.area(rule.covariances(model, pairs.first))
    ratio = ratio / rule.area(rule.covariances(model, pairs.second))
    assert float(ratio.log().abs().max()) <= math.log(rule.MAX_RATIO) + 1e-9


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_gaussians(tiny_model, count):
    model = tiny_model(count, 1)
    found = measure(model, views(2, 16))
    assert len(merge(model, found, 0).model) == count
    assert len(merge(model, found, 10, prune=False).model) >= min(count, 1)
    assert len(merge(model, found, 10).model) == 0
    assert len(reduce(model, views(2, 16), count, rounds=2).model) == count


def test_degenerate_shapes_stay_finite(cloud):
    scales = cloud.scales.clone()
    scales[:100, 0] = -30  # Discs,
    scales[100:200, :2] = -30  # needles
    scales[200:] = -30  # and points,
    means = cloud.means.clone()
    means[::3] = means[0]  # many in one place.
    model = replace(cloud, scales=scales, means=means)
    first, second = torch.arange(0, 300, 2), torch.arange(1, 300, 2)
    one = merged(model, first, second, torch.zeros(300, dtype=torch.float64))
    assert all(bool(x.isfinite().all()) for x in one.tensors().values())
    assert float(one.opacities.sigmoid().max()) <= rule.MAX_OPACITY + 1e-6
    assert (one.scales.amin(1) >= model.scales.amin(1).reshape(-1, 2).amin(1) - 1e-5).all()
    norms = one.quats.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    less = merge(model, given_all(300), 100)
    assert len(less.model) == 200
    assert all(bool(x.isfinite().all()) for x in less.model.tensors().values())


def test_colours_that_differ_cost(cloud):
    found = given_all(300, error=1e9)
    tinted = replace(cloud, sh0=cloud.sh0 + torch.arange(300.0)[:, None, None] * 1e6)
    plain, other = rule.candidates(cloud, found), rule.candidates(tinted, found)
    assert len(plain) > 100
    assert len(other) < len(plain) / 4


def test_a_limit_stops_it(cloud):
    found = measure(cloud, views())
    price = float(found.error.median()) / 4
    less = merge(cloud, found, 300, limit=price)
    gone = torch.ones(300, dtype=torch.bool)
    gone[less.kept] = gone[less.partner[less.partner >= 0]] = False
    assert (found.error[gone] < price).all()
    assert 0 < 300 - len(less.model) < 300
    assert less.cost < price * (300 - len(less.model))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 14), st.integers(0, 1 << 20))
def test_choice_is_greedy_and_takes_none_twice(n, pairs, count, seed):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, n, (pairs, 2), generator=generator)
    ends = ends[ends[:, 0] != ends[:, 1]].sort(1).values
    cost = torch.randint(0, 6, (len(ends),), generator=generator).double()
    removal = torch.randint(0, 6, (n,), generator=generator).double()
    chosen, remove = choose(Pairs(ends[:, 0], ends[:, 1], cost), removal, count)
    # The same by the plain loop.
    actions = [
        (c, k, *e) for k, (c, e) in enumerate(zip(cost.tolist(), ends.tolist(), strict=True))
    ]
    actions += [(c, len(ends) + i, i, i) for i, c in enumerate(removal.tolist())]
    used, merges, removals = set(), [], []
    for _, _, a, b in sorted(actions):
        if len(merges) + len(removals) < count and not {a, b} & used:
            used |= {a, b}
            (removals if a == b else merges).append((a, b))
    assert list(zip(chosen.first.tolist(), chosen.second.tolist(), strict=True)) == merges
    assert torch.nonzero(remove)[:, 0].tolist() == sorted(a for a, _ in removals)


def test_rounds_end_at_the_goal_and_say_where_from(cloud):
    less = reduce(cloud, views(), 130, rounds=3)
    assert len(less.model) == len(less.kept) == 130
    assert (less.kept.diff() > 0).all()
    assert reduce(cloud, views(), 400).model is cloud


def test_measurements_of_another_model_are_refused(cloud):
    with pytest.raises(ValueError, match="measured: expected 300 Gaussians, got 7"):
        merge(cloud, given_all(7), 1)
