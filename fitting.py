"""The job behind `fit`: photographs in, splats out, measured on photographs held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from . import __version__, models
from .console import Progress, sink
from .gaussians.codec import decode
from .gaussians.compress import CompressSettings, compress
from .gaussians.fit import FitSettings, Fitted, fit
from .gaussians.model import SplatModel
from .gaussians.ply import ply_blocks
from .scenes.cameras import Scene
from .scenes.datasets import read_scene
from .scenes.evaluate import evaluate

FIT_SHARE = 0.9  # Of the time; the rest is writing and measuring.
KINDS = (".fpz", ".ply")


def fit_gaussians(
    source: str,
    output: str,
    settings: FitSettings,
    *,
    init: str = "auto",
    downscale: float = 1,
    pressing: CompressSettings,
    resume: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Fit splats to the photographs in a folder and write them to .ply or, compressed, to .fpz.

    Until the output stands, the unfinished state is kept beside it; `resume` goes on from there.
    Raises ValueError, one line, for whatever is wrong with the folder, the output or that state.
    """
    kind = Path(output).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{output}: expected a name ending in {' or '.join(KINDS)}")
    scene = read_scene(source, downscale=downscale)
    settings = replace(settings, init=_start(init, scene, source))
    checkpoint = checkpoint_path(output)
    fitted = fit(
        scene, settings, progress=progress.part(0, FIT_SHARE), checkpoint=checkpoint, resume=resume
    )
    with sink(output) as write:
        data = write(_encoded(fitted.model, scene, kind, pressing))
    checkpoint.unlink(missing_ok=True)
    written = decode(data, name=output) if kind == ".fpz" else models.load_bytes(data, output)
    return {**_report(fitted, written, scene, progress), "output_bytes": len(data),
            "input": source, "output": output, "seed": settings.seed,
            "version": __version__}  # fmt: skip


def checkpoint_path(output: str) -> Path:
    """Where the unfinished state of a fit to `output` is kept."""
    return Path(output).with_name(Path(output).name + ".checkpoint")


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
