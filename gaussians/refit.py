"""Colour re-fit: the colours that best repair, on given geometry, what pruning and rounding broke.

With geometry and opacities held, and where no colour is clamped at 0, pictures are linear in the
spherical-harmonic coefficients. So the best ones in the squared error of views rendered from the
original are a linear least-squares problem; conjugate gradients solve it without its matrix, from
the colours that there are. Early stopping leaves alone what the views say little about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..render.sh import sh_bases
from ..render.splat import RasterOptions, rasterize
from ..render.statistics import statistics
from ..scenes.cameras import Cameras
from .model import SplatModel

FLOOR = 0.05  # Of a Gaussian's mean diagonal: directions that no view saw get no large steps.
MOST_PIXELS = 640 * 480  # of a view


@dataclass(frozen=True)
class Lesson:
    """What the colours are fitted to: views [C] and pictures [C, H, W, 3] from them."""

    views: Cameras
    pictures: Tensor

    @staticmethod
    def of(model: SplatModel, views: Cameras, most: int) -> Lesson:
        """Renders of a model from at most `most` of the views, evenly chosen, of bounded size."""
        if len(views) > most:
            views = views[torch.linspace(0, len(views) - 1, most).round().long()]
        shrink = (MOST_PIXELS / (views.width * views.height)) ** 0.5
        if shrink < 1:
            width, height = (max(1, round(x * shrink)) for x in (views.width, views.height))
            views = views.resized(width, height)
        return Lesson(views, model.render(views))

    def every(self, step: int) -> Lesson:
        """Every step-th view only."""
        return Lesson(self.views[::step], self.pictures[::step])


def refit(model: SplatModel, lesson: Lesson, iterations: int) -> SplatModel:
    """The model with colours nearer the least-squares fit to the lesson's pictures.

    Preconditioned nonlinear conjugate gradients (Polak-Ribiere) with the exact step along each
    direction for colours above 0; the rest follows in the next iteration. An iteration takes two
    renders and a backward pass of every view. Deterministic whatever the number of threads.
    """
    if not len(model) or iterations < 1:
        return model
    means, quats, scales, opacities, start = model.activated()
    options = model.options()
    colors = start.clone()

    def draw(values: Tensor, index: int) -> Tensor:
        view = lesson.views[index : index + 1]
        return rasterize(
            means, quats, scales, opacities, values,
            view.viewmats, view.Ks, view.width, view.height, options,
        )[0][0]  # fmt: skip

    inverse = 1 / _diagonal(model, lesson.views)[:, :, None]
    residuals = torch.empty_like(lesson.pictures)
    direction = previous = None
    before = 1.0
    for _ in range(iterations):
        gradient = _gradient(colors, draw, lesson.pictures, residuals)
        steepest = inverse * gradient
        now = _dot(gradient, steepest)
        if now <= 0:
            break
        if direction is None or previous is None:
            direction = steepest
        else:
            turn = max(0.0, (now - _dot(steepest, previous)) / before)
            direction = steepest.add_(direction, alpha=turn)
        previous, before = gradient, now
        colors = colors + _step(colors, direction, draw, lesson.pictures, residuals) * direction
    return replace(model, sh0=colors[:, :1], shN=colors[:, 1:])


def _gradient(
    colors: Tensor, draw: Callable[[Tensor, int], Tensor], pictures: Tensor, residuals: Tensor
) -> Tensor:
    """Half the negative gradient [N, K, 3] of the squared error; fills residuals [C, H, W, 3]."""
    total = torch.zeros_like(colors)
    leaf = colors.detach().requires_grad_(True)
    for index in range(len(pictures)):
        image = draw(leaf, index)
        torch.sub(pictures[index], image.detach(), out=residuals[index])
        total += torch.autograd.grad(image, leaf, residuals[index])[0]
    return total


def _step(
    colors: Tensor,
    direction: Tensor,
    draw: Callable[[Tensor, int], Tensor],
    pictures: Tensor,
    residuals: Tensor,
) -> float:
    """The factor on a direction [N, K, 3] that takes the squared error lowest."""
    along = length = 0.0
    moved = colors + direction
    for index in range(len(pictures)):
        change = draw(moved, index) - (pictures[index] - residuals[index])
        along += _dot(change, residuals[index])
        length += _dot(change, change)
    return along / length if length > 0 else 0.0


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))


def _diagonal(model: SplatModel, views: Cameras) -> Tensor:
    """[N, K] about the diagonal of the least-squares matrix: cross terms of Gaussians left out."""
    means, quats, scales, opacities, colors = model.activated()
    options = RasterOptions(rasterize_mode=model.options().rasterize_mode)
    total = torch.zeros(colors.shape[:2])
    for index in range(len(views)):
        view = views[index : index + 1]
        found = statistics(
            means, quats, scales, opacities,
            view.viewmats, view.Ks, view.width, view.height, options,
        )  # fmt: skip
        directions = torch.nn.functional.normalize(means - view.positions, dim=1)
        bases = sh_bases(model.sh_degree, directions).float()
        total += found.weight_sq.float()[:, None] * bases.square_()
    return total + FLOOR * total.mean(1, keepdim=True) + 1e-6
