"""The whole chain on a capture that it makes itself: nothing is downloaded."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__
from .gaussians.codec import decode
from .gaussians.compress import CompressSettings, compress
from .gaussians.from_surface import from_surface, refine_colors
from .gaussians.model import SplatModel
from .gaussians.ply import read_ply, write_ply
from .gaussians.train import Trainer, TrainSettings
from .pictures import worst_views
from .quant import container
from .scenes.cameras import Scene
from .scenes.evaluate import evaluate
from .scenes.synthetic import capture, save_capture
from .viewer.report import html_report

SECTION_NAMES = {  # docs/format.md's keys, for people.
    "pos": "positions", "fin": "positions, fine", "cls": "importance", "gcl": "importance of shape",
    "opa": "opacity",
    "scl": "scales", "tlt": "axis", "rol": "roll about it", "dc": "base colour",
    "ac": "colour by side", "lim": "colour by side, limits", "tab": "tables",
}  # fmt: skip

Progress = Callable[[str, float], None]


def run_demo(
    out_dir: str | Path,
    *,
    progress: Progress | None = None,
    seed: int = 0,
    views: int = 40,
    width: int = 400,
    height: int = 300,
    samples: int = 80_000,
    steps: int = 500,
) -> dict[str, Any]:
    """Photograph a procedural scene, fit Gaussians to it, compress, measure, and report.

    Writes scene.ply, scene.fpz, report.json, report.html, and the photographs in capture/ (where
    Pillow is installed) below `out_dir`. Takes about two minutes on two cores.

    Args:
        out_dir: folder, made if it is not there.
        progress: called with the name of the stage and the share of the whole that is done.
        seed: of the capture and of everything after it.
        views: photographs; an eighth of them are held out and measured.
        width: columns of the photographs.
        height: rows of the photographs.
        samples: about so many Gaussians.
        steps: of fitting them to the photographs.

    Returns:
        The report, with DESIGN's keys.
    """
    out, say = Path(out_dir), progress or (lambda stage, share: None)
    out.mkdir(parents=True, exist_ok=True)
    scene, surface = capture(
        seed, views, width, height, samples, lambda share: say("photographing", 0.35 * share)
    )
    say("laying Gaussians", 0.35)
    assert scene.train_images is not None
    model = refine_colors(from_surface(surface, seed=seed), scene.train, scene.train_images)
    model = _fitted(model, scene, steps, seed, lambda share: say("fitting", 0.4 + 0.19 * share))
    (out / "scene.ply").write_bytes(write_ply(model))
    model = read_ply(out / "scene.ply")
    start = time.perf_counter()
    pressed = compress(
        model,
        CompressSettings(seed=seed),
        views=scene.train,
        holdout=scene.test,
        progress=lambda stage, share: say(stage, 0.6 + 0.3 * share),
    )
    encode_seconds = time.perf_counter() - start
    (out / "scene.fpz").write_bytes(pressed.data)
    say("measuring", 0.9)
    report = _measure(out, model, scene, encode_seconds, seed)
    say("done", 1.0)
    return report


def _fitted(
    model: SplatModel, scene: Scene, steps: int, seed: int, say: Callable[[float], None]
) -> SplatModel:
    """The Gaussians that lie on the surfaces, all of their values trained on the photographs."""
    assert scene.train_images is not None
    settings = TrainSettings(steps=steps, cool=0.5, seed=seed)
    trainer = Trainer(model, scene.train, scene.train_images, settings)
    for number in range(steps):
        trainer.step()
        say((number + 1) / steps)
    return trainer.model()


def _measure(
    out: Path, model: SplatModel, scene: Scene, encode_seconds: float, seed: int
) -> dict[str, Any]:
    """Decode the file, compare it with photographs and with the PLY, and write both reports."""
    data = (out / "scene.fpz").read_bytes()
    start = time.perf_counter()
    decoded = decode(data, name=str(out / "scene.fpz"))
    decode_seconds = time.perf_counter() - start
    photos = scene.test_images
    measured = evaluate(decoded.renderer(), scene.test, reference=model.renderer(), photos=photos)
    original = evaluate(model.renderer(), scene.test, photos=photos)
    report = {
        "input_bytes": (out / "scene.ply").stat().st_size,
        "output_bytes": len(data),
        "ratio": model.float_bytes / len(data),
        "count_in": len(model),
        "count_out": len(decoded),
        **measured.to_json(),
        "psnr_original": original.psnr,
        "ssim_original": original.ssim,
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
        "seed": seed,
        "version": __version__,
    }
    pictures = worst_views(measured, scene.test, decoded, model, photos)
    page = html_report("A still life, compressed", report, pictures, SECTION_NAMES)
    (out / "report.html").write_text(page, encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with contextlib.suppress(ImportError):  # Without Pillow the photographs stay in memory.
        save_capture(scene, out / "capture")
    return report
