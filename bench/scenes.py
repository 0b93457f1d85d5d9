"""`fieldpress compress` on real scenes: ratio, quality, time, FPS, and the same bits every time.

Runs the command as a user does, one process a scene, then decodes the file with one and with two
threads. Writes bench/results/scenes.json.

    python bench/scenes.py [--preset balanced] [--only fox skull]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import DATA, write

from fieldpress.gaussians.codec import decode

SCENES = {  # name -> file, ratio asked of preset balanced at 40 dB
    "fox": ("fox-trained/point_cloud.ply", 20),
    "snowmiku": ("snowmiku-trained/point_cloud.ply", 20),
    "skull": ("skull/skull.sog", 20),
    "leica-sofort": ("leica-sofort/leica-sofort-top8192.ply", 20),
    "fruit-drops": ("fruit-drops/fruit_drops_minimal.ply", 20),
    "train-1000": ("train-1000/train-1000.ply", 20),
    "playbot": ("playbot/0_0/meta.json", 14),
    "guitar": ("guitar/guitar.compressed.ply", 7),
    "angel": ("angel/angel.sog", 7),
    "st-peter": ("statues/st-peter.sog", 7),
    "logo": ("logo-sog-v1/meta.json", 7),
}


def digest(data: bytes, threads: int) -> tuple[str, float]:
    """SHA-256 of all decoded tensors, and the seconds that decoding took."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = decode(data)
    seconds = time.perf_counter() - start
    state = hashlib.sha256()
    for tensor in model.tensors().values():
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest(), seconds


def measure(name: str, preset: str) -> dict:
    source, wanted = SCENES[name]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "scene.fpz"
        command = [
            sys.executable, "-m", "fieldpress", "compress", str(DATA / "gaussians" / source),
            "-o", str(output), "--preset", preset, "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr.strip()}")
        data = output.read_bytes()
    report = json.loads(done.stdout)
    one, two = digest(data, 1), digest(data, 2)
    return {
        "scene": name,
        **report,
        "ratio_wanted": wanted,
        "decode_seconds_1_thread": one[1],
        "decode_seconds_2_threads": two[1],
        "same_bits_1_and_2_threads": one[0] == two[0],
        "sha256": one[0],
        "peak_rss_so_far_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--only", nargs="*", default=list(SCENES))
    arguments = parser.parse_args()
    rows = []
    print("scene         SH   count in -> out      bytes   ratio (want)  psnr_self ssim_self"
          "   enc s  dec s   FPS before -> after  same bits")  # fmt: skip
    for name in arguments.only:
        row = measure(name, arguments.preset)
        rows.append(row)
        print(
            f"{name:13s} {row['sh_degree']:2d} {row['count_in']:8d} -> {row['count_out']:7d}"
            f" {row['output_bytes']:9d} {row['ratio']:7.2f} ({row['ratio_wanted']:4d})"
            f" {row['psnr_self']:10.2f} {row['ssim_self']:9.4f} {row['encode_seconds']:7.1f}"
            f" {row['decode_seconds']:6.2f} {row['fps_reference']:8.1f} -> {row['fps']:6.1f}"
            f"   {row['same_bits_1_and_2_threads']}",
            flush=True,
        )
    suffix = "" if arguments.preset == "balanced" else f"_{arguments.preset}"
    if set(arguments.only) == set(SCENES):
        print("wrote", write(f"scenes{suffix}", {"preset": arguments.preset, "scenes": rows}))


if __name__ == "__main__":
    main()
