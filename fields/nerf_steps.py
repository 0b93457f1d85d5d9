"""Which rows of a radiance field's tables matter, and how coarsely its file may round them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..scenes.cameras import Cameras, Scene
from ..scenes.metrics import psnr
from . import codec
from .nerf import NerfField
from .occupancy import cell_points

TRIALS = 8
SHOWN = 3  # Training views that the search for steps looks at.


def touched_rows(model: NerfField, name: str) -> tuple[codec.Used, Tensor]:
    """Rows that places in cells meet, and such places [N, 3]. Raises ValueError for no cells."""
    rng = torch.Generator().manual_seed(2)
    live = model.cells.nonzero()[:, 0]
    if not len(live):
        raise ValueError(f"{name}: the fit ended with an empty cube")
    points = [cell_points(part, rng) for part in live.repeat(8).split(1 << 16)]
    return codec.rows_in_use(model.network.encoding, points), torch.cat(points)


def search_steps(
    model: NerfField, used: codec.Used, scene: Scene, points: Tensor, loss_db: float,
    device: torch.device | str = "cpu",
) -> codec.Steps:  # fmt: skip
    """The coarsest steps whose rounding costs at most `loss_db` on some training views.

    The model lies on the CPU; the views are rendered on the device.
    """
    return coarsest(model, used, scene, loss_db, even_steps(model, used, points).scaled, device)


def even_steps(model: NerfField, used: codec.Used, points: Tensor) -> codec.Steps:
    """Steps of table, geometry and head that cost as much error per bit each."""
    steps = codec.even_steps(model.network, used, points)
    return replace(steps, head=tuple(min(steps.weights) for _ in model.head))


def coarsest(
    model: NerfField,
    used: codec.Used,
    scene: Scene,
    loss_db: float,
    steps_at: Callable[[float], codec.Steps],
    device: torch.device | str = "cpu",
) -> codec.Steps:
    """The coarsest steps of those at a factor whose rounding costs at most `loss_db`."""
    assert scene.train_images is not None
    pick = torch.linspace(0, len(scene.train) - 1, SHOWN).long()
    views, truth = scene.train[pick], scene.train_images[pick]
    goal = _quality(model.to(device), views, truth) - loss_db
    return coarsest_to(model, used, (views, truth), goal, steps_at, device)


def coarsest_to(
    model: NerfField,
    used: codec.Used,
    shown: tuple[Cameras, Tensor],
    goal: float,
    steps_at: Callable[[float], codec.Steps],
    device: torch.device | str = "cpu",
) -> codec.Steps:
    """The coarsest steps whose rounding shows views at `goal` dB to their pictures, or better."""
    low, high = -12.0, 4.0  # log2 of the factor: what loses too little, too much.
    for _ in range(TRIALS):
        middle = 0.5 * (low + high)
        rounded = codec.rounded(model, steps_at(2**middle), used).to(device)
        good = _quality(rounded, *shown) >= goal
        low, high = (middle, high) if good else (low, middle)
    return steps_at(2**low)


def _quality(model: NerfField, views: Cameras, truth: Tensor) -> float:
    level = float(psnr(model.render(views).cpu(), truth).mean())
    return level if math.isfinite(level) else -math.inf
