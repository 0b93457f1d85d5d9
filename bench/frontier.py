"""The training-free codec at the frontier: ratios at two losses, and what each ingredient gives.

psnr_self 44 dB stands for about 0.1 dB against photographs, 36.5 dB for about 0.5 dB (the codec's
error is not correlated with the model's). From the scene alone, views are synthesised, and
quality is held on views that the encoder neither measures nor fits to, and measured once more on
views that nothing was tuned on. Models fitted by bench/fit.py (--keep DIR) join in with --fits DIR;
trained models are measured against the test photographs too, and compressed once more with the
poses (no pixels) of their captures. Ratios are against 4 bytes per stored float.
Writes bench/results/frontier.json after every row.

    python bench/frontier.py [--fits DIR] [--only fox skull] [--goals 36.5 44] [--effort normal]
    python bench/frontier.py --poses [--fits DIR]
    python bench/frontier.py --ablation fox-trained skull
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from record import DATA, RESULTS, machine, write

from fieldpress import models
from fieldpress.gaussians.allocate import section_bits
from fieldpress.gaussians.codec import decode
from fieldpress.gaussians.compress import CompressSettings, compress, scene_views
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.sanitize import sanitize
from fieldpress.gaussians.search import EFFORTS, Effort
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.evaluate import evaluate

PHOTOS = {
    "fox": ("multiview/fox", 2.0),
    "snowmiku": ("multiview/snowmiku", 2.5),
    "lego": ("multiview/lego-nerf-synthetic", 2.0),
}
SCENES = {  # name -> file, photographs
    "fox-trained": ("fox-trained/point_cloud.ply", "fox"),
    "snowmiku-trained": ("snowmiku-trained/point_cloud.ply", "snowmiku"),
    "skull": ("skull/skull.sog", None),
    "leica-sofort": ("leica-sofort/leica-sofort-top8192.ply", None),
    "playbot": ("playbot/0_0/meta.json", None),
}
FITS = {"fox-fit": "fox", "snowmiku-fit": "snowmiku", "lego-fit": "lego"}
WANTED = {"44": 30.0, "36.5": 60.0, "fps_ratio_36.5": 1.5}
ABLATION = {
    "prune and steps": None,
    "colour re-fit on the file's geometry": Effort(keep=1.0),
    "rounds of pruning, no re-fit": Effort(repair=0, fit=0, merging=False),
    "rounds of merging, no re-fit": Effort(repair=0, fit=0),
    "rounds of pruning and re-fit": Effort(merging=False),
    "rounds of merging and re-fit": Effort(),
}


def load(name: str, fits: Path | None) -> tuple[SplatModel, str | None]:
    """A model and the name of its photographs."""
    if name in FITS:
        assert fits is not None
        return sanitize(models.load(fits / f"{FITS[name]}.ply"))[0], FITS[name]
    source, photos = SCENES[name]
    return sanitize(models.load(DATA / "gaussians" / source))[0], photos


def photographs(name: str | None) -> Scene | None:
    """The posed capture whose test photographs a trained model is measured against."""
    if name is None:
        return None
    folder, downscale = PHOTOS[name]
    if downscale is None or not (DATA / folder).exists():
        return None
    return read_scene(DATA / folder, downscale=downscale)


def one(
    model: SplatModel,
    goal: float,
    effort: str | Effort,
    scene: Scene | None,
    *,
    poses: bool = False,
) -> dict[str, Any]:
    """Compress once and measure what the bytes decode to; `poses`: with the capture's cameras.

    Of these the training views alone are used, every eighth of them to hold the quality.
    """
    views = holdout = None
    fresh = scene_views(model, 1)[1]
    if poses:
        assert scene is not None
        aside = torch.arange(len(scene.train)) % 8 == 4
        views, holdout, fresh = scene.train[~aside], scene.train[aside], scene.test
    start = time.perf_counter()
    made = compress(
        model, CompressSettings(target_db=goal, effort=effort), views=views, holdout=holdout
    )
    seconds = time.perf_counter() - start
    decoded = decode(made.data)
    found = evaluate(decoded.renderer(), fresh, reference=model.renderer())
    assert found.fps is not None
    assert found.fps_reference is not None
    count = len(decoded)
    row = {
        "goal": goal,
        "effort": effort if isinstance(effort, str) else "own",
        "views": "the capture's" if poses else "synthesised",
        "bytes": len(made.data),
        "ratio": model.float_bytes / len(made.data),
        "count_in": len(model),
        "count_out": count,
        "psnr_self": made.report["psnr_self"],
        "psnr_self_fresh_views": found.psnr_self,
        "fps_ratio": found.fps / found.fps_reference,
        "seconds": seconds,
        "rounds": made.report["rounds"],
        "bits_per_gaussian": {k: v / count for k, v in section_bits(made.data).items()},
    }
    if scene is not None:
        before = evaluate(model.renderer(), scene.test, photos=scene.test_images)
        after = evaluate(decoded.renderer(), scene.test, photos=scene.test_images)
        assert before.psnr is not None
        assert after.psnr is not None
        row |= {"psnr_input": before.psnr, "psnr": after.psnr, "loss_db": before.psnr - after.psnr}
    return row


def tell(row: dict[str, Any]) -> None:
    loss = f"{row['loss_db']:+.2f} dB lost on photographs" if "loss_db" in row else ""
    print(
        f"{row['scene']:16s} {row.get('ingredients', row['effort']):36s} {row['views']:13s}"
        f" {row['goal']:5.1f} dB {row['ratio']:6.1f}x {row['bytes']:9,d} B"
        f" {row['count_in']:7,d} -> {row['count_out']:7,d}"
        f" {row['psnr_self']:6.2f} dB ({row['psnr_self_fresh_views']:.2f} fresh)"
        f" {row['fps_ratio']:5.2f}x fps {row['seconds']:6.1f} s {loss}",
        flush=True,
    )


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median ratio and FPS over the degree-3 scenes, by goal and effort, synthesised views."""
    found: dict[str, Any] = {}
    for effort in sorted({row["effort"] for row in rows}):
        for goal in sorted({row["goal"] for row in rows}):
            some = [
                r for r in rows
                if (r["effort"], r["goal"], r["sh_degree"]) == (effort, goal, 3)
                and r["views"] == "synthesised"
            ]  # fmt: skip
            if some:
                found[f"{effort} {goal:g} dB"] = {
                    "scenes": len(some),
                    "ratio": statistics.median(r["ratio"] for r in some),
                    "fps_ratio": statistics.median(r["fps_ratio"] for r in some),
                }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=Path, default=None, help="folder of bench/fit.py's models")
    parser.add_argument("--only", nargs="*", choices=[*SCENES, *FITS])
    parser.add_argument("--goals", type=float, nargs="*", default=[36.5, 44.0])
    parser.add_argument("--effort", nargs="*", default=["normal"], choices=EFFORTS)
    parser.add_argument("--poses", action="store_true", help="with the poses of the captures")
    parser.add_argument("--ablation", nargs="*", default=None, choices=[*SCENES, *FITS])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / "frontier.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows, ablation = kept.get("scenes", []), kept.get("ablation", [])

    def keep(into: list[dict[str, Any]], row: dict[str, Any], key: tuple[str, ...]) -> None:
        row["commit"] = machine()["commit"]
        into[:] = [r for r in into if any(r[k] != row[k] for k in key)] + [row]
        tell(row)
        result = {"wanted": WANTED, "medians": medians(rows), "scenes": rows, "ablation": ablation}
        write("frontier", result)

    if arguments.ablation is not None:
        for name in arguments.ablation:
            model, photos = load(name, arguments.fits)
            for number, (ingredients, effort) in enumerate(ABLATION.items()):
                row = one(model, arguments.goals[0], effort or "fast", None)
                row |= {"scene": name, "ingredients": ingredients, "number": number}
                keep(ablation, row, ("scene", "ingredients", "goal"))
        return
    names = arguments.only or [*SCENES, *(FITS if arguments.fits else {})]
    for name in names:
        model, photos = load(name, arguments.fits)
        scene = photographs(photos)
        if arguments.poses and scene is None:
            continue
        for effort in arguments.effort:
            for goal in arguments.goals:
                row = one(model, goal, effort, scene, poses=arguments.poses)
                row |= {"scene": name, "sh_degree": model.sh_degree}
                keep(rows, row, ("scene", "goal", "effort", "views"))


if __name__ == "__main__":
    main()
