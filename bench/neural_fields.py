"""`fieldpress fit sdf` and `fit nerf` on the shared meshes and photographs, beside Draco.

    python bench/neural_fields.py [--only NAME ...] [--keep DIR [--reuse]]

Runs the commands as a user does; what is measured is the decoded file. Photographs are made smaller
so that this ends in minutes; rows of others than --only stay. `trained` goes through the rounding
with the bits in the loss, to be compared with the field of as many steps without, not rounded;
`fine` may lose half as much by rounding as others; `long` has the command's own steps and rays.
Chamfer distances are of meshes by marching cubes, in edges of the cube. Draco (DracoPy, where it is
installed) codes the same mesh at 11 bits a coordinate and is decoded and measured too. --reuse
takes files and reports that are in --keep. Writes bench/results/neural_fields.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import DATA, RESULTS, write

from fieldpress import models
from fieldpress.field_jobs import read_solid
from fieldpress.fields.fit_sdf import Solid, chamfer
from fieldpress.fields.levels import Encoding
from fieldpress.scenes.datasets import read_scene

JOBS = {  # name -> kind, source, options
    "spot": ("sdf", "meshes/spot.obj", ["--steps", "800"]),
    "armadillo": ("sdf", "meshes/armadillo.obj", ["--steps", "800"]),
    "lego": (
        "nerf", "multiview/lego-nerf-synthetic",
        ["--downscale", "4", "--steps", "800", "--rays", "512"],
    ),
    "lego, fine": (
        "nerf", "multiview/lego-nerf-synthetic",
        ["--downscale", "4", "--steps", "800", "--rays", "512", "--loss-db", "0.05"],
    ),
    "lego, trained": (
        "nerf", "multiview/lego-nerf-synthetic",
        ["--downscale", "4", "--steps", "800", "--rays", "512", "--loss-db", "0.05",
         "--rate-db", "0.05"],
    ),
    "fox": (
        "nerf", "multiview/fox", ["--downscale", "8", "--steps", "800", "--rays", "512"],
    ),
    "fox, fine": (
        "nerf", "multiview/fox",
        ["--downscale", "8", "--steps", "800", "--rays", "512", "--loss-db", "0.05"],
    ),
    "fox, trained": (
        "nerf", "multiview/fox",
        ["--downscale", "8", "--steps", "800", "--rays", "512", "--loss-db", "0.05",
         "--rate-db", "0.04"],
    ),
    "lego, long": ("nerf", "multiview/lego-nerf-synthetic", ["--downscale", "2"]),
    "fox, long": ("nerf", "multiview/fox", ["--downscale", "4"]),
}  # fmt: skip
MESH_CELLS = 160
DRACO_BITS = 11


def run(kind: str, source: Path, output: Path, options: list[str]) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "fieldpress", "fit", kind, str(source), "-o", str(output),
        *options, "--overwrite", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source}: exit {done.returncode}")
    return json.loads(done.stdout)


def frames_a_second(source: Path, output: Path, options: list[str]) -> float:
    """Of the decoded file at the size of its photographs, on one thread."""
    torch.set_num_threads(1)
    scene = read_scene(source, downscale=float(options[options.index("--downscale") + 1]))
    model = models.load(output)
    start = time.process_time()
    model.render(scene.test)
    return len(scene.test) / (time.process_time() - start)


def meshes(source: Path, output: Path) -> dict[str, Any]:
    """Chamfer distances of our mesh and of Draco's, and Draco's bytes."""
    solid, field = read_solid(str(source)), models.load(output)
    vertices, faces = field.mesh(MESH_CELLS)
    ours = chamfer(solid, Solid(vertices, faces.astype(np.uint32)), field.edge)
    found: dict[str, Any] = {"chamfer": ours, "draco": None}
    try:
        import DracoPy
    except ImportError:
        return found
    data = DracoPy.encode(solid.vertices, solid.faces, quantization_bits=DRACO_BITS)
    back = DracoPy.decode(data)
    other = Solid(np.asarray(back.points, np.float32), np.asarray(back.faces, np.uint32))
    found["draco"] = {
        "bytes": len(data), "bits": DRACO_BITS, "chamfer": chamfer(solid, other, field.edge),
    }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(JOBS))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--reuse", action="store_true")
    given = parser.parse_args()
    before = RESULTS / "neural_fields.json"
    rows = json.loads(before.read_text())["rows"] if before.exists() else []
    rows = [row for row in rows if row["name"] not in given.only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        for name in given.only:
            kind, source, options = JOBS[name]
            output = folder / f"{name}.fpz"
            row = {"name": name, "kind": kind, "options": options}
            beside = output.with_suffix(".json")
            if not (given.reuse and beside.exists()):
                beside.write_text(json.dumps(run(kind, DATA / source, output, options)))
            row |= json.loads(beside.read_text())
            row |= {"input": source, "output": output.name}
            if kind == "sdf":
                row |= meshes(DATA / source, output)
            else:
                encoding = Encoding.of(row["encoding"], 3)
                row["fp16_table_bytes"] = 2 * encoding.rows * encoding.features
                row["fps"] = frames_a_second(DATA / source, output, options)
            rows.append(row)
            print(json.dumps({k: v for k, v in row.items() if k != "encoding"}), flush=True)
            write("neural_fields", {"rows": rows})


if __name__ == "__main__":
    main()
