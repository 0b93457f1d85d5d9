"""The whole job behind each verb: read, compress, verify, measure, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import __version__, checkpoints, field_jobs, field_press, video_jobs
from .console import Progress, say, sink
from .gaussians.codec import decode
from .gaussians.compress import (
    VIEW_SIZE,
    Compressed,
    core_arguments,
    scene_views,
    set_aside,
)
from .gaussians.memory import be_frugal, give_back
from .gaussians.model import SplatModel
from .gaussians.sanitize import sanitize
from .gaussians.tiled import TiledModel, overview, room
from .gaussians.tiles import TiledFile
from .quant import budget, container
from .recipes import Recipe
from .render.cuda import require
from .render.elsewhere import drawing_on
from .scenes.camera_file import read_cameras
from .scenes.cameras import Cameras, Scene
from .scenes.datasets import read_scene
from .scenes.evaluate import Report, evaluate
from .scenes.orbit import orbit
from .scenes.synthesise import find_core
from .sources import check_gaussians, name_of, naming, read_gaussians, read_source

ENCODE_SHARE = 0.85  # Of the time of a compression; the rest is measuring.
ORBIT_REACH = 2.2  # Distance of an orbit's cameras, in radii of the core.
TRAINING_KEYS = ("stages", "finetune_steps", "psnr_train")  # Reported where there was training.


# Views


def split_views(model: SplatModel, scene: Scene | None, seed: int) -> tuple[Cameras, Cameras]:
    """Views to learn from and views to measure on: the scene's own, else synthesised ones."""
    if scene is not None:
        return (scene.train if len(scene.train) else scene.test), scene.test
    return scene_views(model, seed)


def orbit_views(model: SplatModel, count: int) -> Cameras:
    """`count` views on a circle around the dense core."""
    core = find_core(*core_arguments(model))
    width, height = VIEW_SIZE
    center, up = [float(x) for x in core.center], [float(x) for x in core.up]
    return orbit(center, ORBIT_REACH * core.radius, count, width=width, height=height, up=up)


def model_and_views(
    source: str, cameras: str | None, scene: str | None, orbit: int | None, device: str
) -> tuple[Any, Cameras]:
    """What `render` shows: a model, and the views of a file, of a scene, or around its core.

    That of a file of tiles decodes what is seen, when it is.
    """
    there = require(device)
    views = None if cameras is None else read_cameras(cameras)
    if scene is not None:
        photos = read_scene(scene, most_bytes=budget.limit())
        views = _joined(photos.train, photos.test)
    file = TiledFile.open(source)
    if file is not None:
        _check_cpu(there, "files of tiles")
        seen = orbit_views(overview(file), orbit or 1) if views is None else views
        tiled = TiledModel(file, held_bytes=room())
        if short := tiled.short_in(seen):
            say(
                f"{source}: {short} of {len(seen)} views show tiles coarser than they could be, "
                "as memory is short (--max-memory)"
            )
        return tiled, seen
    model: Any = read_source(source).model
    if model.kind in ("sdf", "nerf", "vqnerf"):
        if model.kind == "vqnerf":
            _check_cpu(there, "latent fields")
        return model.to(there), field_jobs.orbit_views(
            model, orbit or 1
        ) if views is None else views
    check_gaussians(model, source)
    return model.to(there), orbit_views(model, orbit or 1) if views is None else views


def _check_cpu(device: torch.device, what: str) -> None:
    if device.type != "cpu":
        raise ValueError(f"device: {what} are rendered on the cpu, got {device}")


def _joined(first: Cameras, second: Cameras) -> Cameras:
    if (first.width, first.height) != (second.width, second.height):
        return first
    viewmats = torch.cat([first.viewmats, second.viewmats])
    return Cameras(viewmats, torch.cat([first.Ks, second.Ks]), first.width, first.height)


# Verbs


