"""A scene of tiles, seen: of each tile the level that a view needs, decoded when it is."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from .model import SplatModel
from .tiles import TiledFile, joined

DETAIL = 1.0  # Gaussians a pixel of a tile that are enough.
HELD_BYTES = 1 << 30  # Of decoded tiles that wait for the next view.
NEAR = 1e-6


@dataclass(frozen=True)
class TiledModel:
    """A scene that is decoded tile by tile as views ask for it.

    Attributes:
        file: the tiles.
        detail: Gaussians a pixel that its tiles are shown with, at least, where they have them.
        held_bytes: of decoded tiles that are kept; one view's are held whatever they are.
    """

    file: TiledFile
    detail: float = DETAIL
    held_bytes: int = HELD_BYTES
    _held: OrderedDict[tuple[int, int], SplatModel] = field(default_factory=OrderedDict)

    kind = "tiles"

    def __len__(self) -> int:
        return self.file.count

    def meta(self) -> dict[str, Any]:
        return dict(self.file.header)

    def select(self, cameras: Cameras) -> list[tuple[int, int]]:
        """Tile and level of all that the views [C] may see, in the file's order.

        A tile is left out where the sphere around it lies outside of every frustum. The coarsest
        level will do that has `detail` Gaussians for each pixel that the sphere covers, in the
        view that is nearest to it.
        """
        tiles = self.file.tiles
        low, high = torch.tensor([t.low for t in tiles]), torch.tensor([t.high for t in tiles])
        radius = (high - low).norm(dim=1) / 2 + torch.tensor([t.reach for t in tiles])
        pixels = torch.zeros(len(tiles))
        for viewmat, intrinsics in zip(cameras.viewmats, cameras.Ks, strict=True):
            seen = _pixels((low + high) / 2, radius, viewmat, intrinsics, cameras)
            pixels = torch.maximum(pixels, seen)
        found = []
        for number, (tile, covered) in enumerate(zip(tiles, pixels.tolist(), strict=True)):
            if covered > 0:
                levels = reversed(range(1, self.file.levels))
                enough = (n for n in levels if tile.counts[n] >= self.detail * covered)
                found.append((number, next(enough, 0)))
        return found

    def gather(self, cameras: Cameras) -> SplatModel | None:
        """One model of what `select` names; None where nothing is seen. Raises ValueError."""
        wanted = self.select(cameras)
        models = []
        for key in wanted:
            if key not in self._held:
                self._held[key] = self.file.read(*key)
            self._held.move_to_end(key)
            models.append(self._held[key])
        while sum(m.float_bytes for m in self._held.values()) > self.held_bytes:
            if len(self._held) <= len(wanted):
                break
            self._held.popitem(last=False)
        return joined(models) if models else None

    def renderer(self) -> Callable[[Cameras], Tensor]:
        return self.render

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3] float32 images on a black background, a view at a time."""
        out = torch.zeros(len(cameras), cameras.height, cameras.width, 3)
        for index in range(len(cameras)):
            camera = cameras[index : index + 1]
            model = self.gather(camera)
            if model is not None:
                out[index] = model.render(camera)[0]
        return out


def _pixels(
    centers: Tensor, radius: Tensor, viewmat: Tensor, intrinsics: Tensor, cameras: Cameras
) -> Tensor:
    """[T] pixels that spheres cover in a view; 0 out of sight, all and more around the camera."""
    at = centers @ viewmat[:3, :3].T + viewmat[:3, 3]
    f, middle = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float32)
    seen = at[:, 2] + radius > NEAR
    for sign, slope in ((-1.0, -middle / f), (1.0, (size - middle) / f)):
        off = sign * (at[:, :2] - slope * at[:, 2:]) / (1 + slope * slope).sqrt()
        seen &= (off < radius[:, None]).all(1)  # Distance beyond a side plane of the frustum.
    depth = at.norm(dim=1)
    inside = depth <= radius
    covered = math.pi * f.prod() * radius**2 / (depth**2 - radius**2).clamp_min(NEAR)
    return torch.where(seen, torch.where(inside, torch.inf, covered), 0.0)
