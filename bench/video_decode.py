"""Frames a second that our video codec decodes, on one thread and on two.

    python bench/video_decode.py [--preset veryfast] [--lambda 1.5e-3] [--rounds 9]

Bunny of the shared data, 640x360, 16 frames in two groups. The file is coded once and kept in
/tmp by its commit, and decoded from its bytes; thread counts take turns, and the pictures of all
have to be the same. `cores` is what the machine gave meanwhile: how many times the work of one
process two got done side by side, each with a thread of its own.
Writes bench/results/video_decode.json.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import DATA, machine, write

from fieldpress.console import Progress
from fieldpress.fields import video
from fieldpress.scenes.video import read_clip
from fieldpress.video_jobs import VideoJob, fit_video_file

FRAMES = 16
THREADS = (1, 2)


def coded(preset: str, lmbda: float) -> Path:
    """The file, made where there is none of this version yet."""
    commit = machine()["commit"]
    path = Path(tempfile.gettempdir()) / f"video_decode-{commit}-{preset}-{lmbda:g}.fpz"
    if not path.exists():
        source = path.with_suffix(".npy")
        np.save(source, read_clip(DATA / "video" / "bunny_640x360", slice(0, FRAMES)).frames)
        with Progress() as progress:
            fit_video_file(
                str(source), str(path), VideoJob("latent", preset, lmbda), progress=progress
            )
        source.unlink()
    return path


def decoded(data: bytes, threads: int) -> tuple[float, float, str]:
    """Seconds, processor seconds, and a digest of all pictures."""
    torch.set_num_threads(threads)
    spent, start, state = time.process_time(), time.perf_counter(), hashlib.sha256()
    pictures = list(video.read(data).pictures())
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    for picture in pictures:
        state.update(picture.tobytes())
    return seconds, spent, state.hexdigest()


def side_by_side(data: bytes, processes: int) -> float:
    """Seconds that so many take which decode the file at once, on one thread each."""
    torch.set_num_threads(1)
    begin, children = time.perf_counter(), []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            decoded(data, 1)
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError("a decoder failed")
    return time.perf_counter() - begin


def measured(data: bytes, rounds: int) -> dict[str, Any]:
    runs: dict[int, list[tuple[float, float, str]]] = {threads: [] for threads in THREADS}
    cores = []
    for _ in range(rounds):
        for threads in THREADS:
            runs[threads].append(decoded(data, threads))
        cores.append(2 * side_by_side(data, 1) / side_by_side(data, 2))
    assert len({run[2] for found in runs.values() for run in found}) == 1
    rows: dict[str, Any] = {
        f"{threads} threads": {
            "fps_median": FRAMES / statistics.median(run[0] for run in found),
            "fps": sorted(FRAMES / run[0] for run in found),
            "cpu_ms_a_frame": 1e3 * statistics.median(run[1] for run in found) / FRAMES,
        }
        for threads, found in runs.items()
    }
    return {**rows, "cores": statistics.median(cores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="veryfast")
    parser.add_argument("--lambda", dest="lmbda", type=float, default=1.5e-3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--file", type=Path, help="decode this one, made before")
    given = parser.parse_args()
    path = given.file or coded(given.preset, given.lmbda)
    data = path.read_bytes()
    decoded(data, 1)
    rows = measured(data, given.rounds)
    result = {"clip": "bunny 640x360", "frames": FRAMES, "bytes": len(data),
              "preset": given.preset, "lambda": given.lmbda, "rows": rows}  # fmt: skip
    print("wrote", write("video_decode", result), rows)


if __name__ == "__main__":
    main()
