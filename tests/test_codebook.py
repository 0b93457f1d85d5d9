"""Codebooks: the nearest codeword, what weights do, and the same result for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.quant import codebook as module
from fieldpress.quant.codebook import CodebookSettings, assign, distortion, fit_codebook

FAST = CodebookSettings(size=12, steps=40, batch=500)


def clusters(n: int = 2000, d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    centers = torch.randn(9, d, generator=rng) * 2
    x = centers[torch.randint(9, (n,), generator=rng)] + torch.randn(n, d, generator=rng) * 0.4
    return x, torch.rand(n, generator=rng, dtype=torch.float64) ** 4


def loss(x: torch.Tensor, weights: torch.Tensor, codebook: torch.Tensor) -> float:
    return distortion(x, weights, codebook, assign(x, codebook))


def test_fitting_lowers_the_weighted_distortion():
    x, weights = clusters()
    start = fit_codebook(x, weights, replace(FAST, steps=0))
    losses = [loss(x, weights, start)]
    losses += [
        loss(x, weights, fit_codebook(x, weights, replace(FAST, steps=steps))) for steps in (5, 40)
    ]
    assert losses[1] < 0.9 * losses[0]
    assert losses[2] < losses[1]
    # Nine clusters of deviation 0.4 in five dimensions: 0.8 is what their centres alone leave.
    assert losses[2] < 0.9


def test_weights_draw_the_codewords():
    """Weighted averages serve what matters better, and the rest worse, than plain ones."""
    x, weights = clusters()
    weights = (weights > 0.5).double() + 1e-3
    plain = fit_codebook(x, torch.ones(len(x)), FAST)
    ours = fit_codebook(x, weights, FAST)
    assert loss(x, weights, ours) < loss(x, weights, plain)
    assert loss(x, torch.ones(len(x)), ours) > loss(x, torch.ones(len(x)), plain)


def test_a_scale_of_the_weights_changes_nothing():
    x, weights = clusters(300)
    torch.testing.assert_close(fit_codebook(x, weights, FAST), fit_codebook(x, weights * 1e9, FAST))


def test_the_seed_decides():
    x, weights = clusters(800)
    first = fit_codebook(x, weights, FAST)
    assert torch.equal(first, fit_codebook(x, weights, FAST))
    assert not torch.equal(first, fit_codebook(x, weights, replace(FAST, seed=1)))


def test_codewords_without_use_are_moved():
    """Two codewords begin in one of two far places: one of them must find the other."""
    x = torch.cat([torch.zeros(500, 2), torch.full((3, 2), 100.0)])
    x += torch.randn(503, 2, generator=torch.Generator().manual_seed(0)) * 0.01
    settings = CodebookSettings(size=2, steps=30, expire=1, seed=2)
    assert float(fit_codebook(x, torch.ones(503), replace(settings, steps=0)).max()) < 50
    assert loss(x, torch.ones(503), fit_codebook(x, torch.ones(503), settings)) < 0.01


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_assignment_is_to_the_nearest(n, k, seed):
    rng = torch.Generator().manual_seed(seed)
    x, book = torch.randn(n, 3, generator=rng), torch.randn(k, 3, generator=rng)
    distances = torch.cdist(x.double(), book.double())
    chosen = distances[torch.arange(n), assign(x, book)]
    torch.testing.assert_close(chosen, distances.min(1).values, atol=1e-5, rtol=0)


def test_assignment_in_parts_is_the_same(monkeypatch):
    x, _ = clusters(100)
    whole = assign(x, x[:7])
    monkeypatch.setattr(module, "PAIRS", 50)
    assert torch.equal(assign(x, x[:7]), whole)


def test_few_vectors_and_none():
    x, weights = clusters(3)
    book = fit_codebook(x, weights, FAST)
    assert book.shape == (3, 5)
    torch.testing.assert_close(book[assign(x, book)], x)
    torch.testing.assert_close(fit_codebook(x[:1], weights[:1], FAST), x[:1])
    assert fit_codebook(x[:0], weights[:0], FAST).shape == (0, 5)
    assert assign(x[:0], book).shape == (0,)
    assert bool(fit_codebook(x, torch.zeros(3), FAST).isfinite().all())
    with pytest.raises(ValueError, match=r"^codebook: expected codewords for 3 vectors, got none"):
        assign(x, book[:0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_impossible_weights_are_refused(bad):
    x, weights = clusters(10)
    weights[3] = bad
    with pytest.raises(ValueError, match=r"^x, weights: expected finite values and weights >= 0"):
        fit_codebook(x, weights, FAST)
    with pytest.raises(ValueError, match=r"^x, weights: expected \[M, D\] and \[M\]"):
        fit_codebook(x, weights[:4], FAST)


@pytest.mark.parametrize(
    ("name", "value"), [("size", 0), ("batch", 0), ("steps", -1), ("expire", -1), ("decay", 1.0)]
)
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        CodebookSettings(**{name: value})
