"""Rate-distortion curves and BD-rates of all methods over the shared scenes: `fieldpress bench`.

    python bench/sweep.py [-o DIR] [--only fox skull] [--threads 2] [--quick] [--resume]

Stores bench/results/sweep.json and sweep.svg; DIR keeps the page and the rows to resume from.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import DATA, RESULTS, write

from fieldpress.console import Progress
from fieldpress.manifest import read_manifest
from fieldpress.sweep import run_sweep

SCENES: dict[str, dict[str, Any]] = {  # Paths below DATA.
    "fox": {
        "path": "gaussians/fox-trained/point_cloud.ply",
        "scene": "multiview/fox",
        "downscale": 2.0,
    },
    "snowmiku": {
        "path": "gaussians/snowmiku-trained/point_cloud.ply",
        "scene": "multiview/snowmiku",
        "downscale": 2.5,
    },
    "skull": {"path": "gaussians/skull/skull.sog"},
    "playbot": {"path": "gaussians/playbot/0_0/meta.json"},
    "leica": {"path": "gaussians/leica-sofort/leica-sofort-top8192.ply"},
}
METHODS = ["fieldpress", "spz", "compressed.ply", "sog", "lightgaussian-posthoc"]
QUICK: list[Any] = [  # A fifth of the points: curves of four to eight.
    "fieldpress",
    {"name": "spz", "prune": [0, 0.2, 0.5], "sh_degree": [4], "sh_bits": [8, 6, 5]},
    {"name": "compressed.ply", "prune": [0, 0.15, 0.35, 0.6], "sh_degree": [4]},
    {"name": "sog", "prune": [0, 0.15, 0.35, 0.6], "sh_degree": [4]},
    {"name": "lightgaussian-posthoc", "prune": [0, 0.15, 0.3, 0.66], "vq_steps": [30]},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "sweep")
    parser.add_argument("--only", nargs="*", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="fewer settings of the peers")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scenes = []
    for name in arguments.only:
        paths = {k: str(DATA / v) for k, v in SCENES[name].items() if k != "downscale"}
        scenes.append({"name": name, **SCENES[name], **paths})
    arguments.output.mkdir(parents=True, exist_ok=True)
    methods = QUICK if arguments.quick else METHODS
    manifest = arguments.output / "manifest.json"
    manifest.write_text(json.dumps({"scenes": scenes, "methods": methods}, indent=1) + "\n")
    with Progress() as progress:
        report = run_sweep(
            read_manifest(manifest), arguments.output, resume=arguments.resume, progress=progress
        )
    results = json.loads((arguments.output / "results.json").read_text())
    keys = ("seed", "scenes", "points", "bd_rate", "bd_rate_median")
    print(json.dumps(report["bd_rate"], indent=1))
    print("wrote", write("sweep", {key: results[key] for key in keys}))
    shutil.copyfile(arguments.output / "curves.svg", RESULTS / "sweep.svg")


if __name__ == "__main__":
    main()
