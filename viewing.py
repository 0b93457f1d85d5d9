"""The job behind `view`: models of files as exhibits with knobs, and the server that shows them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import __version__, field_jobs, models, tile_viewing
from .gaussians.codec import Steps, decode, encode
from .gaussians.importance import importance
from .gaussians.model import SplatModel
from .gaussians.sanitize import sanitize
from .press import orbit_views
from .quant import budget, container
from .render.splat import RasterOptions, rasterize
from .scenes.cameras import Cameras, Scene
from .scenes.datasets import read_scene
from .scenes.evaluate import Render
from .sources import Source, check_gaussians, read_source
from .tile_viewing import Tiles
from .viewer.exhibit import Color, Exhibit, Exhibition, Knob, Photos, Shown

PRUNE_VIEWS, PRUNE_SIZE = 8, (320, 240)  # By which the slider ranks Gaussians.
POINT_SCALE = -30.0  # Log of the size of a point: all that is seen of it is its pixels.
SOLID = ("sdf", "nerf", "vqnerf")  # Kinds of field that a camera can look at.
READY = 3  # Cut or pruned models that are kept.


@dataclass(frozen=True)
class Cut:
    """A place where a .fpz file may end and still show something new."""

    size: int  # bytes
    label: str


def cuts(data: bytes, name: str) -> tuple[Cut, ...]:
    """Where to cut a .fpz file so that each prefix decodes to more than the one before."""
    found, total, kinds = [], 0, {"dc": "blocks", "ac": "SH of blocks"}
    sizes = container.sizes(data, name=name)
    blocks = 1 + max((int(key.partition("/")[2] or 0) for key in sizes if "/" in key), default=0)
    for key, size in sizes.items():
        total += size
        kind, _, block = key.partition("/")
        if kind in kinds and block.isdecimal():
            found.append(Cut(total, f"{kinds[kind]} {int(block) + 1}/{blocks}"))
    if not found or found[-1].size < total:
        found.append(Cut(total, "whole"))
    return (*found[:-1], replace(found[-1], label="whole file"))


class Splats:
    """A splat model that can be cut, pruned, shown with fewer colours or as points."""

    def __init__(self, source: Source, name: str, label: str | None = None) -> None:
        self._data, self._size, self._name = source.data, source.input_bytes, name
        self._label = label or Path(name).name
        self.model = _clean(source.model, name)
        self._cuts = cuts(source.data, name) if source.data is not None else ()
        self._cut = functools.lru_cache(READY)(self._cut_model)
        self._ranked = functools.lru_cache(READY)(self._ranked_model)

    def exhibit(self) -> Exhibit:
        """What the viewer is handed. Raises ValueError for a model without Gaussians."""
        sizes = {name: 4 * x.numel() for name, x in self.model.tensors().items()}
        if self._data is not None:
            sizes = container.by_attribute(container.sizes(self._data, name=self._name))
        return Exhibit(self._label, self.show, tuple(self._knobs()), sizes)

    def _knobs(self) -> Sequence[Knob]:
        knobs, last = [], len(self._cuts) - 1
        if last > 0:
            labels = tuple(f"{_megabytes(cut.size)}: {cut.label}" for cut in self._cuts)
            knobs.append(Knob("prefix", "prefix", 0, last, 1, last, labels))
        knobs.append(Knob("prune", "share pruned", 0, 0.98, 0.01, 0))
        degree = self.model.sh_degree
        if degree:
            knobs.append(Knob("sh", "SH degree", 0, degree, 1, degree))
        knobs.append(Knob("points", "as points, pixels", 0, 4, 0.25, 0))
        return knobs

    def show(self, values: Mapping[str, float], background: Color) -> Shown:
        """The model at values of its knobs (viewer.exhibit.Exhibit.show)."""
        cut = int(values.get("prefix", len(self._cuts) - 1))
        model = self._cut(cut)
        kept = len(model)
        if values["prune"] > 0:
            kept = max(1, math.ceil((1 - values["prune"]) * kept))
            model = _first(self._ranked(cut), kept)
        degree = min(int(values.get("sh", 0)), model.sh_degree)
        options = replace(model.options(), sh_degree=degree, backgrounds=torch.tensor(background))
        if values["points"]:
            model = _as_points(model)
            options = replace(
                options, eps2d=(0.5 * values["points"]) ** 2, rasterize_mode="classic"
            )
        size = self._cuts[cut].size if self._cuts else self._size
        facts = {"Gaussians": kept, "SH degree": degree}
        if size is not None:
            facts["bytes"] = size  # Of the file: pruning here does not write one.
        return Shown(model.renderer(options), facts, _depth(model, options))

    def _cut_model(self, cut: int) -> SplatModel:
        if cut < 0 or cut == len(self._cuts) - 1 or self._data is None:
            return self.model
        prefix = self._data[: self._cuts[cut].size]
        return _clean(decode(prefix, partial=True, name=self._name), self._name)

    def _ranked_model(self, cut: int) -> SplatModel:
        """The Gaussians that matter most first: by their squared weights in pictures around."""
        model = self._cut(cut)
        views = orbit_views(model, PRUNE_VIEWS).resized(*PRUNE_SIZE)
        return model[importance(model, views).weight.argsort(descending=True, stable=True)]


def rendered(name: str, render: Render, facts: Mapping[str, Any] | None = None) -> Exhibit:
    """An exhibit without knobs, of whatever renders: a neural field, a video."""
    return Exhibit(name, lambda values, background: Shown(render, facts or {}))


class Field:
    """A neural field to be shown; there is nothing to turn but the camera."""

    def __init__(self, source: Source, label: str) -> None:
        self.model, self._size, self._label = source.model, source.input_bytes, label

    def exhibit(self) -> Exhibit:
        """What the viewer is handed."""
        return rendered(self._label, self.model.render, {"bytes": self._size})


def gather(sources: Sequence[str], scene: str | None = None, downscale: float = 1.0) -> Exhibition:
    """All that the viewer shows of these files and photographs. Raises ValueError or OSError."""
    photos = (
        None if scene is None else read_scene(scene, downscale=downscale, most_bytes=budget.limit())
    )
    labels = _labels(sources)
    shown = [_opened(source, label) for source, label in zip(sources, labels, strict=True)]
    return exhibition(shown, " | ".join(labels), photos)


def _opened(source: str, label: str) -> Splats | Field | Tiles:
    """A file as what the viewer can show. Raises ValueError for an image field, or OSError."""
    tiles = tile_viewing.opened(source, label)
    if tiles is not None:
        return tiles
    given = read_source(source)
    if given.model.kind == "gaussians":
        return Splats(given, source, label)
    if given.model.kind not in SOLID:
        raise ValueError(
            f"{source}: expected a scene, got a field of kind {given.model.kind!r}; decompress it "
            "to look at it"
        )
    return Field(given, label)


def _labels(sources: Sequence[str]) -> list[str]:
    """What to call files: by name, and by folder as well where names are alike."""
    names = [Path(source).name for source in sources]
    if len(set(names)) == len(names):
        return names
    return ["/".join(Path(source).parts[-2:]) for source in sources]


def exhibition(
    shown: Sequence[Splats | Field | Tiles], title: str, scene: Scene | None
) -> Exhibition:
    """The same of models in memory."""
    home, center, up = _around(shown[0].model)
    radius = float((home.positions[0] - center).norm())
    photos = None if scene is None else _photos(scene)
    if photos is not None:
        home, up = photos.cameras, _up(photos.cameras)
    return Exhibition(
        title=title,
        exhibits=tuple(one.exhibit() for one in shown),
        home=home[:1],
        target=_triple(center),
        up=_triple(up),
        radius=radius,
        photos=photos,
    )


def export_page(read: Callable[[str], Source], source: str, output: str) -> dict[str, Any]:
    """Read with `read` and write a page that shows the scene offline; a report as `convert` has."""
    start = time.perf_counter()
    given = read(source)
    check_gaussians(given.model, source)
    return {
        "input": source,
        "output": output,
        "input_bytes": given.input_bytes,
        "output_bytes": save_page(given.model, output, given.data),
        "count_in": len(given.model),
        "count_out": len(given.model),
        "sh_degree": given.model.sh_degree,
        "seconds": time.perf_counter() - start,
        "version": __version__,
    }


def save_page(model: SplatModel, path: str | Path, data: bytes | None = None) -> int:
    """Write one HTML file that shows a model in any browser; the bytes written.

    `data` is the .fpz file that the model is of; without one, or where the page cannot read it, the
    model is coded in fine steps. Raises ValueError for an empty model, naming the path.
    """
    from .viewer.splat_page import splat_page

    clean = _clean(model, str(path))
    if data is None or not _plain(container.read(data, name=str(path)).header):
        data = encode(clean, np.zeros(len(clean), np.int32), Steps())
    home, center, up = _around(clean)
    page = splat_page(Path(path).stem, data, home[:1], _triple(center), _triple(up))
    return models.write_atomic(path, [page.encode()])


def _plain(header: Mapping[str, Any]) -> bool:
    """Whether the page reads such a file: neither LightGaussian's codec nor tiles."""
    return header.get("kind") == SplatModel.kind and "codec" not in header


