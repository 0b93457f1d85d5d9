"""Fine-tuned compression against photographs that no stage has seen: a rate-distortion curve.

For each scene: the uncompressed model, the codec without training, and the fine-tune, at the same
sizes in bytes; PSNR and SSIM of the decoded file on the test photographs (sorted index % 8 == 0),
which nothing is chosen by. Rows are added to bench/results/finetune.json as they are done, the
curves drawn into bench/results/finetune.svg.

    python bench/finetune.py [--only fox snowmiku] [--ratios 40 60 100 150] [--steps 3000]
        [--threads 2] [--no-codec] [--draw]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from record import DATA, RESULTS, machine, write

from fieldpress import models
from fieldpress.gaussians.codec import decode
from fieldpress.gaussians.compress import CompressSettings, compress
from fieldpress.gaussians.finetune import FinetuneSettings, compress_finetuned
from fieldpress.gaussians.model import SplatModel
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.evaluate import evaluate
from fieldpress.viewer.curves import Curve, Panel, Point, draw

SCENES = {  # name -> model, photographs, how much smaller they are made
    "fox": ("gaussians/fox-trained/point_cloud.ply", "multiview/fox", 2.0),
    "snowmiku": ("gaussians/snowmiku-trained/point_cloud.ply", "multiview/snowmiku", 2.5),
    "fox-tiny": ("multiview/fox-tiny/point_cloud.ply", "multiview/fox-tiny", 1.0),
}


def measured(model: SplatModel, scene: Scene, reference: SplatModel) -> dict[str, Any]:
    report = evaluate(
        model.renderer(), scene.test, reference=reference.renderer(), photos=scene.test_images
    )
    keys = ("psnr", "ssim", "psnr_self", "fps", "fps_reference", "render_size", "views")
    return {key: report.to_json()[key] for key in keys} | {"count": len(model)}


def press(name: str, model: SplatModel, scene: Scene, target: int, steps: int) -> bytes:
    """The file of a method: `codec` or `finetune`."""
    if name == "codec":
        settings = CompressSettings(target_bytes=target)
        return compress(model, settings, views=scene.train, holdout=scene.test).data
    assert scene.train_images is not None
    settings = FinetuneSettings(target_bytes=target, steps=steps)
    return compress_finetuned(
        model, scene.train, scene.train_images, scene.test, settings, masks=scene.train_masks
    ).data


def row_of(
    name: str, method: str, ratio: float, steps: int, model: SplatModel, scene: Scene
) -> dict[str, Any]:
    row: dict[str, Any] = {"scene": name, "method": method, "ratio_wanted": ratio}
    began = time.perf_counter()
    decoded, size = model, model.float_bytes
    if method != "input":
        try:
            data = press(method, model, scene, int(model.float_bytes / ratio), steps)
        except ValueError as error:  # The codec alone does not get to every size.
            return {**row, "failed": str(error)}
        decoded, size = decode(data), len(data)
    seconds = time.perf_counter() - began
    facts = {
        "steps": steps if method == "finetune" else 0,
        "bytes": size,
        "ratio": model.float_bytes / size,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "commit": machine()["commit"],
    }
    return {**row, **facts, **measured(decoded, scene, model)}


def add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Put a row in the place of its like, and store all."""
    keys = ("scene", "method", "ratio_wanted")
    rows[:] = [r for r in rows if any(r[k] != row[k] for k in keys)] + [row]
    rows.sort(key=lambda r: [str(r[k]) if k != "ratio_wanted" else r[k] for k in keys])
    write("finetune", {"rows": rows})


def curves(rows: list[dict[str, Any]], scene: str) -> list[Curve]:
    found = []
    for method, label in (("codec", "codec, no training"), ("finetune", "fine-tuned")):
        mine = [r for r in rows if (r["scene"], r["method"]) == (scene, method) and "psnr" in r]
        points = sorted((r["bytes"], r["psnr"]) for r in mine)
        found.append(Curve(label, tuple(Point(*point) for point in points)))
    return found


def draw_all(rows: list[dict[str, Any]], path: Path) -> None:
    panels = []
    for scene in dict.fromkeys(r["scene"] for r in rows):
        inputs = [r for r in rows if (r["scene"], r["method"]) == (scene, "input")]
        level, whole = (inputs[0]["psnr"], inputs[0]["bytes"]) if inputs else (None, None)
        panels.append(Panel(scene, tuple(curves(rows, scene)), level, whole))
    path.write_text(draw(panels, "PSNR of test photographs, dB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["fox", "snowmiku"], choices=list(SCENES))
    parser.add_argument("--ratios", nargs="*", type=float, default=[40, 60, 100, 150])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-codec", action="store_true", help="leave the codec's rows as they are"
    )
    parser.add_argument("--draw", action="store_true", help="only draw what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stored = RESULTS / "finetune.json"
    rows: list[dict[str, Any]] = json.loads(stored.read_text())["rows"] if stored.exists() else []
    for name in [] if arguments.draw else arguments.only:
        file, photos, downscale = SCENES[name]
        model, scene = models.load(DATA / file), read_scene(DATA / photos, downscale=downscale)
        methods = ["input"] if arguments.no_codec else ["input", "codec"]
        for method in [*methods, "finetune"]:
            for ratio in [1.0] if method == "input" else arguments.ratios:
                row = row_of(name, method, ratio, arguments.steps, model, scene)
                add(rows, row)
                print({k: v for k, v in row.items() if k != "commit"}, flush=True)
    draw_all(rows, RESULTS / "finetune.svg")


if __name__ == "__main__":
    main()