def compress_file(
    source: str,
    output: str,
    recipe: Recipe,
    *,
    scene: str | None,
    downscale: float = 1,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, Any]:
    """Compress `source` to `output`, which appears once its bytes were decoded and measured.

    Views are drawn, and contributions to them measured, on the device; all else on the CPU.
    """
    if checkpoints.holds_field(source):
        return field_press.compress_field(
            source, output, recipe, scene=scene, downscale=downscale, device=device,
            progress=progress,
        )  # fmt: skip
    there = require(device)
    photos = (
        None if scene is None else read_scene(scene, downscale=downscale, most_bytes=budget.limit())
    )
    given = _Input.read(source, photos, recipe.settings.seed)
    with drawing_on(there), sink(output) as write:
        with naming(source):
            pressed = _press(given, recipe, photos, progress.part(0, ENCODE_SHARE))
        data, found = write(pressed.file.data), pressed.file.report
        start = time.perf_counter()
        decoded = _verified(data, pressed.file, output)
        decode_seconds = time.perf_counter() - start
        give_back(given.float_bytes)
        share = progress.part(ENCODE_SHARE, 1)
        measured = _measure(decoded, given.holdout, pressed.pictures, photos, share)
    return {
        **_sizes(given, decoded, data),
        **_without_views(measured),
        "device": str(there),
        "fps_reference": pressed.fps,
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "encode_seconds": pressed.seconds,
        "decode_seconds": decode_seconds,
        "seed": recipe.settings.seed,
        "method": recipe.method,
        "version": __version__,
        "input": source,
        "output": output,
        "sh_degree": given.sh_degree,
        "sanitised": given.removed,
        **{key: found[key] for key in TRAINING_KEYS if key in found},
    }


@dataclass
class _Input:
    """What is to be compressed, and what a report says of it once the model was let go.

    Attributes:
        model: sanitised; None once it is not needed any more.
        count, float_bytes, sh_degree: before sanitising; removed: what that took out.
    """

    model: SplatModel | None
    input_bytes: int | None
    removed: dict[str, int]
    count: int
    float_bytes: int
    sh_degree: int
    views: Cameras
    holdout: Cameras

    @staticmethod
    def read(source: str, photos: Scene | None, seed: int) -> _Input:
        given = read_gaussians(source)
        be_frugal(given.model.float_bytes)
        facts = len(given.model), given.model.float_bytes, given.model.sh_degree
        model, removed = _sanitised(given.model, name_of(source), consume=True)
        views = split_views(model, photos, seed)
        return _Input(model, given.input_bytes, removed, *facts, *views)


@dataclass(frozen=True)
class _Pressed:
    """A finished file, what pressing took, and how its input looks from the held-out views."""

    file: Compressed
    seconds: float
    pictures: Tensor  # [C, H, W, 3]
    fps: float | None


def _press(given: _Input, recipe: Recipe, photos: Scene | None, progress: Progress) -> _Pressed:
    """Compress; the model is gone before trials that need its room."""
    model, given.model = given.model, None
    assert model is not None
    start = time.perf_counter()
    pictures = model.render(given.holdout)
    begun = time.perf_counter() - start
    fps = evaluate(model.renderer(), given.holdout).fps
    start = time.perf_counter() - begun
    if recipe.plain:
        model = set_aside(model)
    work = recipe.begin(model, photos, given.views, given.holdout, pictures, progress)
    del model
    return _Pressed(work(), time.perf_counter() - start, pictures, fps)


def _sanitised(
    model: SplatModel, name: str, *, consume: bool = False
) -> tuple[SplatModel, dict[str, int]]:
    clean, counts = sanitize(model, consume=consume)
    found = {reason: count for reason, count in counts.items() if not reason.startswith("count_")}
    if len(clean) == 0:
        raise ValueError(f"{name}: none of its {len(model)} Gaussians is finite and visible")
    remarks = [f"{count} {reason.replace('_', ' ')}" for reason, count in found.items() if count]
    if remarks:
        say(f"{name}: of {len(model)} Gaussians {', '.join(remarks)}: removed or repaired")
    return clean, found


