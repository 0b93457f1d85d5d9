"""Laws of sensitivities: Jacobians of the twin, removal, guesses for what no view saw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fieldpress.gaussians import importance
from fieldpress.gaussians.sensitivity import Sensitivity, sensitivity
from fieldpress.render import _reference
from fieldpress.scenes.orbit import orbit

FIELDS = ("position", "scale", "removal")


def ring(count=4, width=14, height=10):
    return orbit([0, 0, 0], 3.0, count, width=width, height=height, up=[0.0, 1.0, 0.0])


@pytest.fixture
def cloud(tiny_model):
    """Eight soft Gaussians in all the views, none of them clamped in colour or alpha."""
    model = tiny_model(8, 1)
    return replace(
        model,
        means=0.5 * model.means,
        scales=model.scales.clamp(-3, -2) + 1.3,
        opacities=model.opacities.clamp(-1, 1.5),
        sh0=0.2 * model.sh0 + 0.5,
    )


def dense(model, views):
    """[N] of each field: squares of the twin's Jacobian in double, summed over the pictures."""
    means, quats, scales, opacities, colors = (x.double() for x in model.activated())

    def draw(means, scales, opacities):
        return _reference.rasterize(
            means, quats, scales, opacities, colors, views.viewmats.double(), views.Ks.double(),
            views.width, views.height, model.options(),
        )[0].flatten()  # fmt: skip

    jacobian = torch.autograd.functional.jacobian(draw, (means, scales, opacities), vectorize=True)
    width = scales.sort(1).values[:, 1:2]
    position = (jacobian[0] * width).square().sum((0, 2))
    scale = (jacobian[1] * scales).square().sum((0, 2))
    return Sensitivity(position, scale, (jacobian[2] * opacities).square().sum(0))


@pytest.mark.parametrize("antialiased", [False, True])
def test_many_probes_come_to_the_jacobian(cloud, antialiased):
    cloud = replace(cloud, antialiased=antialiased)
    views = ring(3)
    found, wanted = sensitivity(cloud, views, probes=400), dense(cloud, views)
    for name in FIELDS:
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=0.3, atol=0, msg=name)
        assert float((ours / theirs).mean()) == pytest.approx(1, abs=0.06), name


def test_one_value_needs_no_luck(cloud):
    """A picture of one pixel and one channel: signs cancel in the square, one probe is exact."""
    dark = cloud.sh0.clone()
    dark[..., 1:] = -20.0  # Green and blue are clamped at 0.
    model = replace(cloud, means=0.01 * cloud.means, sh0=dark)
    views = ring(6, 1, 1)
    views.Ks[:, (0, 1), (0, 1)] *= 40  # Gaussians several pixels wide.
    assert importance.covered(model.means, views).all()
    found, wanted = sensitivity(model, views), dense(model, views)
    assert float(wanted.scale.min()) > 0
    for name in FIELDS:
        ours, theirs = getattr(found, name), getattr(wanted, name)
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0, msg=name)


def test_finite_differences_agree(cloud):
    """Of the renderer itself, for each Gaussian's three log scales and ln alpha."""
    views, h = ring(3), 0.02
    found = sensitivity(cloud, views, probes=400)
    for i in (0, 3, 7):
        total = 0.0
        for axis in range(3):
            step = torch.zeros_like(cloud.scales)
            step[i, axis] = h
            ends = [replace(cloud, scales=cloud.scales + s * step).render(views) for s in (1, -1)]
            total += float(((ends[0] - ends[1]) / (2 * h)).double().square().sum())
        assert float(found.scale[i]) == pytest.approx(total, rel=0.35)
        alpha = cloud.opacities.sigmoid()
        pictures = []
        for s in (h, -h):
            moved = alpha.clone()
            moved[i] *= 1 + s
            pictures.append(replace(cloud, opacities=moved.logit()).render(views))
        square = float(((pictures[0] - pictures[1]) / (2 * h)).double().square().sum())
        assert float(found.removal[i]) == pytest.approx(square, rel=0.35)


