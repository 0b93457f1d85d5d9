"""Palettes and levels: exact where that is possible, nearest always, better than a plain start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.quant import palette
from fieldpress.quant.palette import (
    even_levels,
    fit_levels,
    fit_palette,
    fit_weighted_levels,
    level_indices,
    nearest,
)


def cloud(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    """Clusters of different density, as colours have them."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(1 + n // 20, d, generator=rng)
    spread = 0.3 * torch.rand(len(centres), 1, generator=rng) ** 3
    own = torch.randint(len(centres), (n,), generator=rng)
    return centres[own] + spread[own] * torch.randn(n, d, generator=rng)


def distances(x: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    return (x[:, None].double() - entries[None].double()).square().sum(2)


def error(x: torch.Tensor, entries: torch.Tensor) -> float:
    return float(distances(x, entries).min(1).values.mean())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(2, 40), st.integers(1, 8), st.integers(0, 99))
def test_nearest_is_nearest(m, k, d, seed):
    rng = torch.Generator().manual_seed(seed)
    x, entries = torch.randn(m, d, generator=rng), torch.randn(k, d, generator=rng)
    for found, table in (
        (nearest(x, entries), distances(x, entries)),
        (nearest(entries, entries, skip_self=True), distances(entries, entries)),
    ):
        if len(found) == k and table.shape[0] == k and bool((table.diagonal() == 0).all()):
            table.fill_diagonal_(torch.inf)
        chosen = table.gather(1, found[:, None])[:, 0]
        assert (chosen <= table.amin(1) + 1e-5).all()


def test_nearest_among_cells(monkeypatch):
    """Large palettes are searched in part: what is found is as good but for a thousandth."""
    entries, x = cloud(5000), cloud(700, seed=1)
    table = distances(x, entries)
    found = table.gather(1, nearest(x, entries)[:, None])[:, 0]
    assert float(found.mean()) <= 1.01 * float(table.min(1).values.mean())
    assert (found <= table.min(1).values + 1e-5).float().mean() > 0.97
    others = nearest(entries, entries, skip_self=True)
    assert not (others == torch.arange(5000)).any()
    monkeypatch.setattr(palette, "PROBES", 1)
    entries[0] = 1e4  # A cell of its own: nothing else is in it.
    assert nearest(entries, entries, skip_self=True)[0] != 0
    assert nearest(entries[:1], entries).tolist() == [0]


def test_nearest_of_nothing():
    assert nearest(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    for k, skip in ((0, False), (1, True)):
        with pytest.raises(ValueError, match=f"palette: expected entries for 1 vectors, got {k}"):
            nearest(torch.zeros(1, 3), torch.zeros(k, 3), skip_self=skip)


@pytest.mark.parametrize("size", [50, 64, 400])
def test_few_different_vectors_are_the_palette(size):
    different = cloud(50)
    different[3] = 0
    x = different[torch.randint(50, (400,), generator=torch.Generator().manual_seed(0))].clone()
    x[:200][x[:200] == 0] *= -1  # Minus zero is zero.
    entries, indices = fit_palette(x, size)
    assert indices is not None
    assert torch.equal(entries[indices], x)
    assert len(entries) == len(x.unique(dim=0))
    assert indices[0] == 0  # In the order of first use.


@pytest.mark.parametrize(("n", "size"), [(300, 299), (300, 160), (300, 20), (300, 1), (3000, 500)])
def test_beats_lloyd_from_a_random_start(n, size):
    x = cloud(n)
    entries, indices = fit_palette(x, size)
    assert indices is None
    assert len(entries) == size
    plain = x[torch.randperm(n, generator=torch.Generator().manual_seed(0))[:size]]
    for _ in range(5):
        owner = nearest(x, plain)
        for i in range(size):
            plain[i] = x[owner == i].mean(0) if bool((owner == i).any()) else plain[i]
    assert error(x, entries) <= 1.001 * error(x, plain)
    assert error(x, fit_palette(x, size, iterations=4)[0]) <= 1.001 * error(x, entries)


def test_seed_decides_and_alone():
    x = cloud(2000)
    first, again = (fit_palette(x, 50, seed=1)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, fit_palette(x, 50, seed=2)[0])


def test_frequent_vectors_weigh_more():
    x = torch.tensor([[0.0]] * 9 + [[1.0], [5.0], [5.5]])
    entries, _ = fit_palette(x, 2, iterations=2)
    torch.testing.assert_close(entries.sort(0).values[:, 0], torch.tensor([0.1, 5.25]))


@pytest.mark.parametrize("size", [30, 400])
def test_weights_say_whose_errors_count(size):
    """The weighted error is less than without weights; equal weights are none."""
    x = cloud(1000)
    heavy = torch.where(torch.arange(1000) % 10 == 0, 100.0, 1e-3)

    def weighed(entries: torch.Tensor) -> float:
        return float((distances(x, entries).min(1).values * heavy).sum())

    plain, _ = fit_palette(x, size, iterations=2)
    fitted, indices = fit_palette(x, size, weights=heavy, iterations=2)
    assert indices is None
    assert weighed(fitted) < 0.6 * weighed(plain)
    assert error(x, fit_palette(x, size, weights=torch.ones(1000))[0]) < 1.2 * error(x, plain)
    exact, indices = fit_palette(x, 1000, weights=heavy)
    assert torch.equal(exact[indices], x)


def test_a_colour_that_everything_has_and_huge_values():
    x = cloud(300) * 1e30
    entries, _ = fit_palette(x, 100)
    assert bool(entries.isfinite().all())
    assert error(x / 1e30, entries / 1e30) < error(x / 1e30, x[:100] / 1e30)
    entries, indices = fit_palette(torch.ones(9, 4), 3)
    assert (entries.tolist(), indices) == ([[1, 1, 1, 1]], pytest.approx([0] * 9))
    assert fit_palette(torch.zeros(0, 4), 3)[0].shape == (0, 4)


def test_hash_collisions_do_no_harm(monkeypatch):
    x = cloud(60)
    right = fit_palette(x, 60)
    monkeypatch.setattr(palette, "_same", lambda *_: False)  # As if keys had collided.
    got = fit_palette(x, 60)
    assert torch.equal(got[0], right[0])
    assert torch.equal(got[1], right[1])


@pytest.mark.parametrize(
    ("x", "size", "iterations", "message"),
    [
        (torch.zeros(3), 1, 1, r"expected \[M, D\], at least 1 and at least 0, got \[3\], 1 and 1"),
        (torch.zeros(3, 1), 0, 1, "got .*, 0 and 1"),
        (torch.zeros(3, 1), 1, -1, "got .*, 1 and -1"),
        (torch.full((3, 1), torch.nan), 1, 1, "x: expected finite values"),
        (torch.full((3, 1), torch.inf), 1, 1, "x: expected finite values"),
    ],
)
def test_refusals(x, size, iterations, message):
    with pytest.raises(ValueError, match=message):
        fit_palette(x, size, iterations=iterations)


# Levels


def rms(values: np.ndarray, levels: np.ndarray) -> float:
    near = levels[level_indices(values, levels)]
    return float(np.sqrt(np.square(near.astype(np.float64) - values).mean()))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=60),
    st.integers(2, 16),
    st.sampled_from([0.0, 0.1, 10.0]),
)
def test_levels_rise_and_the_nearest_is_taken(values, count, tolerance):
    x = np.array(values, np.float32)
    levels = fit_levels(x, tolerance, count)
    assert levels.dtype == np.float32
    assert len(levels) <= count
    assert (np.diff(levels) > 0).all()
    if not len(x):
        return
    gaps = np.abs(x[:, None].astype(np.float64) - levels)
    chosen = np.take_along_axis(gaps, level_indices(x, levels)[:, None], 1)[:, 0]
    assert (chosen == gaps.min(1)).all()
    if len(np.unique(x)) <= count:
        assert (chosen == 0).all()


