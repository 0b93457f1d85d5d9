"""A scene of tiles, seen: of each tile the level that a view needs, decoded when it is."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..quant import budget
from ..scenes.cameras import Cameras
from .model import FLOATS_WITHOUT_COLOR, SplatModel
from .tiles import TiledFile, joined

DETAIL = 1.0  # Gaussians a pixel of a tile that are enough.
HELD_BYTES = 1 << 30  # Of decoded tiles, and of the model joined of them.
SHARE_OF_LIMIT = 4  # Of the memory that reading may take, for these.
NEAR = 1e-6
MOST_DEGREE = 4

Key = tuple[int, int]  # Tile and level.


@dataclass(frozen=True)
class Gathered:
    """What a view shows of a scene of tiles.

    Attributes:
        model: all that is shown; None for nothing.
        shown: tiles and levels that it is joined of.
        waiting: 0 where these are the levels wanted; else 1 for each tile that is coarser, and 2
            for each that is not shown yet.
    """

    model: SplatModel | None
    shown: tuple[Key, ...]
    waiting: int


@dataclass(frozen=True)
class TiledModel:
    """A scene that is decoded tile by tile as views ask for it.

    Attributes:
        file: the tiles.
        detail: Gaussians a pixel that its tiles are shown with, at least, where they have them.
        held_bytes: that decoded tiles and what is joined of them take at most, but for one coarse
            tile. Where a view needs more, tiles that look small are coarser than `detail` asks, and
            then left out.
    """

    file: TiledFile
    detail: float = DETAIL
    held_bytes: int = HELD_BYTES
    _held: OrderedDict[Key, SplatModel] = field(default_factory=OrderedDict)
    _joined: dict[tuple[Key, ...], SplatModel] = field(default_factory=dict)  # The last one.

    kind = "tiles"

    def __len__(self) -> int:
        return self.file.count

    def meta(self) -> dict[str, Any]:
        return dict(self.file.header)

    @property
    def bytes(self) -> int:
        """That decoded tiles and what is joined of them take now."""
        return sum(m.float_bytes for m in (*self._held.values(), *self._joined.values()))

    def select(self, cameras: Cameras) -> list[Key]:
        """Tile and level of all that the views [C] may see, those that look largest first.

        A tile is left out where the sphere around it lies outside of every frustum. The coarsest
        level will do that has `detail` Gaussians for each pixel of the rectangle around its box, in
        the view where that is largest; but the finest where a camera stands in the box.
        """
        return self._choose(cameras)[0]

    def short_in(self, cameras: Cameras) -> int:
        """Views [C] of which `held_bytes` makes tiles coarser than wanted, or leaves some out."""
        return sum(self._choose(cameras[c : c + 1])[1] > 0 for c in range(len(cameras)))

    def gather(self, cameras: Cameras, seconds: float = math.inf, *, fine: bool = True) -> Gathered:
        """What `select` names, as far as it can be decoded in a time. Raises ValueError.

        Coarsest levels are decoded first, then what is wanted in its stead, one of them at least.

        Args:
            cameras: views [C].
            seconds: after which no other tile is begun.
            fine: whether more is to be decoded than coarsest levels.
        """
        end, last = time.monotonic() + seconds, self.file.levels - 1
        wanted = self.select(cameras)
        useful = {(tile, n) for tile, level in wanted for n in range(level, last + 1)}
        missing = [(tile, last) for tile, level in wanted if self._best(tile, level) is None]
        begun = False
        for key in dict.fromkeys([*missing, *wanted] if fine else missing):
            if key in self._held:
                continue
            if begun and time.monotonic() >= end:
                break
            self._joined.clear()  # Will be another one, and takes room.
            self._held[key] = self.file.read(*key)
            self._trim(useful)
            begun = True
        found = [self._best(tile, level) for tile, level in wanted]
        waiting = sum(
            2 if key is None else int(key != want) for key, want in zip(found, wanted, strict=True)
        )
        shown = tuple(sorted(key for key in found if key is not None))
        return Gathered(self._join(shown), shown, waiting)

    def renderer(self) -> Callable[[Cameras], Tensor]:
        return self.render

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3] float32 images on a black background, a view at a time."""
        out = torch.zeros(len(cameras), cameras.height, cameras.width, 3)
        for index in range(len(cameras)):
            camera = cameras[index : index + 1]
            model = self.gather(camera).model
            if model is not None:
                out[index] = model.render(camera)[0]
        return out

    def _choose(self, cameras: Cameras) -> tuple[list[Key], int]:
        tiles, last = self.file.tiles, self.file.levels - 1
        pixels, order = self._looks(cameras)
        room = self.held_bytes // 2 // _bytes_each(self.file)
        levels: dict[int, int] = {}
        for tile in order:
            if levels and tiles[tile].counts[last] > room:
                break
            levels[tile] = last
            room -= tiles[tile].counts[last]
        missed = len(order) - len(levels)
        for tile in levels:
            counts = tiles[tile].counts
            wanted = next(
                (n for n in range(last, 0, -1) if counts[n] >= self.detail * pixels[tile]), 0
            )
            level = next((n for n in range(wanted, last) if counts[n] - counts[last] <= room), last)
            levels[tile] = level
            room -= counts[level] - counts[last]
            missed += level != wanted
        return list(levels.items()), missed

    def _looks(self, cameras: Cameras) -> tuple[list[float], list[int]]:
        """Pixels that tiles cover, and those in sight, the one that looks largest first."""
        tiles = self.file.tiles
        low, high = torch.tensor([t.low for t in tiles]), torch.tensor([t.high for t in tiles])
        reach = torch.tensor([t.reach for t in tiles])
        pixels, size = torch.zeros(len(tiles)), torch.zeros(len(tiles))
        for viewmat, intrinsics in zip(cameras.viewmats, cameras.Ks, strict=True):
            seen = _pixels(low, high, reach, viewmat, intrinsics, cameras)
            pixels = torch.maximum(pixels, seen)
            depth = ((low + high) / 2 @ viewmat[:3, :3].T + viewmat[:3, 3]).norm(dim=1)
            looks = (high - low).norm(dim=1) / depth.clamp_min(NEAR)
            size = torch.maximum(size, torch.where(seen > 0, looks, 0.0))
        order = size.argsort(descending=True, stable=True)
        return pixels.tolist(), [int(tile) for tile in order if pixels[tile] > 0]

    def _best(self, tile: int, level: int) -> Key | None:
        """The level of a tile that is decoded and nearest to the one wanted, none finer."""
        keys = ((tile, n) for n in range(level, self.file.levels))
        return next((key for key in keys if key in self._held), None)

    def _join(self, shown: tuple[Key, ...]) -> SplatModel | None:
        """One model of decoded tiles."""
        if len(shown) > 1 and shown not in self._joined:
            self._joined.clear()
            self._joined[shown] = joined([self._held[key] for key in shown])
        for key in shown:
            self._held.move_to_end(key)
        self._trim(set(shown))
        if not shown:
            return None
        return self._joined[shown] if len(shown) > 1 else self._held[shown[0]]

    def _trim(self, useful: set[Key]) -> None:
        """Forget decoded tiles that are of no use now, the longest unused first, if need be."""
        for key in [key for key in self._held if key not in useful]:
            if self.bytes <= self.held_bytes:
                break
            del self._held[key]