def _verified(data: bytes, pressed: Compressed, name: str) -> SplatModel:
    """The model of the written bytes. Raises ValueError where they are not what was encoded."""
    if data != pressed.data:
        raise ValueError(f"{name}: what was read back is not what was written")
    decoded = decode(data, name=name_of(name))
    expected = pressed.report["count_out"]
    if len(decoded) != expected:
        raise ValueError(f"{name}: expected to decode {expected} Gaussians, got {len(decoded)}")
    return decoded


def _sizes(given: _Input, decoded: SplatModel, data: bytes) -> dict[str, Any]:
    """Bytes, counts, and both ratios: against 4 bytes a float, and against the input file."""
    return {
        "input_bytes": given.input_bytes,
        "output_bytes": len(data),
        "ratio": given.float_bytes / len(data),
        "ratio_to_input": None if given.input_bytes is None else given.input_bytes / len(data),
        "count_in": given.count,
        "count_out": len(decoded),
    }


def _measure(
    model: SplatModel,
    cameras: Cameras,
    reference: SplatModel | Tensor | None,
    scene: Scene | None,
    progress: Progress,
) -> Report:
    return evaluate(
        model.renderer(),
        cameras,
        reference=reference.renderer() if isinstance(reference, SplatModel) else reference,
        photos=None if scene is None else scene.test_images,
        progress=lambda done: progress("measuring", done),
    )


def _without_views(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.to_json().items() if key != "per_view"}


@dataclass(frozen=True)
class Evaluated:
    """What was measured, and of what.

    Attributes:
        report: for JSON, with DESIGN's keys.
        measured: the figures of every view.
        cameras: the views.
        model: the scene of the file; reference: what it was compared with, or None.
        photos: [C, H, W, 3] or None.
    """

    report: dict[str, Any]
    measured: Report
    cameras: Cameras
    model: SplatModel
    reference: SplatModel | None
    photos: Tensor | None


def evaluate_file(
    source: str, scene: str | None, reference: str | None, *, device: str, progress: Progress
) -> Evaluated | dict[str, Any]:
    """Quality against photographs and against a reference file, speed on a device, and sizes.

    Of a field the report alone.
    """
    there = require(device)
    clip = video_jobs.opened(source)
    if clip is not None:
        return video_jobs.evaluate_video(clip, source, reference)
    start = time.perf_counter()
    given = read_source(source)
    decode_seconds = time.perf_counter() - start
    if given.model.kind != "gaussians":
        if given.model.kind not in ("image", "sdf", "nerf") or not hasattr(given.model, "to"):
            _check_cpu(there, f"files of kind {given.model.kind!r}")
        model = given.model if there.type == "cpu" else given.model.to(there)
        report = field_jobs.evaluate_field(model, scene, reference)
        return {**report, "input_bytes": given.input_bytes, "decode_seconds": decode_seconds,
                "version": __version__, "input": source}  # fmt: skip
    photos = None if scene is None else read_scene(scene, most_bytes=budget.limit())
    original = None if reference is None else read_gaussians(reference)
    model = _sanitised(given.model, name_of(source))[0]
    basis = model if original is None else _sanitised(original.model, name_of(reference or ""))[0]
    cameras = split_views(basis, photos, seed=0)[1]
    reference_model = None if original is None else basis.to(there)
    measured = _measure(model.to(there), cameras, reference_model, photos, progress)
    compared = original or given
    report = {
        "input_bytes": compared.input_bytes,
        "output_bytes": given.input_bytes,
        "ratio": compared.model.float_bytes / given.input_bytes if given.input_bytes else None,
        "count_in": len(compared.model),
        "count_out": len(given.model),
        **measured.to_json(),
        "decode_seconds": decode_seconds,
        "version": __version__,
        "input": source,
        "reference": reference,
        "scene": scene,
    }
    if given.data is not None:
        sizes = container.sizes(given.data, name=name_of(source))
        report["bytes_by_section"] = container.by_attribute(sizes)
    images = None if photos is None else photos.test_images
    return Evaluated(report, measured, cameras, model, reference_model, images)
