"""Fewer Gaussians, better placed: what each one's removal costs, and where more are wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from ..render.splat import rasterize
from ..scenes.cameras import Cameras
from .densify import OPACITY_RANGE, relocated
from .frames import rotations
from .model import SplatModel
from .train import Trainer

APART = 0.5  # Standard deviations from the old centre to each new one.
THINNER = 0.35  # Off the log scale along which they part.


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


@torch.no_grad()
def split_wanted(trainer: Trainer, count: int) -> None:
    """Replace `count` Gaussians by two each, where the pictures pull at their places most.

    How much is the root of Adam's second moment of the mean, which no sign cancels, times the
    largest scale. The two lie along the longest axis, shorter along it, with opacities that let
    through together what the one did.
    """
    moments, values = trainer.moments(), {n: p.detach() for n, p in trainer.params.items()}
    count = min(count, len(values["means"]))
    if "means" not in moments or count < 1:
        return
    sizes, longest = values["scales"].exp().max(1)
    pull = moments["means"][1].sum(1).sqrt() * sizes
    chosen = pull.argsort(descending=True, stable=True)[:count]
    half = {name: value[chosen] for name, value in values.items()}
    opacity, _ = relocated(half["opacities"].sigmoid(), torch.full((count,), 2))
    half["opacities"] = torch.logit(opacity.clamp(*OPACITY_RANGE))
    row, axis = torch.arange(count), longest[chosen]
    half["scales"][row, axis] -= THINNER
    offset = rotations(half["quats"])[row, :, axis] * (APART * sizes[chosen])[:, None]
    grown = {}
    for name, value in values.items():
        away = offset if name == "means" else 0.0
        grown[name] = torch.cat([value, half[name] - away])
        grown[name][chosen] = half[name] + away
    for pair in moments.values():
        pair[:] = [torch.cat([m, torch.zeros_like(m[:count])]) for m in pair]
        for m in pair:
            m[chosen] = 0
    trainer.replace(grown, moments)