def view(
    exhibition: Exhibition,
    *,
    host: str,
    port: int,
    token: str | None,
    log: Callable[[str], None],
    ready: Callable[[str], None],
) -> None:
    """Serve an exhibition until Ctrl-C. Raises ValueError where that is not possible."""
    from .viewer.server import Server

    server = Server(exhibition, host=host, port=port, token=token, log=log)

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        # An exception out of a handler may come up in any callback; this way it is the task's.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await server.run(ready)

    try:
        asyncio.run(serve())
    except (asyncio.CancelledError, KeyboardInterrupt):
        log("the viewer has ended")


def _clean(model: SplatModel, name: str) -> SplatModel:
    clean = sanitize(model)[0]
    if len(clean) == 0:
        raise ValueError(f"{name}: none of its {len(model)} Gaussians is finite and visible")
    return clean


def _depth(model: SplatModel, options: RasterOptions) -> Render:
    """[C, H, W, 2]: mean camera z of what is seen, and opacity."""
    options = replace(options, render_mode="ED", sh_degree=None, backgrounds=None)

    def render(cameras: Cameras) -> Tensor:
        means, quats, scales, opacities, _ = model.activated()
        z, alpha, _ = rasterize(
            means, quats, scales, opacities, None,
            cameras.viewmats, cameras.Ks, cameras.width, cameras.height, options,
        )  # fmt: skip
        return torch.cat([z, alpha], -1)

    return render


