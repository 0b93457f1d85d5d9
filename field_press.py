"""The job behind `compress` of a radiance field that was trained elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from . import __version__, models
from .console import Progress, sink
from .fields import codec, nerfacto_codec
from .fields.checkpoint import in_frame
from .fields.nerf import NerfField
from .fields.nerf_steps import coarsest_to, even_steps, touched_rows
from .fields.nerfacto import NerfactoFields
from .gaussians.compress import PRESETS, CompressSettings
from .quant import budget, container
from .recipes import Recipe
from .render.cuda import require
from .scenes.cameras import Cameras
from .scenes.datasets import read_scene
from .scenes.evaluate import evaluate
from .scenes.orbit import orbit

VIEWS, HELD_OUT = 3, 4
REACH = 0.35  # Of views around the middle, in edges of the cube: inside it, as a capture's.
SIZE = (160, 120)


def compress_field(
    source: str,
    output: str,
    recipe: Recipe,
    *,
    scene: str | None,
    downscale: float,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Round and code a checkpoint's field to a PSNR against itself; the decoded file is measured.

    Views are the scene's, else on circles inside the cube. Raises ValueError for a goal in bytes
    and for training.
    """
    settings = recipe.settings
    if settings.target_bytes is not None or not recipe.plain or recipe.method != "fieldpress":
        raise ValueError(f"{source}: fields: expected a preset or --target-db, and no training")
    there, model = require(device), models.load(source)
    if isinstance(model, NerfactoFields):
        return _compress_tables(model, source, output, settings, progress)
    assert isinstance(model, NerfField)
    photos = None
    if scene is not None:
        grey = sum(model.background) / 3
        photos = read_scene(scene, downscale=downscale, background=grey, most_bytes=budget.limit())
    views, held_out = _views(model, photos)
    start = time.perf_counter()
    progress("statistics", 0.1)
    used, points = touched_rows(model, source)
    goal = settings.target_db if settings.target_db is not None else PRESETS[settings.preset]
    shown, whole = model.to(there).render(views).cpu(), model.to(there)
    progress("searching steps", 0.2)
    even = even_steps(model, used, points)
    steps = coarsest_to(model, used, (views, shown), goal, even.scaled, there)
    with sink(output) as write:
        data = write(codec.encode(model, steps, used, {**model.extra, "seed": settings.seed}))
        seconds, start = time.perf_counter() - start, time.perf_counter()
        decoded: Any = codec.decode(data, name=output)
        decode_seconds = time.perf_counter() - start
        progress("measuring", 0.8)
        truth = None if photos is None else photos.test_images
        report = evaluate(
            decoded.to(there).render, held_out, reference=whole.render, photos=truth
        ).to_json()
    return {
        "input_bytes": Path(source).stat().st_size,
        "output_bytes": len(data),
        "ratio": model.float_bytes / len(data),
        **{key: value for key, value in report.items() if key != "per_view"},
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "encode_seconds": seconds,
        "decode_seconds": decode_seconds,
        "encoding": model.network.encoding.config(),
        "device": str(there),
        "seed": settings.seed,
        "version": __version__,
        "input": source,
        "output": output,
    }  # fmt: skip


def _compress_tables(
    model: NerfactoFields, source: str, output: str, settings: CompressSettings, progress: Progress
) -> dict[str, Any]:
    """Round hash tables to what their networks say; the decoded file is measured by that."""
    start = time.perf_counter()
    progress("searching steps", 0.1)
    goal = settings.target_db if settings.target_db is not None else PRESETS[settings.preset]
    steps = nerfacto_codec.steps_for(model, goal)
    with sink(output) as write:
        progress("coding", 0.5)
        data = write(nerfacto_codec.encode(model, steps, {**model.extra, "seed": settings.seed}))
        seconds, start = time.perf_counter() - start, time.perf_counter()
        decoded = nerfacto_codec.decode(data, name=output)
        decode_seconds = time.perf_counter() - start
        progress("measuring", 0.9)
        found = nerfacto_codec.measured(model, decoded)
    return {
        "input_bytes": Path(source).stat().st_size,
        "output_bytes": len(data),
        "ratio": model.float_bytes / len(data),
        "psnr_outputs": found,
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "encode_seconds": seconds,
        "decode_seconds": decode_seconds,
        "seed": settings.seed,
        "version": __version__,
        "input": source,
        "output": output,
    }


def _views(model: NerfField, photos: Any) -> tuple[Cameras, Cameras]:
    """Views that steps are searched on, and others to measure on."""
    if photos is not None:
        pick = torch.linspace(0, len(photos.train) - 1, min(VIEWS, len(photos.train))).long()
        frame = model.extra.get("frame")
        return in_frame(photos.train[pick], frame), in_frame(photos.test, frame)
    center = [x + model.edge / 2 for x in model.low]
    width, height = SIZE
    around = orbit(
        center, REACH * model.edge, VIEWS + HELD_OUT, width=width, height=height, up=[0.0, 0.0, 1.0]
    )
    return around[::2], around[1::2]