@pytest.mark.parametrize("count", [2, 16, 256])
def test_weighted_levels_serve_what_weighs(count):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=9000), rng.normal(40, 5, size=1000)]).astype(np.float32)
    weight = np.where(x > 20, 1.0, 1e-4)

    def weighed(levels: np.ndarray) -> float:
        near = levels[level_indices(x, levels)].astype(np.float64)
        return float((weight * np.square(near - x)).sum())

    levels = fit_weighted_levels(x, weight, count)
    assert (np.diff(levels) > 0).all()
    assert len(levels) <= count
    if count > 2:
        assert weighed(levels) < 0.5 * weighed(fit_weighted_levels(x, np.ones_like(weight), count))
    assert np.array_equal(
        fit_weighted_levels(x[:count], weight[:count], count), np.unique(x[:count])
    )


@pytest.mark.parametrize("count", [3, 64, 128])
def test_even_levels_have_0_and_cut_what_is_far_and_light(count):
    rng = np.random.default_rng(2)
    x = rng.laplace(0, 0.1, size=(4000, 3)).astype(np.float32)
    x[0] = 1000
    levels = even_levels(x, np.where(np.arange(4000) == 0, 1e-9, 1.0)[:, None], count)
    assert len(levels) == 2 * ((count - 1) // 2) + 1
    assert 0 in levels
    np.testing.assert_allclose(np.diff(levels), np.diff(levels)[0], rtol=1e-4)
    assert levels[-1] < 3
    assert even_levels(np.zeros((4, 3), np.float32), np.ones((4, 1)), count).tolist() == [0]
    assert even_levels(np.zeros((0, 3), np.float32), np.ones((0, 1)), count).tolist() == [0]


def test_levels_are_even_where_they_may_be():
    """A coarser tolerance gives less entropy, and is kept; none that can be kept, the least."""
    x = np.random.default_rng(0).laplace(size=(20_000, 3)).astype(np.float32)

    def entropy(levels: np.ndarray) -> float:
        share = np.bincount(level_indices(x, levels).ravel()) / x.size
        return float(-(share[share > 0] * np.log2(share[share > 0])).sum())

    found = {t: fit_levels(x, t) for t in (0.1, 0.02, 0.0)}
    assert all(len(levels) <= 256 for levels in found.values())
    assert all(rms(x, found[t]) <= t for t in (0.1, 0.02))
    assert entropy(found[0.1]) < entropy(found[0.02]) < entropy(found[0.0])
    assert rms(x, found[0.0]) < 0.6 * rms(x, np.linspace(x.min(), x.max(), 256))


@pytest.mark.parametrize("outlier", [1e4, -1e18])
def test_one_outlier_does_not_take_all_levels(outlier):
    x = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    x[7] = outlier
    levels = fit_levels(x, 0.01)
    assert rms(np.delete(x, 7), levels) < 0.05
    assert levels[level_indices(x[7:8], levels)] == np.float32(outlier)
