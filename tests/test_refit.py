"""Laws of the colour re-fit: nearer its own pictures and others, never away from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fieldpress.gaussians import refit as rule
from fieldpress.gaussians.importance import importance
from fieldpress.gaussians.refit import Lesson, refit
from fieldpress.render import _reference
from fieldpress.render.sh import sh_bases
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import orbit

GEOMETRY = ("means", "quats", "scales", "opacities")


def ring(count=6, elevation=10.0, width=48, height=36):
    return orbit([0, 0, 0], 3.0, count, width=width, height=height, elevation=elevation)


def two_rings():
    """Twelve views, so many that what they do not see is little."""
    low, high = ring(6, 5.0), ring(6, 40.0)
    viewmats, Ks = torch.cat([low.viewmats, high.viewmats]), torch.cat([low.Ks, high.Ks])
    return Cameras(viewmats, Ks, low.width, low.height)


def squared(model, lesson):
    """Sum of squared differences from the lesson's pictures."""
    return float((model.render(lesson.views) - lesson.pictures).double().square().sum())


def degree(model, sh_degree):
    """The model with as many coefficients: cut off, or small random ones."""
    k = (sh_degree + 1) ** 2 - 1
    more = torch.randn(len(model), k, 3, generator=torch.Generator().manual_seed(k)) * 0.05
    return replace(model, shN=torch.cat([model.shN, more[:, model.shN.shape[1] :]], 1)[:, :k])


def pruned(model, views, share=0.5):
    """The Gaussians that weigh most in the views."""
    order = importance(model, views).weight.argsort(descending=True, stable=True)
    return model[order[: round(share * len(model))].sort().values]


def same(a, b):
    return all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())


def near(a, b):
    return all(torch.allclose(x, b.tensors()[name], atol=1e-5) for name, x in a.tensors().items())


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_what_pruning_broke_is_repaired_and_elsewhere_too(shell, sh_degree):
    model = degree(shell(500), sh_degree)
    lesson, other = Lesson.of(model, two_rings(), 12), Lesson.of(model, ring(5, 22.0), 5)
    less = pruned(model, lesson.views)
    errors = [(squared(less, lesson), squared(less, other))]
    for iterations in (1, 2, 4):
        better = refit(less, lesson, iterations)
        errors.append((squared(better, lesson), squared(better, other)))
    own = [first for first, _ in errors]
    assert own == sorted(own, reverse=True)
    assert own[1] < 0.8 * own[0]
    assert own[3] < 0.78 * own[0]
    assert errors[3][1] < 0.82 * errors[0][1]


def test_only_colours_change_and_only_in_the_new_model(shell):
    model = shell(300)
    lesson = Lesson.of(model, ring(3), 3)
    less = replace(pruned(model, lesson.views), antialiased=True, extra={"a": 1})
    before = {name: x.clone() for name, x in less.tensors().items()}
    better = refit(less, lesson, 2)
    for name in GEOMETRY:
        assert torch.equal(getattr(better, name), before[name])
    assert better.sh0.shape == less.sh0.shape
    assert better.shN.shape == less.shN.shape
    assert better.antialiased
    assert better.extra == {"a": 1}
    assert not torch.equal(better.sh0, less.sh0)
    assert not torch.equal(better.shN, less.shN)
    assert all(torch.equal(x, before[name]) for name, x in less.tensors().items())


@pytest.mark.parametrize("antialiased", [False, True])
def test_an_untouched_model_is_a_fixed_point(shell, antialiased):
    model = replace(shell(300), antialiased=antialiased)
    better = refit(model, Lesson.of(model, ring(4), 4), 5)
    assert near(better, model)  # The rasteriser sums bases in another order.


def test_no_iterations_no_change(shell):
    model = shell(50)
    lesson = Lesson(ring(2), torch.zeros(2, 36, 48, 3))
    assert refit(model, lesson, 0) is model


def test_no_gaussians(tiny_model):
    model = tiny_model(0, 3)
    better = refit(model, Lesson(ring(2), torch.ones(2, 36, 48, 3)), 3)
    assert len(better) == 0
    assert better.sh_degree == 3


@pytest.mark.parametrize("sh_degree", [0, 3])
def test_one_gaussian_gets_its_colour_back(tiny_model, sh_degree):
    model = tiny_model(1, sh_degree)
    model = replace(model, means=torch.zeros(1, 3), sh0=torch.tensor([[[0.3, -0.2, 0.9]]]))
    lesson = Lesson.of(model, ring(6), 6)
    wrong = replace(model, sh0=model.sh0 + torch.tensor([0.8, -0.4, 0.3]))
    before = squared(wrong, lesson)
    assert squared(refit(wrong, lesson, 1), lesson) < 0.6 * before
    assert squared(refit(wrong, lesson, 12), lesson) < 1e-2 * before


def test_one_that_no_view_sees_keeps_its_colour(tiny_model):
    model = replace(tiny_model(1, 2), means=torch.tensor([[0.0, 90.0, 0.0]]))
    assert same(refit(model, Lesson(ring(3), torch.ones(3, 36, 48, 3)), 3), model)


