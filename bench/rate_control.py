"""Sizes asked for and sizes got: real files, preset effort, from the scene alone.

Five scenes, each at an 18th, a 36th and a 72nd of its floats: a file must not be larger than
asked, and by no more than 0.5 % smaller. Qualities asked for and got stand in frontier.json.
Writes bench/results/rate_control.json.

    python bench/rate_control.py [--only fox-trained] [--effort normal]
"""

from __future__ import annotations

import argparse
import time

import torch
from frontier import SCENES, load
from record import write

from fieldpress.gaussians.codec import decode
from fieldpress.gaussians.compress import CompressSettings, compress

MORE = {
    "fruit-drops": ("fruit-drops/fruit_drops_minimal.ply", None),
    "guitar": ("guitar/guitar.compressed.ply", None),
    "train-1000": ("train-1000/train-1000.ply", None),
}
NAMES = ("train-1000", "fruit-drops", "leica-sofort", "fox-trained", "guitar")
PARTS = (18, 36, 72)
WANTED = {"deviation": 0.005}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*NAMES], choices=NAMES)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    SCENES.update(MORE)
    rows = []
    for name in arguments.only:
        model, _ = load(name, None)
        for part in PARTS if model.sh_degree else [p / 3 for p in PARTS]:
            target = int(model.float_bytes / part)
            start = time.perf_counter()
            made = compress(model, CompressSettings(target_bytes=target, effort=arguments.effort))
            row = {
                "scene": name,
                "target_bytes": target,
                "bytes": len(made.data),
                "deviation": len(made.data) / target - 1,
                "psnr_self": made.report["psnr_self"],
                "count_in": len(model),
                "count_out": len(decode(made.data)),
                "seconds": time.perf_counter() - start,
            }
            rows.append(row)
            print(
                f"{name:16s} asked {target:9,d} B, got {row['bytes']:9,d} B"
                f" ({100 * row['deviation']:+.2f} %) {row['psnr_self']:.2f} dB"
                f" {row['count_out']:,d} Gaussians {row['seconds']:.0f} s",
                flush=True,
            )
            write("rate_control", {"wanted": WANTED, "effort": arguments.effort, "rows": rows})


if __name__ == "__main__":
    main()
