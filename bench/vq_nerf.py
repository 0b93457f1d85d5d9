"""VQ-NeRF beside a ray a pixel: speed, quality and flicker of decoded files of one scene.

    python bench/vq_nerf.py [--only NAME ...] [--keep DIR]

Runs `fieldpress fit nerf` as a user does, by each method, and measures the files on the same test
views and the same path. `direct, stretched` is the control: the direct field at 1 / r of the size,
made larger by bicubic interpolation. Flicker is the mean change of a surface's colour between views
a degree and a half apart (fields/flicker.py), its places taken from the direct field. Frames are
timed in turns, the median counts. Writes bench/results/vq_nerf.json; with --only, fits just those
and takes the other files from --keep.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from neural_fields import run
from record import DATA, write

from fieldpress import models
from fieldpress.fields.flicker import flicker
from fieldpress.fields.vq_nerf import VqNerfField
from fieldpress.scenes import metrics
from fieldpress.scenes.cameras import Cameras, Scene
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.orbit import orbit

SCENE, DOWNSCALE = "multiview/lego-nerf-synthetic", 4
FILES = {  # name -> options
    "direct": ["--steps", "1600", "--rays", "512"],
    "vqnerf, r = 2": ["--steps", "1600", "--rays", "256", "--method", "vqnerf", "--upscale", "2"],
    "vqnerf, r = 4": ["--steps", "1600", "--rays", "256", "--method", "vqnerf", "--upscale", "4"],
}
STRETCHED = (2, 4)
FRAMES, TURN = 8, 240  # Of the path, and of the whole turn that it is a part of.
REPEATS = 9
FITTED = ("fit_seconds", "psnr", "psnr_unrounded", "bytes_by_section")


def stretched(direct: Any, ratio: int) -> Any:
    """A renderer: a direct field at 1 / ratio of the size, made larger."""

    def render(cameras: Cameras) -> torch.Tensor:
        small = direct.render(cameras.resized(cameras.width // ratio, cameras.height // ratio))
        size = (cameras.height, cameras.width)
        large = torch.nn.functional.interpolate(small.movedim(3, 1), size, mode="bicubic")
        return large.movedim(1, 3).clamp(0, 1)

    return render


def path_of(scene: Scene, direct: Any) -> Cameras:
    """A slow piece of a turn around the cube, as far away as the test views."""
    center = torch.tensor(direct.low) + direct.edge / 2
    radius = float((scene.test.positions - center).norm(dim=1).mean())
    width, height = scene.test.width, scene.test.height
    focal = float(scene.test.Ks[0, 0, 0])
    fov = 2 * torch.rad2deg(torch.atan(torch.tensor(0.5 * min(width, height) / focal)))
    whole = orbit(
        center, radius, TURN, width=width, height=height, elevation=30, fov=float(fov),
        up=[0.0, 0.0, 1.0],
    )  # fmt: skip
    return whole[:FRAMES]


def seconds_of(renders: dict[str, Any], camera: Cameras) -> dict[str, float]:
    """Median seconds of a frame by name, one thread, taken in turns."""
    spent: dict[str, list[float]] = {name: [] for name in renders}
    for _ in range(REPEATS):
        for name, render in renders.items():
            start = time.process_time()
            render(camera)
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def measure(files: dict[str, Path], scene: Scene) -> list[dict[str, Any]]:
    fields = {name: models.load(file) for name, file in files.items()}
    direct = fields["direct"]
    renders = {name: field.render for name, field in fields.items()}
    renders |= {f"direct, stretched r = {r}": stretched(direct, r) for r in STRETCHED}
    path, seconds = path_of(scene, direct), seconds_of(renders, scene.test[:1])
    rows = []
    for name, render in renders.items():
        pictures = render(scene.test)
        row = {
            "name": name,
            "bytes": files[name].stat().st_size if name in files else None,
            "psnr": float(metrics.psnr(pictures, scene.test_images).mean()),
            "ssim": float(metrics.ssim(pictures, scene.test_images).mean()),
            "frame_cpu_seconds": seconds[name],
            "times_as_fast": seconds["direct"] / seconds[name],
            "flicker": flicker(render, path, direct),
        }
        field = fields.get(name)
        if isinstance(field, VqNerfField):
            row["seconds_by_stage"] = field.staged(scene.test[:1])[1]
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(FILES))
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    source, fits = DATA / SCENE, {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        files = {name: folder / f"vq_nerf_{i}.fpz" for i, name in enumerate(FILES)}
        for name in given.only:
            options = [*FILES[name], "--downscale", str(DOWNSCALE)]
            report = run("nerf", source, files[name], options)
            files[name].with_suffix(".json").write_text(json.dumps(report))
        for name, file in files.items():
            if (beside := file.with_suffix(".json")).exists():
                report = json.loads(beside.read_text())
                fits[name] = {key: report[key] for key in FITTED}
        files = {name: file for name, file in files.items() if file.exists()}
        rows = measure(files, read_scene(source, downscale=DOWNSCALE))
    write("vq_nerf", {"scene": SCENE, "downscale": DOWNSCALE, "options": FILES, "fits": fits,
                      "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
