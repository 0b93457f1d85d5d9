"""How far errors of geometry carry into the pictures: Gauss-Newton diagonals by random probes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..render.splat import rasterize
from ..scenes.cameras import Cameras
from .importance import known_or_guessed
from .model import SplatModel
from .paint import painted
from .shelf import STRIP, on_shelf


@dataclass(frozen=True)
class Sensitivity:
    """Squared error, summed over all views, pixels and channels, per squared error of a value.

    Attributes:
        position: [N] float64 of the centre, in units of the Gaussian's second scale.
        scale: [N] float64 of the three log scales.
        removal: [N] float64 of ln alpha: to first order also what removing the Gaussian costs.
    """

    position: Tensor
    scale: Tensor
    removal: Tensor

    def geometry(self, position: float, scale: float, opacity: float) -> Tensor:
        """[N] float64 harm done by errors of these sizes together."""
        return (
            position**2 * self.position + scale**2 * self.scale + opacity**2 * self.removal
        )  # fmt: skip


def sensitivity(
    model: SplatModel, views: Cameras, *, probes: int = 1, seed: int = 0
) -> Sensitivity:
    """Diagonals of J^T J of the pictures of all views, estimated (Hutchinson 1990).

    The squared length of dC/dx is the mean of (d(z . C)/dx)^2 over random signs z: a backward
    pass a view and probe instead of a Jacobian. Unbiased; the relative standard deviation falls
    with views, probes and the values summed. A picture is linear in the alpha of one Gaussian (but
    for the clamp of alpha), so its removal costs (alpha dC/dalpha)^2. Gaussians that no view had
    in its frustum get a guess, see `importance`. Of colours on a shelf it is neglected that they
    change as the centre moves.
    """
    means, quats, scales, opacities, colors = (x.detach() for x in model.activated())
    options, shelf = model.options(), on_shelf(model)
    if shelf:
        options = replace(options, sh_degree=None)
    generator = torch.Generator().manual_seed(seed)
    inputs = [x.detach().requires_grad_(True) for x in (means, scales, opacities)]
    sums = [torch.zeros(len(model)) for _ in inputs]
    width = torch.cat([part.sort(dim=1).values[:, 1:2] for part in scales.split(STRIP)])
    for index in range(len(views)):
        view = views[index : index + 1]
        shown = painted(means, colors, view.positions) if shelf else colors
        for _ in range(probes):
            image, _, _ = rasterize(
                inputs[0], quats, inputs[1], inputs[2], shown,
                view.viewmats, view.Ks, view.width, view.height, options,
            )  # fmt: skip
            signs = torch.randint(0, 2, image.shape, generator=generator, dtype=torch.int8)
            found = torch.autograd.grad(image, inputs, signs.to(image.dtype).mul_(2).sub_(1))
            del image, signs
            for total, gradient, unit in zip(sums, found, (width, scales, opacities), strict=True):
                gradient.mul_(unit).square_()
                total += gradient if gradient.ndim == 1 else gradient.sum(1)
            del found
    done = [known_or_guessed(model, views, total.double() / probes) for total in sums]
    return Sensitivity(*done)
