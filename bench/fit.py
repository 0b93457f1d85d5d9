"""`fieldpress fit gaussians` on real photographs, beside models of a plain trainer.

Runs the command as a user does; test views are every eighth photograph. The shared fox-trained and
snowmiku-trained models (3,000 steps of a plain CPU trainer) are measured on the same views by the
same renderer. Writes bench/results/fit.json.

    python bench/fit.py [--only fox snowmiku lego] [--keep DIR]
    python bench/fit.py --budget 150000 --keep DIR      what bench/frontier.py --fits DIR compresses
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from record import DATA, write

from fieldpress import models
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.evaluate import evaluate

JOBS = {  # name -> folder, downscale, budget, steps, the plain trainer's model
    "fox": ("fox", 2, 50_000, 8_000, "fox-trained/point_cloud.ply"),
    "snowmiku": ("snowmiku", 2.5, 60_000, 8_000, "snowmiku-trained/point_cloud.ply"),
    "lego": ("lego-nerf-synthetic", 2, 60_000, 5_000, None),
}
WANTED = {"fox": 30.5, "snowmiku": 29.3, "lego": None}


def plain(name: str) -> dict | None:
    """Quality of the plain trainer's model on the same photographs."""
    folder, downscale, _, _, model = JOBS[name]
    if model is None:
        return None
    scene = read_scene(DATA / "multiview" / folder, downscale=downscale)
    given = models.load(DATA / "gaussians" / model)
    report = evaluate(given.renderer(), scene.test, photos=scene.test_images)
    return {"psnr": report.psnr, "ssim": report.ssim, "fps": report.fps, "count": len(given)}


def measure(name: str, keep: Path, budget: int | None) -> dict:
    folder, downscale, usual, steps, _ = JOBS[name]
    budget = budget or usual
    output = keep / f"{name}.ply"
    command = [
        sys.executable, "-m", "fieldpress", "fit", "gaussians", str(DATA / "multiview" / folder),
        "-o", str(output), "--downscale", str(downscale), "--budget", str(budget),
        "--steps", str(steps), "--overwrite", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: exit {done.returncode}")
    report = json.loads(done.stdout)
    return {"scene": name, **report, "psnr_wanted": WANTED[name], "plain": plain(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(JOBS))
    parser.add_argument("--keep", type=Path, help="where the fitted .ply files stay")
    parser.add_argument("--budget", type=int, help="Gaussians, other than the protocol's")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            row = measure(name, arguments.keep or Path(folder), arguments.budget)
            rows.append(row)
            other = row["plain"] or {"psnr": float("nan"), "count": 0}
            print(
                f"{name:9s} {row['render_size']} {row['psnr']:6.2f} dB (want {row['psnr_wanted']},"
                f" plain {other['psnr']:.2f} with {other['count']})  ssim {row['ssim']:.4f}"
                f"  {row['fit_seconds'] / 60:5.1f} min  {row['count_out']} Gaussians"
                f"  {row['steps_per_second']:.1f} steps/s",
                flush=True,
            )
    if set(arguments.only) == set(JOBS) or arguments.budget is not None:
        name = "fit" if arguments.budget is None else f"fit_{arguments.budget}"
        print("wrote", write(name, {"scenes": rows}))


if __name__ == "__main__":
    main()
