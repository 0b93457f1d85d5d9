"""Drawing elsewhere: what is moved, what is kept there, what comes back."""

from __future__ import annotations

import pytest
import torch

from fieldpress.render import elsewhere, splat, statistics
from fieldpress.render.elsewhere import Elsewhere, drawing_on, elsewhere_for
from fieldpress.render.splat import rasterize

META = torch.device("meta")  # A device that every torch has, on which nothing can be drawn.


def scene() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(50, 3, generator=g), torch.randn(50, 4, generator=g),
        torch.full((50, 3), 0.1), torch.rand(50, generator=g), torch.rand(50, 3, generator=g),
        torch.eye(4)[None] + torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4.0], [0] * 4]),
        torch.tensor([[[20.0, 0, 8], [0, 20.0, 8], [0, 0, 1]]]),
    ]  # fmt: skip


def test_copies_are_kept_while_nothing_changes() -> None:
    there = Elsewhere(META)
    value = torch.zeros(3)
    first = there.copy_of(value)
    assert first is not None
    assert first.device == META
    assert there.copy_of(value) is first
    value += 1
    second = there.copy_of(value)
    assert second is not first
    others = [torch.zeros(2) for _ in range(elsewhere.MOST_COPIES)]
    for other in others:
        there.copy_of(other)
    assert there.copy_of(value) is not second
    assert there.copy_of(None) is None


def test_a_tensor_in_the_place_of_another_is_not_taken_for_it() -> None:
    there = Elsewhere(META)
    for size in range(1, 200):
        copy = there.copy_of(torch.zeros(size))  # Often at the address of the one before.
        assert copy is not None
        assert len(copy) == size


def test_tensors_with_gradients_stay_in_the_graph() -> None:
    copy = Elsewhere(META).copy_of(torch.zeros(3, requires_grad=True))
    assert copy is not None
    assert copy.grad_fn is not None


def test_only_within_and_only_what_lies_on_the_cpu() -> None:
    here = torch.zeros(1)
    with drawing_on(META):
        assert elsewhere_for(here) is not None
        assert elsewhere_for(torch.zeros(1, device=META)) is None
        with pytest.raises(ValueError, match="got one on meta"):
            rasterize(*scene(), 16, 16)
        with pytest.raises(ValueError, match="got one on meta"):
            statistics.statistics(*scene()[:4], *scene()[5:], 16, 16)
    assert elsewhere_for(here) is None
    with drawing_on(torch.device("cpu")):
        assert elsewhere_for(here) is None


def test_what_is_drawn_elsewhere_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a device: copies on the CPU, drawn there."""
    want, sums = scene(), scene()
    leaves = [part.requires_grad_() for part in want[:5]]
    image, alpha, _ = rasterize(*leaves, *want[5:], 16, 16)
    grads = torch.autograd.grad(image.square().sum() + alpha.sum(), leaves)
    counted = statistics.statistics(*sums[:4], *sums[5:], 16, 16)
    taken = []

    class Twin(Elsewhere):
        def copy_of(self, value: torch.Tensor | None) -> torch.Tensor | None:
            taken.append(value)
            return None if value is None else value * 1

    def twin_for(value: torch.Tensor) -> Twin | None:
        return Twin(META) if not taken else None

    for module in (splat, statistics):
        monkeypatch.setattr(module, "elsewhere_for", twin_for)
    given = [part.requires_grad_() for part in scene()[:5]]
    found, opacity, meta = rasterize(*given, *want[5:], 16, 16)
    assert len(taken) == 8
    assert meta["width"] == 16
    assert torch.equal(found, image)
    again = torch.autograd.grad(found.square().sum() + opacity.sum(), given)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
    taken.clear()
    assert torch.equal(statistics.statistics(*sums[:4], *sums[5:], 16, 16).hits, counted.hits)
    assert len(taken) == 6
