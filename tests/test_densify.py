"""Densification as MCMC: what relocation keeps, and what it may never do."""

import math

import pytest
import torch

from fieldpress.gaussians.densify import DensifyingTrainer, DensifySettings, relocated
from fieldpress.gaussians.frames import rotations
from fieldpress.gaussians.initialise import from_points
from fieldpress.gaussians.train import NAMES, TrainSettings
from fieldpress.scenes.orbit import orbit


def trainer(count=60, budget=100, steps=1000, seed=0, **densify):
    generator = torch.Generator().manual_seed(seed)
    model = from_points(torch.rand(count, 3, generator=generator), None, sh_degree=1)
    cameras = orbit([0.5, 0.5, 0.5], 3.0, 3, width=24, height=16, up=[0.0, 1.0, 0.0])
    images = torch.rand(3, 16, 24, 3, generator=generator)
    found = DensifyingTrainer(model, cameras, images, TrainSettings(steps=steps, seed=seed))
    found.densify = DensifySettings(budget=budget, **densify)
    return found


@pytest.mark.parametrize("copies", [1, 2, 5, 17, 51])
@pytest.mark.parametrize("opacity", [0.01, 0.3, 0.9, 0.99])
def test_copies_together_are_what_they_replace(opacity, copies):
    new, factor = relocated(torch.tensor([opacity]), torch.tensor([copies]))
    o, s = float(new), float(factor)
    assert 1 - (1 - o) ** copies == pytest.approx(opacity, rel=1e-4)
    # The integral along a line: of n layers, and of the one of width 1 that they replace.
    x = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    layers = 1 - (1 - o * torch.exp(-0.5 * (x / s) ** 2)) ** copies
    integral = float(torch.trapezoid(layers, x))
    assert integral == pytest.approx(opacity * math.sqrt(2 * math.pi), rel=1e-3)


def test_one_copy_changes_nothing():
    opacity = torch.rand(20) * 0.98 + 0.01
    new, factor = relocated(opacity, torch.ones(20, dtype=torch.int64))
    torch.testing.assert_close(new, opacity)
    torch.testing.assert_close(factor, torch.ones(20))


def test_the_count_grows_to_the_budget_and_never_beyond():
    t = trainer(count=60, budget=70, growth=1.1)
    counts = []
    for _ in range(4):
        t._add()
        counts.append(len(t.params["means"]))
    assert counts == [66, 70, 70, 70]
    assert all(len(p) == 70 for p in t.params.values())


def test_copies_begin_without_momentum_and_the_rest_keep_theirs():
    t = trainer(count=60, budget=66, growth=1.1)
    t.step()
    before = t.moments()["means"][1].clone()
    opacities = t.params["opacities"].detach().clone()
    t._add()
    after = t.moments()["means"][1]
    split = (t.params["opacities"][:60] != opacities).nonzero()[:, 0]
    assert len(split) > 0
    assert not after[60:].any()
    assert not after[split].any()
    rest = torch.ones(60, dtype=torch.bool)
    rest[split] = False
    assert before[rest].any()
    assert torch.equal(after[:60][rest], before[rest])


def test_dead_gaussians_become_copies_of_live_ones():
    t = trainer()
    with torch.no_grad():
        t.params["opacities"][:20] = -9.0
        t.params["opacities"][20:] = 0.5
    before = {name: p.detach().clone() for name, p in t.params.items()}
    t._move_dead()
    assert (t.params["opacities"].sigmoid() > t.densify.dead).all()
    live = {tuple(row) for row in before["means"][20:].tolist()}
    assert all(tuple(row) in live for row in t.params["means"][:20].tolist())
    # Nothing that was not drawn has changed.
    drawn = (t.params["opacities"][20:] != before["opacities"][20:]).nonzero()[:, 0] + 20
    rest = torch.ones(60, dtype=torch.bool)
    rest[:20] = False
    rest[drawn] = False
    assert len(drawn) > 0
    for name in NAMES:
        assert torch.equal(t.params[name][rest], before[name][rest])


def test_nothing_alive_or_nothing_dead_is_left_alone():
    for value in (-9.0, 2.0):
        t = trainer()
        with torch.no_grad():
            t.params["opacities"].fill_(value)
        before = t.params["means"].detach().clone()
        t._move_dead()
        assert torch.equal(t.params["means"], before)


def test_draws_follow_the_weights():
    t = trainer()
    weights = torch.tensor([0.0, 1.0, 3.0])
    drawn = torch.bincount(t._draw(weights, 40_000), minlength=3) / 40_000
    assert drawn[0] == 0
    assert float(drawn[2]) == pytest.approx(0.75, abs=0.02)


def test_noise_moves_the_faint_along_their_shape_only():
    t = trainer()
    with torch.no_grad():
        t.params["opacities"][:30] = torch.tensor(0.006).logit()
        t.params["opacities"][30:] = 2.0
        t.params["scales"][:, 0] = math.log(0.1)
        t.params["scales"][:, 1:] = math.log(1e-6)
    before = t.params["means"].detach().clone()
    t._disturb()
    moved = t.params["means"].detach() - before
    assert not moved[30:].any()
    assert moved[:30].abs().max() > 0
    axis = rotations(t.params["quats"].detach())[:30, :, 0]
    across = moved[:30] - (moved[:30] * axis).sum(1, keepdim=True) * axis
    assert float(across.norm()) < 1e-6 * float(moved.norm()) + 1e-7


def test_regularisers_are_the_gradients_of_their_means():
    t = trainer(opacity_weight=0.02, scale_weight=0.03)
    logits, scales = (t.params[n].detach().double().requires_grad_() for n in
                      ("opacities", "scales"))  # fmt: skip
    loss = 0.02 * logits.sigmoid().mean() + 0.03 * scales.exp().mean() / t.extent
    loss.backward()
    for name in ("opacities", "scales"):
        t.params[name].grad = torch.zeros_like(t.params[name])
    t.before_update()
    for name, expected in (("opacities", logits.grad), ("scales", scales.grad)):
        torch.testing.assert_close(t.params[name].grad, expected.float())


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="budget"):
        DensifySettings(budget=0)