def _first(model: SplatModel, count: int) -> SplatModel:
    """The first Gaussians of a model, in its own memory."""
    return replace(model, **{name: tensor[:count] for name, tensor in model.tensors().items()})


def _as_points(model: SplatModel) -> SplatModel:
    return replace(
        model,
        scales=torch.full_like(model.scales, POINT_SCALE),
        opacities=model.opacities.clamp_min(3.0),
    )


def _photos(scene: Scene) -> Photos | None:
    """Training and test photographs in the order of their names, where they have one size."""
    splits = [
        (cameras, images, names)
        for cameras, images, names in (
            (scene.train, scene.train_images, scene.train_names),
            (scene.test, scene.test_images, scene.test_names),
        )
        if images is not None and len(cameras)
    ]
    splits = [split for split in splits if split[1].shape[1:] == splits[0][1].shape[1:]]
    if not splits:
        return None
    first = splits[0][0]
    everything = Cameras(
        torch.cat([cameras.viewmats for cameras, _, _ in splits]),
        torch.cat([cameras.Ks for cameras, _, _ in splits]),
        first.width,
        first.height,
    )
    named = []
    for cameras, images, names in splits:
        known = names or tuple(f"view {len(named) + i}" for i in range(len(cameras)))
        test = " (test)" if cameras is scene.test else ""
        named += [(f"{name}{test}", images, i) for i, name in enumerate(known)]
    order = sorted(range(len(named)), key=lambda i: named[i][0])

    def load(index: int) -> Tensor:
        _, images, i = named[order[index]]
        return images[i]

    return Photos(everything[order], tuple(named[i][0] for i in order), load)


def _around(model: Any) -> tuple[Cameras, Tensor, Tensor]:
    """Cameras on a circle around the core of a model, its centre, and what is up."""
    home = (field_jobs.orbit_views if model.kind in SOLID else orbit_views)(model, 12)
    return home, _meeting_point(home), _up(home)


def _up(cameras: Cameras) -> Tensor:
    """[3], the direction that is up in the mean of the pictures."""
    return -torch.nn.functional.normalize(cameras.viewmats[:, 1, :3].mean(0), dim=0)


def _meeting_point(cameras: Cameras) -> Tensor:
    """[3], the point nearest to the axes of all cameras, least squares."""
    forward = cameras.viewmats[:, 2, :3].double()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None]
    there = (across @ cameras.positions.double()[:, :, None]).sum(0)
    return (torch.linalg.pinv(across.sum(0)) @ there)[:, 0].float()


def _triple(vector: Tensor) -> Color:
    x, y, z = vector.tolist()
    return x, y, z


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
