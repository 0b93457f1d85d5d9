"""What lies behind a radiance field, and exposures of photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fieldpress.fields import codec
from fieldpress.fields.appearance import Appearance, over, with_opacity
from fieldpress.fields.fit_nerf import NerfSettings, NerfTrainer, fit_nerf
from fieldpress.fields.levels import Encoding
from fieldpress.fields.nerf import background_of
from fieldpress.fields.network import cosine_rate
from fieldpress.fields.occupancy import CELLS_EVERY
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.metrics import psnr

ENCODING = Encoding(3, "SimplexGrid", 3, 2, 9, 8, 1.6)
SETTINGS = NerfSettings(ENCODING, neurons=16, steps=120, rays=256, rate=0.02, loss_db=0.3)


def test_colours_are_laid_over_what_lies_behind() -> None:
    values = torch.tensor([[0.2, 0.1, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = over(values, torch.tensor([1.0, 0.5, 0.0]))
    wanted = torch.tensor([[0.7, 0.35, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(found, wanted)
    assert torch.equal(with_opacity(torch.zeros(3, 2))[3], torch.ones(2))


def test_gains_are_one_on_average() -> None:
    found = Appearance("black", 5, True)
    with torch.no_grad():
        found._gains.copy_(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found.gains().log().mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    assert not found.behind
    assert found.penalty() > 0
    assert Appearance("black", 5, False).penalty() == 0


def on_white(given: Scene) -> Scene:
    """What is black becomes white."""
    changed = {}
    for key in ("train_images", "test_images"):
        images = getattr(given, key)
        empty = images.amax(3, keepdim=True) < 0.02
        changed[key] = torch.where(empty, torch.ones_like(images), images)
    return replace(given, **changed)


@pytest.mark.parametrize(("background", "least"), [("white", 1.0), ("learned", 0.55)])
def test_a_bright_background_is_kept_in_the_file(
    ball: Callable[..., Scene], background: str, least: float
) -> None:
    given = on_white(ball())
    assert given.test_images is not None
    found = fit_nerf(given, replace(SETTINGS, background=background, steps=90))
    decoded = codec.decode(codec.encode(found.model, found.steps, found.used))
    assert decoded.background == pytest.approx(found.model.background)  # pyright: ignore
    assert min(found.model.background) >= least  # It begins at a half.
    pictures = decoded.render(given.test)
    if background == "white":  # The learned one is still on its way.
        white = psnr(torch.ones_like(pictures), given.test_images).mean()
        assert float(psnr(pictures, given.test_images).mean() - white) > 3


def test_exposures_are_found_and_left_out(ball: Callable[..., Scene]) -> None:
    given = ball()
    assert given.train_images is not None
    gains = torch.where(torch.arange(len(given.train)) % 2 == 0, 1.25, 0.8)
    changed = (given.train_images * gains[:, None, None, None]).clamp(0, 1)
    uneven = replace(given, train_images=changed)
    trainer = NerfTrainer(uneven, replace(SETTINGS, exposure=True))
    for step in range(SETTINGS.steps):
        if step % CELLS_EVERY == 0 and step:
            trainer.look(everywhere=True)
        trainer.step(cosine_rate(step, SETTINGS.steps, SETTINGS.rate))
    learned = trainer.appearance.gains().mean(1).detach()
    assert float(learned[gains > 1].min()) > 1.01 > 0.99 > float(learned[gains < 1].max())


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^background: expected one of black"):
        NerfSettings(ENCODING, background="green")
    for wrong in ([1, 2], [0, 0, 2], "x", [0, 0, float("nan")], [True, 0, 0]):
        with pytest.raises(ValueError, match=r"^background: expected 3 numbers"):
            background_of({"background": wrong})
    assert background_of({}) == (0.0, 0.0, 0.0)
