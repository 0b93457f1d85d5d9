"""Pictures as fields: colours at places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from .network import Network

MAX_SIDE = 1 << 16
STRIP = 1 << 18  # Pixels that are decoded at once.


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
    dims = 2

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(
                f"image: expected sides of 1 to {MAX_SIDE}, got {self.width}x{self.height}"
            )
        if self.network.encoding.dims != self.dims or len(self.network.weights[-1]) != 3:
            raise ValueError("image: expected a network from 2 coordinates to 3 colours")

    @property
    def float_bytes(self) -> int:
        return self.network.float_bytes

    def tensors(self) -> dict[str, Tensor]:
        return self.network.tensors()

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width, "height": self.height, **self.extra}

    def place(self) -> dict[str, Any]:
        """What `at` needs beside the network: keys of a file's layout."""
        return {"size": [self.width, self.height]}

    @staticmethod
    def at(network: Network, layout: dict[str, Any], extra: dict[str, Any]) -> ImageField:
        """The model of a file's layout. Raises ValueError naming the key."""
        size = layout.get("size")
        if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int for v in size)):
            raise ValueError(f"size: expected 2 whole numbers, got {size!r:.40}")
        return ImageField(network, size[0], size[1], extra)

    def to(self, device: torch.device | str) -> ImageField:
        """The same field on another device."""
        return replace(self, network=self.network.to(device))

    def picture(self, width: int | None = None, height: int | None = None) -> Tensor:
        """[H, W, 3] float32, not clamped; at another size too, since a field has none."""
        w, h = width or self.width, height or self.height
        on = self.network.table.device
        out = torch.empty(h * w, 3, device=on)
        for first, points in zip(range(0, h * w, STRIP), strips(w, h, on), strict=True):
            out[first : first + STRIP] = self.network(points).T
        return out.reshape(h, w, 3)

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3]: the picture at the cameras' size, whatever their poses."""
        return self.picture(cameras.width, cameras.height).expand(len(cameras), -1, -1, -1)


def places(index: Tensor, width: int, height: int) -> Tensor:
    """[N, 2] field coordinates of pixels by their number, row by row."""
    x, y = index % width, index // width
    return (torch.stack([x, y], 1) + 0.5) / max(width, height)


def strips(width: int, height: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """The field coordinates of all pixels, row by row, some at a time."""
    for first in range(0, width * height, STRIP):
        index = torch.arange(first, min(first + STRIP, width * height), device=device)
        yield places(index, width, height)
