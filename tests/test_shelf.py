"""Colours in a mapped scratch file: the same values, and their memory comes back."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from fieldpress.gaussians import shelf as place
from fieldpress.gaussians.compress import scene_views
from fieldpress.gaussians.reduce import Measured, reduced
from fieldpress.gaussians.refit import Lesson, refit
from fieldpress.gaussians.shelf import let_go, on_shelf, shelf, shelved


def test_values_survive_that_their_memory_is_let_go():
    colors = shelf(1000, 4)
    assert colors.shape == (1000, 4, 3)
    assert not colors.any()
    given = torch.randn(1000, 4, 3, generator=torch.Generator().manual_seed(0))
    colors[:] = given
    let_go(colors)
    assert torch.equal(colors, given)
    let_go(torch.zeros(3))  # Is of no shelf: nothing happens.


def resident() -> int:
    """Bytes of this process's memory that come from files."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not say")
    line = next(x for x in status.read_text().splitlines() if x.startswith("RssFile"))
    return 1024 * int(line.split()[1])


def test_the_memory_is_let_go():
    colors = shelf(100_000, 16)
    before = resident()
    colors += 1
    full = resident()
    let_go(colors)
    assert full - before > 0.9 * colors.nbytes
    assert resident() - before < 0.1 * colors.nbytes


def test_a_shelf_ends_with_its_last_view():
    colors = shelf(100, 4)
    key = colors.untyped_storage().data_ptr()
    part = colors[:, :1]
    del colors
    assert key in place._maps
    del part
    gc.collect()
    assert key not in place._maps


@pytest.mark.parametrize("n", [0, 1, 700])
def test_sorted_or_not_it_is_the_same_model(tiny_model, n):
    model = tiny_model(n, 2)
    same, other = shelved(model), shelved(model, sort=True)
    assert on_shelf(same) == (n > 0)
    assert shelved(same) is same or not n
    order = other.means[:, 0].argsort()
    for name, values in model.tensors().items():
        assert torch.equal(same.tensors()[name], values), name
        found = other.tensors()[name][order]
        assert torch.equal(found, values[model.means[:, 0].argsort()]), name


def test_without_room_colours_stay_in_memory(tiny_model, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place.os, "posix_fallocate", full)
    found = shelved(tiny_model(50, 1))
    assert not on_shelf(found)
    assert torch.equal(found.sh0, tiny_model(50, 1).sh0)


def test_it_looks_the_same(tiny_model):
    model = tiny_model(2000, 3)
    views = scene_views(model, 0)[1].resized(64, 48)
    usual, found = model.render(views), shelved(model).render(views)
    assert usual.max() > 0.3
    assert float((usual - found).abs().max()) < 1e-5
    for degree in (0, 2):
        options = type(model.options())(sh_degree=degree)
        lower = shelved(model).render(views, options)
        assert float((lower - model.render(views, options)).abs().max()) < 1e-5


def test_statistics_reduction_and_refit_are_the_same(tiny_model):
    model = tiny_model(1500, 2)
    views = scene_views(model, 0)[0][::8].resized(64, 48)
    lesson = Lesson.of(model, views, 4)
    ends = []
    for given in (model, shelved(model)):
        measured = Measured.of(given, views, 0)
        fewer = reduced(given, measured, 900, True, own=on_shelf(given))
        ends.append(refit(fewer, lesson, 2))
    assert len(ends[0]) == len(ends[1]) < 1500
    for name, values in ends[0].tensors().items():
        assert torch.allclose(values, ends[1].tensors()[name], rtol=1e-3, atol=1e-3), name