def room() -> int:
    """Bytes that the decoded tiles of a file may take, of what --max-memory leaves."""
    return min(HELD_BYTES, budget.limit() // SHARE_OF_LIMIT)


def overview(file: TiledFile, tiles: int = 32, count: int = 1 << 16) -> SplatModel:
    """About `count` Gaussians at most, of the coarsest level of so many tiles: where a scene is."""
    numbers = range(0, len(file.tiles), -(-len(file.tiles) // tiles))
    total = sum(file.tiles[number].counts[file.levels - 1] for number in numbers)
    step = max(1, -(-total // count))
    return joined([file.read(number, file.levels - 1)[::step] for number in numbers])


def _bytes_each(file: TiledFile) -> int:
    """Of a decoded Gaussian; the most there can be where the header does not say its degree."""
    degree = file.header.get("sh_degree")
    if not isinstance(degree, int) or not 0 <= degree <= MOST_DEGREE:
        degree = MOST_DEGREE
    return 4 * (FLOATS_WITHOUT_COLOR + 3 * (degree + 1) ** 2)


def _pixels(
    low: Tensor, high: Tensor, reach: Tensor, viewmat: Tensor, intrinsics: Tensor, cameras: Cameras
) -> Tensor:
    """[T] pixels that boxes cover in a view, at least 1; 0 out of sight, infinite from within.

    Seen is what the sphere around a box and the `reach` [T] of its Gaussians may show; covered the
    rectangle around the box, all of the picture where a part of it lies behind the camera.
    """
    turn, move = viewmat[:3, :3], viewmat[:3, 3]
    f, middle = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float32)
    at, radius = (low + high) / 2 @ turn.T + move, (high - low).norm(dim=1) / 2 + reach
    seen = at[:, 2] + radius > NEAR
    for sign, slope in ((-1.0, -middle / f), (1.0, (size - middle) / f)):
        off = sign * (at[:, :2] - slope * at[:, 2:]) / (1 + slope * slope).sqrt()
        seen &= (off < radius[:, None]).all(1)  # Distance beyond a side plane of the frustum.
    ends = torch.stack([low, high])  # [2, T, 3]
    choice = torch.cartesian_prod(*[torch.arange(2)] * 3)
    corners = torch.stack([ends[choice[:, k], :, k] for k in range(3)], -1) @ turn.T + move
    z = corners[..., 2]
    spots = corners[..., :2] / z.clamp_min(NEAR)[..., None] * f + middle
    sides = (spots.amax(0).minimum(size) - spots.amin(0).clamp_min(0)).clamp_min(1)
    covered = torch.where((z > NEAR).all(0), sides.prod(1), size.prod())
    eye = -turn.T @ move
    covered[((eye >= low) & (eye <= high)).all(1)] = math.inf
    return torch.where(seen, covered, 0.0)
