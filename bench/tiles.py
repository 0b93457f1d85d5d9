"""Scenes larger than memory is to be: `compress --tiles` on a city of seeded blocks.

A block is the scene of large.py; a city is so many of them side by side, written as one PLY block
by block. Measured: peak memory of every process, processor seconds per million Gaussians (other
jobs on the machine do not count in them), decoding by tile, and with --cut the cutting of a larger
city alone. Writes bench/results/NAME.json, or tiles_cut.json where nothing else is measured.

    python bench/tiles.py [--blocks 1 2] [--block 100000] [--tile 50000]
    python bench/tiles.py --cut 20 --blocks
    python bench/tiles.py --block 500000 --blocks 40 10 5 --tile 500000 --effort draft --jobs 2 \
        --name tiles_large    # 20 million: 10 GB of disk
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from large import scene
from record import RESULTS, write

from fieldpress.gaussians.cut import Rows, cut
from fieldpress.gaussians.ply import ply_head, ply_rows
from fieldpress.gaussians.tiles import TiledFile

SPACING = 40.0  # Between blocks, which reach 15 from their middles.


def city(path: Path, blocks: int, count: int) -> int:
    """Write a city; the bytes of its PLY."""
    block = scene(count)
    side = math.ceil(math.sqrt(blocks))
    with path.open("wb") as file:
        file.write(ply_head(blocks * count, block.shN.shape[1], False))
        for number in range(blocks):
            shift = torch.tensor([number % side, 0, number // side]) * SPACING
            for rows in ply_rows(replace(block, means=block.means + shift)):
                file.write(rows)
    return path.stat().st_size


# A process of its own, so that the peak is that of one job; it says that of its children as well.
CHILD = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
import tiles
print(json.dumps(getattr(tiles, sys.argv[2])(*sys.argv[3:])))
"""


def alone(function: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), function, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return json.loads(done.stdout)


def peak(who: int = resource.RUSAGE_SELF) -> int:
    return 1024 * resource.getrusage(who).ru_maxrss


def decode_by_tile(path: str) -> dict[str, Any]:
    """Every tile decoded, one at a time."""
    file = TiledFile.open(path)
    assert file is not None
    start = time.process_time()
    count = sum(len(model) for model in file.finest())
    return {"cpu_seconds": time.process_time() - start, "count": count, "peak_bytes": peak()}


def cut_alone(path: str, folder: str, most: str) -> dict[str, Any]:
    start = time.perf_counter()
    parts = cut(Rows.open(path), Path(folder), int(most))
    counts = [count for _, count in parts]
    return {
        "seconds": time.perf_counter() - start, "tiles": len(parts), "count": sum(counts),
        "largest_tile": max(counts), "smallest_tile": min(counts), "peak_bytes": peak(),
    }  # fmt: skip


def spent() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    folder: Path, blocks: int, count: int, tile: int, jobs: int, effort: str
) -> dict[str, Any]:
    source, output = folder / f"city-{blocks}.ply", folder / f"city-{blocks}.fpz"
    resumed = output.with_name(f"{output.name}.parts").is_dir() and source.exists()
    if not resumed:
        city(source, blocks, count)
    millions = blocks * count / 1e6
    command = [
        sys.executable, "-m", "fieldpress", "compress", str(source), "-o", str(output),
        "--tiles", str(tile), "--effort", effort, "--jobs", str(jobs), "--json",
        *["--resume"] * resumed,
    ]  # fmt: skip
    start, before = time.perf_counter(), spent()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    report, wall = json.loads(done.stdout), time.perf_counter() - start
    source.unlink()
    cpu = sum(report["tile_cpu_seconds"])
    row = {
        **{key: value for key, value in report.items() if key not in ("input", "output")},
        "blocks": blocks,
        "jobs": jobs,
        "effort": effort,
        "wall_seconds": wall,
        "cpu_seconds_per_million": cpu / millions,
        # The cut and the driver too; not known of what was begun by another run.
        "all_cpu_seconds_per_million": None if resumed else (spent() - before) / millions,
        "decode": alone("decode_by_tile", str(output)),
    }
    print(
        f"{blocks * count:9,d} Gaussians, {row['tiles']} tiles: {cpu:.0f} processor s ="
        f" {row['cpu_seconds_per_million']:.1f} a million"
        f" ({row['all_cpu_seconds_per_million'] or math.nan:.1f} with the cut), {wall:.0f} s, ratio"
        f" {row['ratio']:.1f}, {row['psnr_self_worst_tile']:.2f} dB or more, peak"
        f" {row['peak_bytes_of_a_process'] / 1e6:.0f} MB; decoding"
        f" {row['decode']['cpu_seconds']:.1f} s, peak {row['decode']['peak_bytes'] / 1e6:.0f} MB",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--block", type=int, default=100_000)
    parser.add_argument("--tile", type=int, default=50_000)
    parser.add_argument("--jobs", type=int, default=0, help="0: as many as blocks, weak scaling")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--name", default="tiles", help="of the result")
    parser.add_argument(
        "--folder", type=Path, help="for files; of an interrupted run to go on from"
    )
    parser.add_argument("--keep", action="store_true", help="rows of other sizes in the result")
    parser.add_argument("--cut", type=int, default=0, help="millions of Gaussians to cut alone")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"block": arguments.block, "tile": arguments.tile}
    with tempfile.TemporaryDirectory(prefix="fieldpress-tiles-") as name:
        run(arguments, arguments.folder or Path(name), result)


def run(arguments: argparse.Namespace, folder: Path, result: dict[str, Any]) -> None:
    """All that is asked for; written after every row."""
    if arguments.cut:
        source, parts = folder / "large.ply", folder / "parts"
        parts.mkdir()
        size = city(source, arguments.cut, 1_000_000)
        result["cut"] = {"bytes": size, **alone("cut_alone", str(source), str(parts), "500000")}
        print("cut:", json.dumps(result["cut"]), flush=True)
        source.unlink()
    result["rows"] = rows = kept(arguments)
    if not arguments.blocks:
        print("wrote", write("tiles_cut", result))
    for blocks in arguments.blocks:
        jobs = arguments.jobs or blocks
        row = measure(folder, blocks, arguments.block, arguments.tile, jobs, arguments.effort)
        rows.append(row)
        for kind in ("cpu_seconds_per_million", "all_cpu_seconds_per_million"):
            rates = [row[kind] for row in rows if row[kind] is not None]
            result[f"spread_of_{kind}"] = max(rates, default=1) / min(rates, default=1) - 1
        print("wrote", write(arguments.name, result))


def kept(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of other sizes that an earlier run has written, each with its commit, for --keep."""
    path = RESULTS / f"{arguments.name}.json"
    if not arguments.keep or not path.exists():
        return []
    before = json.loads(path.read_text())
    return [
        {"commit": before["commit"], **row}
        for row in before["rows"]
        if row["blocks"] not in arguments.blocks
    ]


if __name__ == "__main__":
    main()
