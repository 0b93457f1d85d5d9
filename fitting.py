"""The job behind `fit`: photographs in, splats out, measured on photographs held out."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import __version__, models
from .console import Progress, sink, whole
from .gaussians.codec import decode
from .gaussians.compress import CompressSettings, compress
from .gaussians.fit import FitSettings, Fitted, about_fit, fit
from .gaussians.model import SplatModel
from .gaussians.ply import ply_blocks
from .quant import budget
from .render.cuda import require
from .render.elsewhere import drawing_on
from .scenes.cameras import Scene
from .scenes.datasets import read_scene
from .scenes.evaluate import evaluate

FIT_SHARE = 0.9  # Of the time; the rest is writing and measuring.
KINDS = (".fpz", ".ply")
CHECKPOINT_FORMAT = 1


def fit_gaussians(
    source: str,
    output: str,
    settings: FitSettings,
    *,
    init: str = "auto",
    downscale: float = 1,
    pressing: CompressSettings,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, Any]:
    """Fit splats to the photographs in a folder and write them to .ply or, compressed, to .fpz.

    Until the output stands, the unfinished state is kept beside it; `resume` goes on from there.
    Raises ValueError, one line, for whatever is wrong with the folder, the output or that state.
    """
    kind = Path(output).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{output}: expected a name ending in {' or '.join(KINDS)}")
    there = require(device)
    scene = read_scene(source, downscale=downscale, most_bytes=budget.limit())
    settings = replace(settings, init=_start(init, scene, source))
    checkpoint, about = checkpoint_path(output), about_fit(scene, settings)
    fitted = fit(
        scene,
        settings,
        progress=progress.part(0, FIT_SHARE),
        keep=lambda state: save_checkpoint(checkpoint, state, about),
        state=load_checkpoint(checkpoint, about) if resume else None,
        device=there,
    )
    with drawing_on(there), sink(output) as write:
        data = write(_encoded(fitted.model, scene, kind, pressing))
    checkpoint.unlink(missing_ok=True)
    written = decode(data, name=output) if kind == ".fpz" else models.load_bytes(data, output)
    with drawing_on(there):
        report = _report(fitted, written, scene, progress)
    return {**report, "device": str(there), "output_bytes": len(data), "input": source,
            "output": output, "seed": settings.seed, "version": __version__}  # fmt: skip


def checkpoint_path(output: str) -> Path:
    """Where the unfinished state of a fit to `output` is kept."""
    return Path(output).with_name(Path(output).name + ".checkpoint")


def save_checkpoint(path: Path, state: dict[str, Any], about: dict[str, Any]) -> None:
    """Keep an unfinished state, whole or not at all; `load_checkpoint` wants the same `about`."""
    with whole(path) as new:
        try:
            torch.save({"format": CHECKPOINT_FORMAT, "about": about, "state": state}, new)
        except RuntimeError as error:  # What torch makes of a full disk.
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: cannot write: {reason}") from None


def load_checkpoint(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint of the same job; nothing in the file is run.

    Raises ValueError, one line: no such file, not a checkpoint, or one of another job, naming
    the first thing that differs.
    """
    try:
        _check_size(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        form, other, state = found["format"], found["about"], found["state"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint to resume from") from None
    except Exception:
        raise ValueError(f"{path}: not a checkpoint of fieldpress, or damaged") from None
    if form != CHECKPOINT_FORMAT:
        raise ValueError(f"{path}: expected checkpoint format {CHECKPOINT_FORMAT}, got {form}")
    for key, value in about.items():
        if other.get(key) != value:
            raise ValueError(
                f"{path}: this checkpoint is of another fit: {key} was {other.get(key)!r}, "
                f"now {value!r}"
            )
    return state


def _check_size(path: Path) -> None:
    """Refuse an archive that inflates: ours hold what they hold as it is."""
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > path.stat().st_size:
        raise ValueError("inflates")


def _start(init: str, scene: Scene, source: str) -> str:
    """Points where there are any; chance for data sets that never have them (Blender, LLFF)."""
    if init != "auto":
        return init
    expected = (Path(source) / "sparse").exists()
    return "points" if expected or scene.points is not None else "random"


def _encoded(model: SplatModel, scene: Scene, kind: str, pressing: CompressSettings) -> bytes:
    if kind == ".ply":
        return b"".join(ply_blocks(model))
    views = scene.train
    holdout = scene.test if len(scene.test) else scene.train
    return compress(model, pressing, views=views, holdout=holdout).data


def _report(
    fitted: Fitted, written: SplatModel, scene: Scene, progress: Progress
) -> dict[str, Any]:
    share = progress.part(FIT_SHARE, 1)
    measured = evaluate(
        written.renderer(),
        scene.test,
        photos=scene.test_images,
        progress=lambda done: share("measuring", done),
    ).to_json()
    keys = ("psnr", "ssim", "lpips", "fps", "render_size", "views", "device")
    return {
        "count_out": len(written),
        **{key: measured[key] for key in keys},
        **fitted.report,
        "train_views": len(scene.train),
    }
