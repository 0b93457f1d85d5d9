"""Pictures of latent grids: one frame of the group codec as a .fpz file (docs/format.md, 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import container
from ..quant.container import Container, Section
from ..scenes.cameras import Cameras
from .latent_codec import LatentCodec

CODEC = "latent"
SECTION = "group/0"
MAX_PIXELS = 1 << 26
MOST_EXPANSION = 1 << 16  # Bytes of pixels for a byte of the file: more is a claim, not a picture.


@dataclass(frozen=True)
class LatentImage:
    """A decoded picture.

    Attributes:
        pixels: [H, W, 3] uint8 sRGB.
        extra: numbers and strings that travel with it (provenance).
    """

    pixels: NDArray[np.uint8]
    extra: dict[str, Any] = field(default_factory=dict)

    kind = "image"

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def float_bytes(self) -> int:
        return 4 * self.pixels.size

    def tensors(self) -> dict[str, Tensor]:
        return {"pixels": torch.from_numpy(self.pixels)}

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width, "height": self.height, **self.extra}

    def describe(self) -> dict[str, Any]:
        """What `info` says of it."""
        return {**self.meta(), "codec": CODEC, "float_bytes": self.float_bytes}

    def picture(self, width: int | None = None, height: int | None = None) -> Tensor:
        """[H, W, 3] float32 in 0..1; at another size, bilinear."""
        x = torch.from_numpy(self.pixels).float() / 255
        size = (height or self.height, width or self.width)
        if size == (self.height, self.width):
            return x
        stretched = torch.nn.functional.interpolate(
            x.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True
        )
        return stretched[0].permute(1, 2, 0)

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3]: the picture at the cameras' size, whatever their poses."""
        return self.picture(cameras.width, cameras.height).expand(len(cameras), -1, -1, -1)


def write(payload: bytes, width: int, height: int, header: Mapping[str, Any]) -> bytes:
    """The .fpz file of what `LatentCodec.encode` gave for one frame."""
    layout = {"size": [width, height]}
    section = Section(SECTION, "raw", payload, len(payload))
    head = {**header, "kind": LatentImage.kind, "codec": CODEC, "layout": layout}
    return container.write(head, [section])


def read(found: Container, name: str) -> LatentImage:
    """The picture of a file. Raises ValueError that names the file and what is at fault in it."""
    layout = found.header.get("layout")
    size = layout.get("size") if isinstance(layout, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(v) is int for v in size)):
        raise ValueError(f"{name}: header: size: expected 2 whole numbers, got {size!r:.40}")
    width, height = size
    if not (0 < width < 1 << 16 and 0 < height < 1 << 16 and width * height <= MAX_PIXELS):
        raise ValueError(
            f"{name}: header: size: expected up to {MAX_PIXELS} pixels, got {width}x{height}"
        )
    if [section.name for section in found.sections] != [SECTION]:
        names = ", ".join(section.name for section in found.sections)
        raise ValueError(f"{name}: expected one section, {SECTION}, got {names or 'none'}")
    payload = found.sections[0].payload
    if 3 * width * height > MOST_EXPANSION * len(payload):
        raise ValueError(f"{name}: header: {width}x{height} pixels in {len(payload)} bytes")
    try:
        frames, _ = LatentCodec().decode(payload, (1, height, width))
    except ValueError as error:
        raise ValueError(f"{name}: section {SECTION!r}: {error}") from None
    extra = {k: v for k, v in found.header.items() if k not in ("kind", "layout", "codec")}
    return LatentImage(frames[0], extra)
