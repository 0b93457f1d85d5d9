"""Fewer Gaussians: what each one's removal costs, and a gradual way down to a count."""

from __future__ import annotations

import torch
from torch import Tensor

from ..render.splat import rasterize
from ..scenes.cameras import Cameras
from .model import SplatModel
from .train import Trainer


def removal_error(model: SplatModel, views: Cameras, *, probes: int = 1, seed: int = 0) -> Tensor:
    """[N] float64 squared error, summed over all views, that removing each Gaussian alone causes.

    A picture is linear in the alpha of one Gaussian, so removing it changes the picture C by
    -o dC/do. The squared length of that is the mean of (o d(z . C)/do)^2 over random signs z
    (Hutchinson 1990): a backward pass a view and probe instead of a Jacobian. An estimate, unbiased
    but for the clamp of alpha; the relative standard deviation falls with views and probes.
    """
    means, quats, scales, opacities, colors = (x.detach() for x in model.activated())
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(model), dtype=torch.float64)
    for index in range(len(views)):
        view = views[index : index + 1]
        for _ in range(probes):
            o = opacities.clone().requires_grad_(True)
            image, _, _ = rasterize(
                means, quats, scales, o, colors,
                view.viewmats, view.Ks, view.width, view.height, model.options(),
            )  # fmt: skip
            signs = torch.randint(0, 2, image.shape, generator=generator).to(image.dtype) * 2 - 1
            (gradient,) = torch.autograd.grad((image * signs).sum(), o)
            total += (opacities * gradient).double().square()
    return total / probes


def counts(start: int, goal: int, rounds: int) -> list[int]:
    """Gaussians after each of some rounds: equal shares dropped, the last leaves the goal."""
    if goal >= start or rounds < 1:
        return []
    return [round(start * (goal / start) ** ((r + 1) / rounds)) for r in range(rounds)]


def keep(trainer: Trainer, chosen: Tensor) -> None:
    """Go on with the Gaussians of a mask [N] only, Adam's moments included."""
    values = {name: p.detach()[chosen] for name, p in trainer.params.items()}
    moments = {name: [m[chosen] for m in pair] for name, pair in trainer.moments().items()}
    trainer.replace(values, moments)


def drop_least(trainer: Trainer, views: Cameras, count: int) -> None:
    """Keep the `count` Gaussians whose removal would cost most; ties by order."""
    model = trainer.model()
    error = removal_error(model, views, seed=trainer.number)
    order = error.argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(len(model), dtype=torch.bool)
    chosen[order] = True
    keep(trainer, chosen)
