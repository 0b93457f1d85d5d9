"""Files of tiles as exhibits of the viewer: read by view, coarse before fine, never whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .gaussians.model import SplatModel
from .gaussians.tiled import Gathered, TiledModel, overview, room
from .gaussians.tiles import TiledFile
from .gaussians.unpack import SH_C0
from .render.splat import rasterize
from .scenes.cameras import Cameras
from .viewer.exhibit import Color, Exhibit, Knob, Ready, Shown

COARSE_SECONDS, FINE_SECONDS = 0.1, 0.3  # Of decoding for a new camera, for one that stays.
DETAILS, DETAIL = range(-6, 5), -2  # Powers of two: Gaussians a pixel.
REMEMBERED = 32  # Cameras of late, of all who look.
TINTS = ((1.0, 0.25, 0.2), (0.2, 0.55, 1.0), (0.3, 0.9, 0.3))  # Of levels, the finest first.
TINT_SHARE = 0.6


class Tiles:
    """A scene of tiles to be shown.

    A new camera gets the levels that are decoded, and the coarsest of tiles that have none; for one
    that stays, finer ones are decoded picture by picture.
    """

    def __init__(self, file: TiledFile, label: str) -> None:
        self.model = overview(file)  # For where to look from.
        self._tiled, self._label = TiledModel(file, held_bytes=room()), label

    def exhibit(self) -> Exhibit:
        """What the viewer is handed."""
        labels = tuple(f"{2.0**power:g}" for power in DETAILS)
        low, high = float(DETAILS[0]), float(DETAILS[-1])
        knobs = [Knob("detail", "Gaussians a pixel", low, high, 1, DETAIL, labels)]
        degree = self.model.sh_degree
        if degree:
            knobs.append(Knob("sh", "SH degree", 0, degree, 1, degree))
        knobs.append(Knob("tint", "levels tinted", 0, 1, 1, 0, ("no", "yes")))
        file = self._tiled.file
        sizes = {f"level {n}": 0 for n in range(file.levels)}
        for (_, level), (entry, _) in file.streams.items():
            sizes[f"level {level}"] += entry.coded_size
        return Exhibit(self._label, self.show, tuple(knobs), sizes)

    def show(self, values: Mapping[str, float], background: Color) -> Shown:
        """The scene at values of its knobs (viewer.exhibit.Exhibit.show)."""
        tiled = replace(self._tiled, detail=2.0 ** values["detail"])
        degree = int(values.get("sh", 0))
        seen = Seen(tiled, degree, bool(values["tint"]), torch.tensor(background))
        facts = {"tiles": len(tiled.file.tiles), "bytes": len(tiled.file.data)}
        return Shown(seen.render, facts, seen.depth, seen.prepare)


class Seen:
    """A scene of tiles at one setting: what was made ready for a camera, and pictures of it."""

    def __init__(self, tiled: TiledModel, degree: int, tinted: bool, background: Tensor) -> None:
        self._tiled, self._degree = tiled, degree
        self._tinted, self._background = tinted, background
        self._late: deque[bytes] = deque(maxlen=REMEMBERED)
        self._ready: tuple[bytes, Gathered] | None = None
        self._seconds = 0.0  # That the last picture took: as long may be decoded for the next.

    def prepare(self, camera: Cameras) -> Ready:
        """Decode some of what a camera [1] needs (viewer.exhibit.Shown.prepare)."""
        mark = _mark(camera)
        stays = mark in self._late
        if not stays:
            self._late.append(mark)
        seconds = max(FINE_SECONDS, self._seconds) if stays else COARSE_SECONDS
        found = self._tiled.gather(camera, seconds, fine=stays)
        self._ready = mark, found
        levels = [level for _, level in found.shown]
        facts: dict[str, int | float | str] = {
            f"tiles at level {n}": levels.count(n) for n in range(self._tiled.file.levels)
        }
        facts["Gaussians"] = 0 if found.model is None else len(found.model)
        facts["decoded, MB"] = round(self._tiled.bytes / 1e6)
        return Ready(found.waiting, facts)

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3]: what was made ready for this camera, else all that it needs."""
        start = time.monotonic()
        found = [self._picture(cameras[i : i + 1]) for i in range(len(cameras))]
        self._seconds = time.monotonic() - start
        return torch.cat(found)

    def depth(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 2]: camera z and opacity of the coarsest level."""
        out = torch.zeros(len(cameras), cameras.height, cameras.width, 2)
        for i in range(len(cameras)):
            camera = cameras[i : i + 1]
            model = self._tiled.gather(camera, fine=False).model
            if model is None:
                continue
            means, quats, scales, opacities, _ = model.activated()
            options = replace(model.options(), render_mode="ED", sh_degree=None, backgrounds=None)
            z, alpha, _ = rasterize(
                means, quats, scales, opacities, None,
                camera.viewmats, camera.Ks, camera.width, camera.height, options,
            )  # fmt: skip
            out[i] = torch.cat([z, alpha], -1)[0]
        return out

    def _picture(self, camera: Cameras) -> Tensor:
        if self._ready is not None and self._ready[0] == _mark(camera):
            found = self._ready[1]
        else:
            found = self._tiled.gather(camera)
        model = found.model
        if model is None:
            return self._background.expand(1, camera.height, camera.width, 3)
        degree = min(self._degree, model.sh_degree)
        if self._tinted:
            model = _tinted(model, found.shown, self._tiled)
        options = replace(model.options(), sh_degree=degree, backgrounds=self._background)
        return model.render(camera, options)


def _tinted(model: SplatModel, shown: tuple[tuple[int, int], ...], tiled: TiledModel) -> SplatModel:
    """The same with a colour of each level mixed in."""
    sh0, start = model.sh0.clone(), 0
    for tile, level in shown:
        end = start + tiled.file.tiles[tile].counts[level]
        tint = (torch.tensor(TINTS[level % len(TINTS)]) - 0.5) / SH_C0
        sh0[start:end] = torch.lerp(sh0[start:end], tint.expand_as(sh0[start:end]), TINT_SHARE)
        start = end
    return replace(model, sh0=sh0)


def _mark(camera: Cameras) -> bytes:
    size = torch.tensor([camera.width, camera.height])
    return b"".join(x.numpy().tobytes() for x in (camera.viewmats, camera.Ks, size))


def opened(source: str | Path, label: str) -> Tiles | None:
    """A file of tiles; None for any other. Raises ValueError for a damaged one."""
    file = TiledFile.open(source)
    return None if file is None else Tiles(file, label)