def test_the_unseen_among_others_stay_finite_and_near(shell):
    model = shell(200)
    means = model.means.clone()
    means[::4] += torch.tensor([0.0, 60.0, 0.0])
    model = replace(model, means=means)
    better = refit(model, Lesson(ring(3), torch.rand(3, 36, 48, 3)), 4)
    assert torch.equal(better.sh0[::4], model.sh0[::4])
    assert torch.equal(better.shN[::4], model.shN[::4])
    assert all(bool(x.isfinite().all()) for x in better.tensors().values())


def dense(model, views):
    """[P, N K] matrix of the pictures, one column a coefficient, by the twin in double."""
    means, quats, scales, opacities, colors = (x.double() for x in model.activated())
    n, k = colors.shape[:2]

    def draw(values):
        return _reference.rasterize(
            means, quats, scales, opacities, values, views.viewmats.double(), views.Ks.double(),
            views.width, views.height, model.options(),
        )[0][..., 0].flatten()  # fmt: skip

    plain = torch.zeros(n, k, 3, dtype=torch.float64)
    base, columns = draw(plain), []
    for i in range(n * k):
        one = plain.clone()
        one[i // k, i % k] = 0.1  # So small that no colour is clamped.
        columns.append((draw(one) - base) / 0.1)
    return torch.stack(columns, 1)


def test_it_comes_to_the_least_squares_solution(tiny_model):
    model = tiny_model(12, 1)
    model = replace(model, means=0.5 * model.means, scales=model.scales + 0.8, sh0=model.sh0 * 0.1)
    views = ring(6, width=20, height=16)
    clean = Lesson.of(model, views, 6)
    noise = 0.02 * torch.randn(clean.pictures.shape, generator=torch.Generator().manual_seed(0))
    lesson = Lesson(views, clean.pictures + noise)
    wrong = replace(model, sh0=model.sh0 + 0.2, shN=torch.zeros_like(model.shN))
    matrix = dense(wrong, views)
    residual = (lesson.pictures - wrong.render(views)).double().reshape(-1, 3)
    change = torch.linalg.lstsq(matrix, residual).solution
    least = float((residual - matrix @ change).square().sum())
    start = squared(wrong, lesson)
    assert least < 0.6 * start
    found = refit(wrong, lesson, 40)
    assert squared(found, lesson) - least < 0.02 * (start - least)
    few = squared(refit(wrong, lesson, 3), lesson)
    assert few - least < 0.15 * (start - least)


def test_a_view_moves_the_colour_it_sees_by_the_mean_residual(tiny_model, monkeypatch):
    monkeypatch.setattr(rule, "FLOOR", 0.0)
    model, view = tiny_model(6, 2), ring(1)
    colors = model.colors().clone()
    generator = torch.Generator().manual_seed(0)
    found = torch.cat(
        [torch.randn(6, 3, generator=generator), 1 + torch.rand(6, 1, generator=generator)], 1
    )
    rule._move(model, colors, view, found, 1.0)
    directions = torch.nn.functional.normalize(model.means - view.positions, dim=1)
    moved = torch.einsum("nk,nkc->nc", sh_bases(2, directions), colors - model.colors())
    torch.testing.assert_close(moved, found[:, :3] / found[:, 3:], rtol=1e-4, atol=1e-5)


def test_colours_that_are_clamped_at_zero_do_not_break_it(shell):
    model = shell(400)
    model = replace(model, sh0=model.sh0 - 1.7)  # Most are black from most sides.
    lesson, other = Lesson.of(model, two_rings(), 12), Lesson.of(model, ring(5, 22.0), 5)
    assert float((lesson.pictures == 0).float().mean()) > 0.3
    less = pruned(model, lesson.views, 0.4)
    errors = [squared(refit(less, lesson, i), lesson) for i in (0, 1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    better = refit(less, lesson, 8)
    assert all(bool(x.isfinite().all()) for x in better.tensors().values())
    assert errors[-1] < 0.9 * errors[0]
    assert squared(better, other) < squared(less, other)


def test_what_is_black_and_shall_be_stays_as_it_is(shell):
    model = replace(shell(100), sh0=torch.full((100, 1, 3), -9.0))
    assert same(refit(model, Lesson(ring(2), torch.zeros(2, 36, 48, 3)), 3), model)


def test_the_same_bits_on_any_threads_and_every_time(shell):
    model = shell(400)
    lesson = Lesson.of(model, ring(3), 3)
    less = pruned(model, lesson.views)
    found = []
    for threads in (1, 1, 2, 3):
        torch.set_num_threads(threads)
        found.append(refit(less, lesson, 3))
    torch.set_num_threads(1)
    assert all(same(other, found[0]) for other in found[1:])


# Lessons


def test_a_lesson_takes_views_evenly_and_bounds_their_size(shell, monkeypatch):
    model, views = shell(100), ring(9)
    lesson = Lesson.of(model, views, 5)
    assert torch.equal(lesson.views.viewmats, views.viewmats[::2])
    assert torch.equal(lesson.pictures, model.render(views[::2]))
    assert len(Lesson.of(model, views, 20).views) == 9
    monkeypatch.setattr(rule, "MOST_PIXELS", 24 * 18)
    small = Lesson.of(model, views, 2)
    assert small.pictures.shape == (2, 18, 24, 3)
    assert (small.views.width, small.views.height) == (24, 18)
    assert torch.equal(small.pictures, model.render(Cameras.resized(views[::8], 24, 18)))
