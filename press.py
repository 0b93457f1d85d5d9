"""The whole job behind each verb: read, compress, verify, measure, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__, field_jobs, models, remote, video_jobs
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

ENCODE_SHARE = 0.85  # Of the time of a compression; the rest is measuring.
ORBIT_REACH = 2.2  # Distance of an orbit's cameras, in radii of the core.
TRAINING_KEYS = ("stages", "finetune_steps", "psnr_train")  # Reported where there was training.
SOG_SUFFIXES = {".webp", ".json"}


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        model: the scene as it stands in the file.
        input_bytes: its size on disk, or None where one cannot say.
        data: the bytes of the file if it is a .fpz file, else None.
    """

    model: SplatModel
    input_bytes: int | None
    data: bytes | None = None


def read_source(path: str, *, frame: str | None = None, kind: str | None = None) -> Source:
    """Read any scene file, folder, URL or stdin ("-"). Raises ValueError or OSError.

    `frame` and `kind` as of `models.load`.
    """
    if path != "-" and not remote.is_url(path) and not _is_compressed(Path(path)):
        model = models.load(path, frame=frame, kind=kind)
        return Source(model, _size_on_disk(Path(path), model))
    data = models.read_bytes(path)
    if data.startswith(container.MAGIC):
        return Source(models.decode_fpz(data, _name(path)), len(data), data)
    return Source(models.load_bytes(data, _name(path), frame, kind), len(data))


def read_compressed(path: str) -> Source:
    """Read a .fpz file, or one from stdin. Raises ValueError for any other kind."""
    given = read_source(path)
    if given.data is None:
        raise ValueError(f"{_name(path)}: not a .fpz file; fieldpress convert takes other formats")
    return given


def read_gaussians(path: str) -> Source:
    """Read a scene of Gaussians. Raises ValueError for a field, which has verbs of its own."""
    given = read_source(path)
    check_gaussians(given.model, path)
    return given


def check_gaussians(model: Any, path: str) -> None:
    """Raises ValueError for a field, which has verbs of its own."""
    if model.kind != "gaussians":
        raise ValueError(
            f"{_name(path)}: expected Gaussians, got a field of kind {model.kind!r}; "
            "decompress, eval and info take fields"
        )


def _name(path: str) -> str:
    return "stdin" if path == "-" else path


def _is_compressed(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(container.MAGIC)) == container.MAGIC


def _size_on_disk(path: Path, model: SplatModel) -> int | None:
    """Bytes of a file, or of all files of a loose SOG; None for a training folder."""
    if path.is_file() and path.suffix != ".json":
        return path.stat().st_size
    folder = path if path.is_dir() else path.parent
    metas = [folder / name for name in str(model.extra.get("lod_files", "meta.json")).split()]
    if not all(meta.is_file() for meta in metas):
        return None
    files = {file for meta in metas for file in meta.parent.iterdir()}
    return sum(file.stat().st_size for file in files if file.suffix in SOG_SUFFIXES)


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
        model, removed = _sanitised(given.model, _name(source), consume=True)
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


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_name(source)}: {error}") from None


def _verified(data: bytes, pressed: Compressed, name: str) -> SplatModel:
    """The model of the written bytes. Raises ValueError where they are not what was encoded."""
    if data != pressed.data:
        raise ValueError(f"{name}: what was read back is not what was written")
    decoded = decode(data, name=_name(name))
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
    model = _sanitised(given.model, _name(source))[0]
    basis = model if original is None else _sanitised(original.model, _name(reference or ""))[0]
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
        sizes = container.sizes(given.data, name=_name(source))
        report["bytes_by_section"] = container.by_attribute(sizes)
    images = None if photos is None else photos.test_images
    return Evaluated(report, measured, cameras, model, reference_model, images)


# Description


def describe(source: str) -> dict[str, Any]:
    """What is in a file, without rendering it."""
    file = TiledFile.open(source)
    if file is not None:
        return _describe_tiles(file)
    clip = video_jobs.opened(source)
    if clip is not None:
        return video_jobs.describe(clip, source)
    given = read_source(source)
    is_field = given.model.kind != "gaussians"
    report = (field_jobs.describe if is_field else _describe_model)(given.model)
    if given.data is not None:
        report |= _describe_sections(given.data, _name(source))
    if given.input_bytes:
        report["ratio"] = given.model.float_bytes / given.input_bytes
    return {**report, "input_bytes": given.input_bytes, "version": __version__}


def _describe_tiles(file: TiledFile) -> dict[str, Any]:
    """What the index says, nothing decoded."""
    lows, highs = zip(*((tile.low, tile.high) for tile in file.tiles), strict=True)
    bounds = [[min(x) for x in zip(*lows, strict=True)], [max(x) for x in zip(*highs, strict=True)]]
    sizes = {f"{entry.name}": entry.coded_size for entry, _ in file.streams.values()}
    counts = zip(*(tile.counts for tile in file.tiles), strict=True)
    return {
        "kind": "tiles",
        "count": file.count,
        "tiles": len(file.tiles),
        "counts_by_level": [sum(level) for level in counts],
        "bounding_box": bounds,
        "bytes_by_attribute": container.by_attribute(sizes),
        "provenance": {key: value for key, value in file.header.items() if key != "kind"},
        "input_bytes": len(file.data),
        "version": __version__,
    }


def _describe_sections(data: bytes, name: str) -> dict[str, Any]:
    found = container.read(data, name=name)
    sections = {
        section.name: {"codec": section.codec, "bytes": len(section.payload)}
        for section in found.sections
    }
    sizes = container.sizes(data, name=name)
    return {"bytes_by_attribute": container.by_attribute(sizes), "sections": sections}


def _describe_model(model: SplatModel) -> dict[str, Any]:
    finite = model.means[model.means.isfinite().all(1)]
    bounds = [finite.amin(0).tolist(), finite.amax(0).tolist()] if len(finite) else None
    return {
        "kind": model.kind,
        "count": len(model),
        "sh_degree": model.sh_degree,
        "antialiased": model.antialiased,
        "bounding_box": bounds,
        "float_bytes": model.float_bytes,
        "bytes_by_attribute": {name: 4 * x.numel() for name, x in model.tensors().items()},
        "provenance": dict(model.extra),
    }
