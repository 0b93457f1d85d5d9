"""What views say of Gaussians, and a round of having fewer of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fieldpress.gaussians.codec import Steps
from fieldpress.gaussians.importance import importance, reference, to_classes
from fieldpress.gaussians.reduce import Measured, reduced
from fieldpress.gaussians.sensitivity import sensitivity
from fieldpress.scenes.orbit import orbit


@pytest.fixture(scope="module")
def views():
    return orbit([0, 0, 0], 3.0, 4, width=48, height=36)


@pytest.fixture(scope="module")
def model(shell):
    return shell(500)


@pytest.fixture(scope="module")
def measured(model, views):
    return Measured.of(model, views, 5)


def test_colour_is_classed_by_weight_and_geometry_by_sensitivity(model, views, measured):
    seen, found = importance(model, views), sensitivity(model, views, seed=5)
    assert measured.classes.shape == (500, 2)
    assert measured.classes.dtype == np.int32
    colors = to_classes(seen.weight, reference(seen.weight))
    assert np.array_equal(measured.classes[:, 0], colors)
    harm = found.geometry(Steps.position, Steps.scale, Steps.opacity)
    order = harm.argsort(descending=True)
    assert (np.diff(measured.classes[order.numpy(), 1]) >= 0).all()  # The less harm, the coarser.
    assert len(np.unique(measured.classes[:, 1])) > 3
    assert torch.equal(torch.from_numpy(measured.moments), seen.moments)


def test_the_error_is_between_removal_and_weight(model, views, measured):
    seen, found = importance(model, views), sensitivity(model, views, seed=5)
    level = seen.weight * found.removal.sum() / seen.weight.sum()
    expected = (found.removal * level).sqrt()
    torch.testing.assert_close(measured.effect.error, expected)
    assert torch.equal(measured.score, measured.effect.error)
    assert torch.equal(measured.effect.weight, seen.weight)
    assert torch.equal(measured.effect.mass, seen.mass)


def test_without_merging_the_best_stay_in_order(model, measured):
    less = reduced(model, measured, 300, merging=False)
    assert len(less) == 300
    kept = measured.score.argsort(descending=True, stable=True)[:300].sort().values
    assert float(measured.score[kept].min()) >= float(measured.score.sort().values[199])
    for name, value in less.tensors().items():
        assert torch.equal(value, model.tensors()[name][kept])


@pytest.mark.parametrize("count", [500, 499, 350, 1])
def test_at_least_as_many_are_left_as_were_wanted(model, measured, count):
    less = reduced(model, measured, count, merging=True)
    assert count <= len(less) <= 500
    assert len(less) < 500 or count == 500
    assert all(bool(x.isfinite().all()) for x in less.tensors().values())


def test_merging_loses_less_where_there_are_twins(model, views):
    both = model[torch.arange(600) // 2]
    both = replace(both, opacities=both.opacities - 2)
    found, picture = Measured.of(both, views, 0), both.render(views)
    errors = [
        float((reduced(both, found, 330, merging=m).render(views) - picture).square().mean())
        for m in (True, False)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_it_is_a_function_of_its_arguments(model, views, measured):
    again, other = Measured.of(model, views, 5), Measured.of(model, views, 6)
    assert torch.equal(again.score, measured.score)
    assert np.array_equal(again.classes, measured.classes)
    assert not torch.equal(other.score, measured.score)
    source = measured.source(model)
    assert np.array_equal(source.classes, measured.classes)
    assert source.moments is measured.moments
