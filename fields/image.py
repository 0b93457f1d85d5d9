"""Pictures as fields: colours at places, and how they are fitted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from .levels import Encoding
from .network import Network, Trainer, cosine_rate

MAX_SIDE = 1 << 16
STRIP = 1 << 18  # Pixels that are decoded at once.
COLOR_SCALE = 255.0

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class ImageField:
    """A picture as a function of the place (Müller et al. 2022, section 5.1).

    Attributes:
        network: [0, 1]^2 to three colours, sRGB in [0, 1]; x to the right, y down. Pixel centres
            lie at (i + 0.5) / max(width, height).
        width, height: pixels of the picture that it was fitted to.
        extra: numbers and strings that travel with the model (provenance).
    """

    network: Network
    width: int
    height: int
    extra: dict[str, Any] = field(default_factory=dict)

    kind = "image"

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(
                f"image: expected sides of 1 to {MAX_SIDE}, got {self.width}x{self.height}"
            )
        if self.network.encoding.dims != 2 or len(self.network.weights[-1]) != 3:
            raise ValueError("image: expected a network from 2 coordinates to 3 colours")

    @property
    def float_bytes(self) -> int:
        return self.network.float_bytes

    def tensors(self) -> dict[str, Tensor]:
        return self.network.tensors()

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width, "height": self.height, **self.extra}

    def picture(self, width: int | None = None, height: int | None = None) -> Tensor:
        """[H, W, 3] float32, not clamped; at another size too, since a field has none."""
        w, h = width or self.width, height or self.height
        out = torch.empty(h * w, 3)
        for first in range(0, h * w, STRIP):
            index = torch.arange(first, min(first + STRIP, h * w))
            out[first : first + STRIP] = self.network(places(index, w, h)).T
        return out.reshape(h, w, 3)

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3]: the picture at the cameras' size, whatever their poses."""
        return self.picture(cameras.width, cameras.height).expand(len(cameras), -1, -1, -1)


def places(index: Tensor, width: int, height: int) -> Tensor:
    """[N, 2] field coordinates of pixels by their number, row by row."""
    x, y = index % width, index // width
    return (torch.stack([x, y], 1) + 0.5) / max(width, height)


@dataclass(frozen=True)
class ImageSettings:
    """How a picture is fitted.

    Attributes:
        encoding: of two dimensions; or None: `encoding_for` the picture.
        neurons, hidden: width and number of the network's hidden layers.
        steps, batch: pixels of a step are drawn at random.
        rate: learning rate of the table at first.
        seed: of every random choice.
    """

    encoding: Encoding | None = None
    neurons: int = 64
    hidden: int = 2
    steps: int = 1000
    batch: int = 1 << 16
    rate: float = 1e-2
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
    """Levels from 16 cells to half a cell a pixel; without a size, rows for a fifth of the pixels."""
    if log2_hashmap_size is None:
        log2_hashmap_size = max(8, min(22, round(math.log2(width * height / 5))))
    finest = max(32, max(width, height) / 2)
    levels = max(2, min(16, round(2 * math.log2(finest / 16)) + 1))
    growth = (finest / 16) ** (1 / (levels - 1))
    return Encoding(2, otype, levels, 2, log2_hashmap_size, 16, growth)


@dataclass(frozen=True)
class FittedImage:
    """A field and how it came about; `pixels` are the batches' own, so psnr_train is a guess."""

    model: ImageField
    seconds: float
    psnr_train: float


def fit_image(
    picture: Tensor,
    settings: ImageSettings,
    *,
    progress: Progress | None = None,
    watch: Callable[[int, Trainer], bool] | None = None,
) -> FittedImage:
    """Fit a field to a picture by least squares on random pixels.

    Args:
        picture: [H, W, 3] uint8.
        settings: what and how long.
        progress: called with a label and the share done.
        watch: called before each step; True ends the fit.

    Raises:
        ValueError: for a picture of another shape or dtype.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != torch.uint8:
        raise ValueError(f"picture: expected [H, W, 3] uint8, got {list(picture.shape)}")
    height, width = picture.shape[:2]
    pixels = picture.reshape(-1, 3)
    encoding = settings.encoding or encoding_for(width, height)
    trainer = Trainer(encoding, [settings.neurons] * settings.hidden + [3], settings.seed)
    rng = torch.Generator().manual_seed(settings.seed + 1)
    start, error = time.perf_counter(), 0.0
    for step in range(settings.steps):
        if watch is not None and watch(step, trainer):
            break
        if progress is not None and step % 10 == 0:
            progress("fitting", step / settings.steps)
        index = torch.randint(len(pixels), (settings.batch,), generator=rng)
        target = (pixels[index].float() / COLOR_SCALE).T.contiguous()
        rate = cosine_rate(step, settings.steps, settings.rate)
        error = _step(trainer, places(index, width, height), target, rate)
    seconds = time.perf_counter() - start
    model = ImageField(trainer.network, width, height)
    return FittedImage(model, seconds, -10 * math.log10(max(error, 1e-10)))


def _step(trainer: Trainer, points: Tensor, target: Tensor, rate: float) -> float:
    """One step of least squares; returns the mean squared error that it found."""
    total = 0.0

    def slope(outputs: Tensor, part: slice) -> Tensor:
        nonlocal total
        miss = outputs - target[:, part]
        total += float(miss.square().sum())
        return miss * (2 / target.numel())

    trainer.step(points, slope, rate)
    return total / target.numel()