def test_removal_is_what_removing_one_alone_costs(tiny_model):
    """Far apart: no other changes what one adds to the pictures. All of it goes with it."""
    model = tiny_model(4, 1)
    places = torch.tensor([[-1.0, -0.8, 0.0], [1.0, -0.8, 0], [-1.0, 0.8, 0], [1.0, 0.8, 0]])
    model = replace(model, means=places, opacities=torch.tensor([-0.5, 0.5, 1.0, 3.0]))
    views = ring(4, 40, 30)[::2]  # From the front and from behind.
    found = sensitivity(model, views, probes=600)
    for i in range(4):
        cost = float(model[[i]].render(views).double().square().sum())
        without = model[[k for k in range(4) if k != i]].render(views)
        truth = float((model.render(views) - without).double().square().sum())
        assert truth == pytest.approx(cost, rel=0.01)
        assert float(found.removal[i]) == pytest.approx(truth, rel=0.25)


def test_one_behind_a_wall_and_one_beyond_every_frustum(cloud):
    views = ring(4)
    means = cloud.means.clone()
    means[2] += torch.tensor([0.0, 50.0, 0.0])
    faint = cloud.opacities.clone()
    faint[5] = -8.0  # alpha below 1/255: not drawn
    model = replace(cloud, means=means, opacities=faint)
    assert importance.covered(model.means, views).tolist() == [i != 2 for i in range(8)]
    found, guess = sensitivity(model, views, probes=3), importance.estimate(model)
    for name in FIELDS:
        values = getattr(found, name)
        assert float(values[5]) == 0  # In the frustum, and known to do nothing.
        known = [i for i in range(8) if i not in (2, 5)]
        ratio = (values[known] / guess[known]).median()
        expected = importance.UNSEEN_SHARE * guess[2] * ratio
        assert float(values[2]) == pytest.approx(float(expected), rel=1e-6)
        assert float(values[2]) > 0


def test_nothing_seen_at_all_is_guessed(cloud):
    model = replace(cloud, means=cloud.means + torch.tensor([0.0, 90.0, 0.0]))
    found = sensitivity(model, ring(2))
    expected = importance.UNSEEN_SHARE * importance.estimate(model)
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), expected)


def test_it_is_a_function_of_its_seed_on_any_threads(shell):
    model, views = shell(400), ring(3, 40, 30)
    found = []
    for threads in (1, 1, 2, 3):
        torch.set_num_threads(threads)
        found.append(sensitivity(model, views, seed=7))
    torch.set_num_threads(1)
    other = sensitivity(model, views, seed=8)
    for name in FIELDS:
        first = getattr(found[0], name)
        assert all(torch.equal(getattr(one, name), first) for one in found[1:])
        assert not torch.equal(getattr(other, name), first)


def test_views_add_up(cloud):
    views = ring(4)
    parts = [dense(cloud, views[:1]), dense(cloud, views[1:])]
    found = sensitivity(cloud, views, probes=400)
    for name in FIELDS:
        both = getattr(parts[0], name) + getattr(parts[1], name)
        torch.testing.assert_close(getattr(found, name), both, rtol=0.3, atol=0)


def test_geometry_adds_harms_of_given_errors():
    one = torch.tensor([1.0, 0, 0, 2.0]).double()
    found = Sensitivity(one, one.roll(1), one.roll(2)).geometry(2.0, 3.0, 5.0)
    assert found.tolist() == [4.0 + 2 * 9, 9.0 + 2 * 25, 25.0, 2 * 4.0]


def test_the_model_is_left_alone(cloud):
    before = {name: x.clone() for name, x in cloud.tensors().items()}
    sensitivity(cloud, ring(2))
    assert all(torch.equal(x, before[name]) for name, x in cloud.tensors().items())
    assert all(x.grad is None and not x.requires_grad for x in cloud.tensors().values())
