"""One million Gaussians: peak memory of `fieldpress compress`, and 200k: its time.

The scene is the seeded one of raster_cpu.py, written as an INRIA PLY (248 bytes a Gaussian).
Writes bench/results/large.json.

    python bench/large.py [--counts 200000 1000000]
    python bench/large.py --counts 1000000 --effort high --name large_high
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from raster_cpu import seeded_scene
from record import write

from fieldpress import models
from fieldpress.gaussians import SplatModel


def scene(count: int) -> SplatModel:
    means, quats, scales, opacities, colors = seeded_scene(count)
    return SplatModel(
        means=means,
        quats=quats,
        scales=scales.log(),
        opacities=opacities.clamp(1e-6, 1 - 1e-6).logit(),
        sh0=colors[:, :1].contiguous(),
        shN=colors[:, 1:].contiguous(),
    )


# A process of its own, so that the peak is that of the one command.
CHILD = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
sys.stdout.write(done.stdout); sys.stderr.write(done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def measure(count: int, preset: str, effort: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "scene.ply", Path(folder) / "scene.fpz"
        model = scene(count)
        models.save(model, source)
        model_bytes = model.float_bytes
        del model
        command = [
            sys.executable, "-m", "fieldpress", "compress", str(source), "-o", str(output),
            "--preset", preset, "--effort", effort, "--json",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr.strip())
    *report, peak = done.stdout.strip().splitlines()
    return {
        **json.loads("\n".join(report)),
        "model_bytes": model_bytes,
        "peak_rss_bytes": int(peak) * 1024,
        "peak_over_model": int(peak) * 1024 / model_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--name", default="large", help="of the result")
    arguments = parser.parse_args()
    rows = []
    for count in arguments.counts:
        row = measure(count, arguments.preset, arguments.effort)
        rows.append(row)
        print(
            f"{count:8d} Gaussians: encode {row['encode_seconds']:.1f} s, decode"
            f" {row['decode_seconds']:.2f} s, ratio {row['ratio']:.1f}, psnr_self"
            f" {row['psnr_self']:.2f} dB, peak {row['peak_rss_bytes'] / 1e6:.0f} MB ="
            f" {row['peak_over_model']:.2f}x the model",
            flush=True,
        )
    print("wrote", write(arguments.name, {"effort": arguments.effort, "rows": rows}))


if __name__ == "__main__":
    main()
