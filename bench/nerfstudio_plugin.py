"""nerfstudio trains and evaluates our methods; what it saved is compressed and measured again.

    bench/nerfstudio_plugin.sh CAPTURE      makes the environment and calls this

Alone: python bench/nerfstudio_plugin.py CAPTURE VENV, where VENV has nerfstudio and fieldpress.
Without arguments it says so and does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

from fieldpress.scenes.datasets import read_scene

METHODS: dict[str, list[str]] = {
    "fieldpress-splats": ["--pipeline.model.budget", "10000",
                          "--pipeline.model.num-downscales", "0"],
    "fieldpress-nerf": ["--pipeline.model.log2-hashmap-size", "14", "--pipeline.model.reach", "2",
                        "--pipeline.datamanager.train-num-rays-per-batch", "512"],
}  # fmt: skip
KEPT = ("output_bytes", "ratio", "ratio_to_input", "psnr", "psnr_self", "count_in", "count_out")


def capture(source: Path, folder: Path) -> None:
    """A copy whose points lie in a PLY that its transforms.json names, as nerfstudio wants them."""
    shutil.copytree(source, folder)
    scene = read_scene(folder)
    if scene.points is None or scene.colors is None:
        return
    rows = [
        " ".join(f"{x:.6f}" for x in point) + " " + " ".join(f"{round(255 * c)}" for c in color)
        for point, color in zip(scene.points.tolist(), scene.colors.tolist(), strict=True)
    ]
    kinds = [*(f"float {axis}" for axis in "xyz"), "uchar red", "uchar green", "uchar blue"]
    head = ["ply", "format ascii 1.0", f"element vertex {len(rows)}"]
    lines = [*head, *(f"property {kind}" for kind in kinds), "end_header", *rows]
    (folder / "points.ply").write_text("\n".join(lines) + "\n")
    file = folder / "transforms.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "ply_file_path": "points.ply"}))


def run(venv: Path, *command: str) -> str:
    """What a program of the environment printed. Raises where it fails."""
    # nerfstudio 1.1.5 is older than torch's weights_only; its own files are trusted here.
    env = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "COLUMNS": "160"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(venv / "bin" / command[0]), *command[1:]], capture_output=True, text=True, env=env
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def trained(venv: Path, method: str, data: Path, folder: Path, steps: int) -> Path:
    """Train by nerfstudio; the folder of config.yml."""
    run(venv, "ns-train", method, "--data", str(data), "--output-dir", str(folder),
        "--experiment-name", "x", "--machine.device-type", "cpu", "--vis", "tensorboard",
        "--max-num-iterations", str(steps), "--steps-per-eval-image", "100000",
        "--steps-per-eval-batch", "100000", "--steps-per-eval-all-images", "100000",
        *METHODS[method])  # fmt: skip
    return next((folder / "x" / method).glob("*/config.yml")).parent


def pressed(source: Path, output: Path, scene: Path) -> dict[str, Any]:
    """The report of `fieldpress compress` with the capture's own photographs and poses."""
    command = [sys.executable, "-m", "fieldpress", "compress", str(source), "-o", str(output),
               "--scene", str(scene), "--effort", "fast", "--json"]  # fmt: skip
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {key: found[key] for key in KEPT if key in found}


def row(venv: Path, method: str, data: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Everything about one method."""
    start = time.perf_counter()
    base = trained(venv, method, data, folder, steps)
    seconds = time.perf_counter() - start
    run(venv, "ns-eval", "--load-config", str(base / "config.yml"), "--output-path",
        str(folder / "eval.json"))  # fmt: skip
    measured = json.loads((folder / "eval.json").read_text())["results"]
    checkpoint = next((base / "nerfstudio_models").glob("*.ckpt"))
    ours = pressed(checkpoint, folder / f"{method}.fpz", data)
    return {
        "steps": steps,
        "seconds": round(seconds, 1),
        "checkpoint_bytes": checkpoint.stat().st_size,
        "nerfstudio": {key: measured[key] for key in ("psnr", "ssim")},
        "fieldpress": ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", type=Path, nargs="?")
    parser.add_argument("venv", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    if given.venv is None:
        print("needs an environment with nerfstudio: see bench/nerfstudio_plugin.sh")
        return
    listed = run(given.venv, "ns-train", "--help")
    freeze = run(given.venv, "pip", "freeze")
    versions = re.findall(r"^(nerfstudio|torch|torchvision|gsplat|tyro)==(.*)$", freeze, re.M)
    rows = {}
    for method in METHODS:
        if method not in listed:
            raise SystemExit(f"ns-train --help does not list {method}")
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "capture"
            capture(given.capture, data)
            rows[method] = row(given.venv, method, data, Path(name), given.steps)
        record.write(
            "nerfstudio_plugin",
            {"capture": given.capture.name, "versions": dict(versions), "methods": rows},
        )


if __name__ == "__main__":
    main()
