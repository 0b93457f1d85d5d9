"""How pictures become fields: least squares on random pixels, the quantiser in the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import codec
from .image import ImageField, strips
from .levels import Encoding
from .network import Network, Trainer, cosine_rate
from .pixels import HeldPixels, Pixels

SAMPLES = 1 << 17  # Pixels that stand for all where steps are searched for.
TRIALS = 9

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class ImageSettings:
    """How a picture is fitted.

    Attributes:
        encoding: of two dimensions; or None: `encoding_for` the picture.
        neurons, hidden: width and number of the network's hidden layers.
        steps, batch: pixels of a step are drawn at random.
        rate: learning rate of the table at first.
        quantise_db: train the last third of the steps through the rounding of tables that would
            at first lose so many dB; None: do not.
        seed: of every random choice.
    """

    encoding: Encoding | None = None
    neurons: int = 64
    hidden: int = 2
    steps: int = 1000
    batch: int = 1 << 16
    rate: float = 1e-2
    quantise_db: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("neurons", "hidden", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate: expected above 0, up to 1, got {self.rate}")


def encoding_for(
    width: int, height: int, otype: str = "SimplexGrid", log2_hashmap_size: int | None = None
) -> Encoding:
    """Levels from 16 cells to half a cell a pixel; without a size, rows for 1/24 of the pixels."""
    if log2_hashmap_size is None:
        log2_hashmap_size = max(8, min(22, round(math.log2(width * height / 24))))
    finest = max(32, max(width, height) / 2)
    levels = max(2, min(16, round(2 * math.log2(finest / 16)) + 1))
    growth = (finest / 16) ** (1 / (levels - 1))
    return Encoding(2, otype, levels, 2, log2_hashmap_size, 16, growth)


@dataclass(frozen=True)
class FittedImage:
    """A field, the rows that its pixels meet, and how it came about.

    Attributes:
        model: as fitted, not rounded.
        used: [rows] of each level.
        steps: quantisation steps that it was trained with, or None.
        seconds: of fitting.
    """

    model: ImageField
    used: codec.Used
    steps: codec.Steps | None
    seconds: float


def fit_image(
    picture: Tensor | Pixels,
    settings: ImageSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    watch: Callable[[int, Trainer], bool] | None = None,
) -> FittedImage:
    """Fit a field to a picture by least squares on random pixels.

    Args:
        picture: [H, W, 3] uint8, or pixels that are not all in memory.
        settings: what and how long.
        device: where to train; what comes back lies on the CPU.
        progress: called with a label and the share done.
        watch: called before each step; True ends the fit.

    Raises:
        ValueError: for a picture of another shape or dtype.
    """
    pixels = HeldPixels(picture, device) if isinstance(picture, Tensor) else picture
    height, width = pixels.height, pixels.width
    encoding = settings.encoding or encoding_for(width, height)
    used = codec.rows_in_use(encoding, strips(width, height))
    widths = [settings.neurons] * settings.hidden + [3]
    trainer = Trainer(encoding, widths, settings.seed, device)
    rng = torch.Generator().manual_seed(settings.seed + 1)
    turn = round(settings.steps * (1 - codec.QUANTISED_SHARE)) if settings.quantise_db else -1
    start, steps = time.perf_counter(), None
    for step in range(settings.steps):
        if watch is not None and watch(step, trainer):
            break
        if progress is not None and step % 10 == 0:
            progress("fitting", step / settings.steps)
        if step == turn and settings.quantise_db:
            steps = search_steps(trainer.network, used, pixels, settings.quantise_db)
        points, target = (t.to(device) for t in pixels.draw(settings.batch, rng))
        rounded = None if steps is None else codec.rounded_table(encoding, trainer.table, steps)
        _step(trainer, points, target, cosine_rate(step, settings.steps, settings.rate), rounded)
    seconds = time.perf_counter() - start
    return FittedImage(ImageField(trainer.network, width, height), used, steps, seconds)


def search_steps(
    network: Network, used: codec.Used, picture: Tensor | Pixels, loss_db: float
) -> codec.Steps:
    """The coarsest steps whose rounding loses at most `loss_db` on a sample of the pixels."""
    pixels = HeldPixels(picture) if isinstance(picture, Tensor) else picture
    drawn = pixels.draw(SAMPLES, torch.Generator().manual_seed(2))
    points, target = (t.cpu() for t in drawn)
    steps = codec.even_steps(network, used, points)

    def error(network: Network) -> float:
        return float((network(points).clamp(0, 1) - target).square().mean())

    goal = error(network) * 10 ** (loss_db / 10)
    low, high = -12.0, 2.0  # log2 of the factor: what loses too little, too much.
    for _ in range(TRIALS):
        middle = 0.5 * (low + high)
        good = error(codec.requantise(network, steps.scaled(2**middle), used)) <= goal
        low, high = (middle, high) if good else (low, middle)
    return steps.scaled(2**low)


def _step(
    trainer: Trainer, points: Tensor, target: Tensor, rate: float, table: Tensor | None
) -> None:
    """One step of least squares, on features of another table where there is one."""
    trainer.step(
        points, lambda out, part: (out - target[:, part]) * (2 / target.numel()), rate, table
    )
