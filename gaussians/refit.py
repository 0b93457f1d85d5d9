"""Colour re-fit: colours that repair, on given geometry, what pruning and rounding broke.

With geometry and opacities held, and where no colour is clamped at 0, pictures are linear in the
spherical-harmonic coefficients: a linear least-squares problem. It is solved view by view (block
SART: Andersen and Kak 1984), which comes as near in one sweep as conjugate gradients in three
iterations, and needs three numbers a Gaussian beside the colours. Early stopping leaves alone what
the views say little about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..render.splat import rasterize
from ..scenes.cameras import Cameras
from .memory import LARGE
from .model import SplatModel
from .paint import bases_in, painted
from .shelf import let_go

MOST_PIXELS = 640 * 480  # of a view
SMOOTH = 0.5  # What a view says of a direction is believed of all: share of each degree's change.
FLOOR = 0.3  # Pixels that a Gaussian must fill before a view moves its colour all the way.


@dataclass(frozen=True)
class Lesson:
    """What the colours are fitted to: views [C] and pictures [C, H, W, 3] from them.

    Those of large models are in half precision: 2^-12 is as nothing beside what is to be repaired.
    """

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
        pictures = torch.empty(
            len(views), views.height, views.width, 3,
            dtype=torch.half if model.float_bytes >= LARGE else torch.float32,
        )  # fmt: skip
        render = model.renderer()
        for index in range(len(views)):
            pictures[index] = render(views[index : index + 1])[0]
        return Lesson(views, pictures)

    def every(self, step: int) -> Lesson:
        """Every step-th view only."""
        return Lesson(self.views[::step], self.pictures[::step])


def refit(model: SplatModel, lesson: Lesson, sweeps: int, *, own: bool = False) -> SplatModel:
    """The model with colours nearer the least-squares fit to the lesson's pictures.

    A view moves the colour that each Gaussian has in it by the mean residual of what the Gaussian
    shows there, times a relaxation that falls to 0 over the sweeps; of the coefficients that give
    that colour the nearest are taken, low degrees moving more readily. A sweep takes a render and
    a backward pass of every view. Deterministic whatever the number of threads. With `own` the
    colours are changed where they are.
    """
    if not len(model) or sweeps < 1:
        return model
    geometry, colors = model.activated()[:4], model.colors()
    colors = colors if own else colors.clone()
    options = replace(model.options(), sh_degree=None)
    order = _scattered(len(lesson.views))
    for number in range(sweeps):
        relax = (sweeps - number) / (sweeps + 0.7)
        for index in order:
            view = lesson.views[index : index + 1]
            shown = painted(model.means, colors, view.positions, 4).requires_grad_(True)
            image = rasterize(
                *geometry, shown, view.viewmats, view.Ks, view.width, view.height, options
            )[0][0]  # fmt: skip
            residual = torch.ones_like(image)  # The last channel's gradient is the weight.
            torch.sub(lesson.pictures[index], image.detach()[..., :3], out=residual[..., :3])
            (found,) = torch.autograd.grad(image, shown, residual)
            found[(shown == 0) & (found < 0)] = 0  # What is black already gets no darker.
            _move(model, colors, view, found, relax)
    return replace(model, sh0=colors[:, :1], shN=colors[:, 1:])


def _scattered(count: int) -> list[int]:
    """0 to count - 1 in bit-reversed order: views that follow one another have little in common."""
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [i for i in order if i < count]


def _move(model: SplatModel, colors: Tensor, view: Cameras, found: Tensor, relax: float) -> None:
    """Change coefficients [N, K, 3] in place by what a backward pass found of one view."""
    ease = torch.tensor([SMOOTH**n for n in range(model.sh_degree + 1) for _ in range(2 * n + 1)])
    for part, bases in bases_in(model.means, view.positions, model.sh_degree):
        change = found[part, :3] * (relax / (found[part, 3:] + FLOOR))
        eased = bases * ease
        eased /= (eased * bases).sum(1, keepdim=True)
        colors[part] += eased[:, :, None] * change[:, None]
        let_go(colors)
