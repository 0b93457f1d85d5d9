"""First guesses of latents: sizes, and that a fit is nearer for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldpress.fields import latent_guess
from fieldpress.fields.latent_codec import VERSION
from fieldpress.fields.latent_engine import Engine, Painter, gain_for
from fieldpress.fields.latent_fit import Schedule, fit

LMBDA = 1e-3


def engine(height: int, width: int, seed: int = 0) -> Engine:
    """Of a picture of broad waves, each channel its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [0.5 + 0.2 * np.sin(x * a + y * b + c) + 0.2 * np.cos(x * b - y * a)
              for a, b, c in rng.uniform(0.05, 0.4, (3, 3))]  # fmt: skip
    target = torch.from_numpy(np.stack(planes)).float()
    return Engine(Painter(VERSION.still, height, width, gain_for(LMBDA)), target)


def guessed(one: Engine) -> torch.Tensor:
    weights = VERSION.weights()
    assert weights is not None
    return latent_guess.guess(one, VERSION.prior(0), LMBDA, weights)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (33, 65), (64, 64)])
def test_a_guess_for_any_size(size: tuple[int, int]) -> None:
    one = engine(*size)
    found = guessed(one)
    assert found.shape == (one.count,)
    assert found.isfinite().all()


def test_a_guess_is_nearer_than_nothing() -> None:
    one, flat = engine(64, 96), VERSION.prior(0)
    guess, nothing = (
        one.losses(guessed(one).round(), flat),
        one.losses(torch.zeros(one.count), flat),
    )
    assert guess[0] < 0.5 * nothing[0]  # Squared error.
    assert guess[0] + LMBDA * guess[1] / one.pixels < nothing[0]


def test_strips_of_rows_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine(150, 20)
    whole = guessed(one)
    for rows in (1, 7, 149, 150):
        monkeypatch.setattr(latent_guess, "ROWS", rows)
        torch.testing.assert_close(guessed(one), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_short_fit_ends_lower_from_a_guess(seed: int) -> None:
    one, flat = engine(48, 64, seed), VERSION.prior(0)
    losses = []
    for begin in (guessed(one), None):
        latents, after = fit(one, flat, LMBDA, Schedule(steps=40), latents=begin)
        error, bits = one.losses(latents, after)
        losses.append(error + LMBDA * bits / one.pixels)
    assert losses[0] < 0.8 * losses[1]


def test_zeros_are_what_a_fit_starts_from() -> None:
    one, flat = engine(16, 16), VERSION.prior(0)
    zeros = torch.zeros(one.count)
    a, b = (fit(one, flat, LMBDA, Schedule(steps=5), latents=v) for v in (None, zeros))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not zeros.any()  # Its own are changed, not the given ones.
