"""The native encodings beside torch's and Dr.Jit's, on one core, in one run.

    python bench/encode.py [--rounds 3] [--log2-points 17]

16 levels from 16 to 2048 cells, 2^19 rows of two floats, random points; forward also of 16-bit and
8-bit rows. A step is forward, the gradient of the table, and an optimiser: ours visits touched rows
only, theirs all. Peers: Dr.Jit's HashGridEncoding and PermutoEncoding (LLVM; the latter is what we
call Kuhn); in 3D, nerfstudio's `HashEncoding(implementation="torch")`, or its formula written down
here where nerfstudio cannot be imported (the result says which). All take turns in each round, a
few runs a turn; figures are the processor time of the least disturbed run, which others' work on
the machine hardly touches, and quartiles over runs. Ratios compare our whole step also with a
peer's forward and backward alone. Writes bench/results/encode.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from record import write
from torch import Tensor

from fieldpress.fields import _native
from fieldpress.fields.encoding import INIT, LazyAdam, encode, new_table
from fieldpress.fields.levels import Encoding

OTYPES = {
    "grid": "HashGrid",
    "kuhn": "KuhnGrid",
    "simplex": "SimplexGrid",
    "permuto": "PermutoGrid",
}
LEVELS, FEATURES, LOG2_ROWS, COARSE, FINE = 16, 2, 19, 16, 2048
GROWTH = (FINE / COARSE) ** (1 / (LEVELS - 1))
RATE = 1e-2
PACKED = ("grid", "simplex")  # Lattices whose tables are also tried as halves and as bytes.
RUNS = 4  # In a row, of a turn: training and rendering find their own table in the caches.
TORCH_ROUNDS = 2  # Each takes many seconds.
SETTLE_SECONDS = 0.05  # Dr.Jit's thread spins on for a while: its time, not its successor's.
Jobs = dict[str, Callable[[], Any]]


def our_jobs(name: str, dims: int, points: Tensor, density: float = 1) -> Jobs:
    """`density` scales the cells a side, for lattices of equally many vertices."""
    encoding = Encoding(dims, OTYPES[name], LEVELS, FEATURES, LOG2_ROWS, COARSE * density, GROWTH)
    table = new_table(encoding)
    optimiser = LazyAdam(encoding, table)
    upstream = torch.randn(encoding.width, len(points))

    def backward() -> None:
        encode(encoding, points, table)
        optimiser.accumulate(points, upstream)

    def step() -> None:
        encode(encoding, points, table)
        optimiser.update(points, upstream, RATE)

    key = f"ours {name}" + (" at equal vertices" if density != 1 else "")
    return {
        f"{key}: forward": lambda: encode(encoding, points, table),
        f"{key}: forward and backward": backward,
        f"{key}: step": step,
    }


def packed_jobs(name: str, dims: int, points: Tensor) -> Jobs:
    """Tables of half floats and of bytes."""
    encoding = Encoding(dims, OTYPES[name], LEVELS, FEATURES, LOG2_ROWS, COARSE, GROWTH)
    table = new_table(encoding)
    # By way of numpy, which asks for huge pages as it does for the floats.
    halves = torch.from_numpy(table.numpy().astype(np.float16))
    numbers = torch.from_numpy((table.numpy() / INIT * 127).round().astype(np.int8))
    steps = torch.full((LEVELS,), INIT / 127)
    return {
        f"ours {name} of halves: forward": lambda: encode(encoding, points, halves),
        f"ours {name} of bytes: forward": lambda: encode(encoding, points, numbers, steps),
    }


def drjit_jobs(dims: int, points: Tensor) -> Jobs:
    import drjit as dr
    from drjit import nn, opt
    from drjit.llvm.ad import Float

    dr.set_thread_count(1)
    jobs: Jobs = {}
    for name, kind in (("grid", nn.HashGridEncoding), ("permuto", nn.PermutoEncoding)):
        encoding = kind(
            Float, dims, n_levels=LEVELS, n_features_per_level=FEATURES,
            hashmap_size=1 << LOG2_ROWS, base_resolution=COARSE, per_level_scale=GROWTH,
        )  # fmt: skip
        where = [Float(np.ascontiguousarray(points[:, i].numpy())) for i in range(dims)]
        rng = np.random.default_rng(0)
        upstream = [
            Float(rng.standard_normal(len(points)).astype(np.float32))
            for _ in range(LEVELS * FEATURES)
        ]
        dr.eval(where, upstream, encoding.data)
        adam = opt.Adam(lr=RATE, params={"table": encoding.data})

        def forward(encoding: Any = encoding, where: Any = where) -> None:
            with dr.suspend_grad():
                features = encoding(where)
                dr.eval(features)
                dr.sync_thread()

        def backward(encoding: Any = encoding, where: Any = where, up: Any = upstream) -> Any:
            table = Float(dr.detach(encoding.data))
            dr.enable_grad(table)
            encoding.data = table
            features = encoding(where)
            dr.backward(sum(dr.sum(f * u) for f, u in zip(features, up, strict=True)))
            gradient = dr.grad(table)
            dr.eval(features, gradient)
            dr.sync_thread()
            return gradient

        def step(adam: Any = adam, encoding: Any = encoding, back: Any = backward) -> None:
            encoding.data = adam["table"]
            dr.set_grad(adam["table"], back())
            adam.step()
            dr.eval(adam["table"])
            dr.sync_thread()

        jobs |= {
            f"Dr.Jit {name}: forward": forward,
            f"Dr.Jit {name}: forward and backward": backward,
            f"Dr.Jit {name}: step": step,
        }
    return jobs


class TorchHashEncoding(torch.nn.Module):
    """The formula of nerfstudio 1.1.5's HashEncoding(implementation="torch"), in 3D."""

    PRIMES = (1, 2654435761, 805459861)

    def __init__(self) -> None:
        super().__init__()
        size = 1 << LOG2_ROWS
        self.scalings = torch.floor(COARSE * GROWTH ** torch.arange(LEVELS))
        self.size, self.offset = size, torch.arange(LEVELS) * size
        self.table = torch.nn.Parameter((2 * torch.rand(size * LEVELS, FEATURES) - 1) * 1e-3)

    def rows(self, cells: Tensor) -> Tensor:
        cells = cells * torch.tensor(self.PRIMES)
        index = torch.bitwise_xor(torch.bitwise_xor(cells[..., 0], cells[..., 1]), cells[..., 2])
        return index % self.size + self.offset

    def forward(self, points: Tensor) -> Tensor:
        scaled = points[..., None, :] * self.scalings[:, None]
        high, low = torch.ceil(scaled).int(), torch.floor(scaled).int()
        offset = scaled - low
        values = {}
        for corner in range(8):
            axes = [(high if corner >> i & 1 else low)[..., i : i + 1] for i in range(3)]
            values[corner] = self.table[self.rows(torch.cat(axes, dim=-1))]
        for i in range(3):
            part = offset[..., i : i + 1]
            values = {
                c >> 1: values[c] * (1 - part) + values[c | 1] * part for c in values if not c & 1
            }
        return values[0].flatten(-2)


def torch_jobs(points: Tensor) -> tuple[str, Jobs]:
    if importlib.util.find_spec("nerfstudio"):
        from nerfstudio.field_components.encodings import HashEncoding

        peer, name = (
            HashEncoding(LEVELS, COARSE, FINE, LOG2_ROWS, FEATURES, implementation="torch"),
            "nerfstudio",
        )
    else:
        peer, name = TorchHashEncoding(), "nerfstudio's formula"
    adam = torch.optim.Adam(peer.parameters(), lr=RATE)
    upstream = torch.randn(len(points), LEVELS * FEATURES)

    def forward() -> None:
        with torch.no_grad():
            peer(points)

    def backward() -> None:
        adam.zero_grad()
        (peer(points) * upstream).sum().backward()

    def step() -> None:
        backward()
        adam.step()

    return name, {
        f"torch ({name}): forward": forward,
        f"torch ({name}): forward and backward": backward,
        f"torch ({name}): step": step,
    }


def measure(jobs: Jobs, rounds: int, count: int) -> dict[str, dict[str, float]]:
    used: dict[str, list[float]] = {name: [] for name in jobs}
    for name, job in jobs.items():
        if not name.startswith("torch"):
            job()
    for turn in range(rounds):
        for name, job in jobs.items():
            if name.startswith("torch") and turn >= TORCH_ROUNDS:
                continue
            time.sleep(SETTLE_SECONDS)
            for _ in range(1 if name.startswith("torch") else RUNS):
                start = time.process_time()
                job()
                used[name].append(time.process_time() - start)
    rows = {}
    for name, seconds in used.items():
        low, middle, high = statistics.quantiles([*seconds, *seconds], n=4)
        rows[name] = {
            "mpoints_per_second": count / min(seconds) / 1e6,
            "cpu_ms": 1e3 * min(seconds),
            "median_cpu_ms": 1e3 * middle,
            "quartiles_cpu_ms": [1e3 * low, 1e3 * high],
        }
    return rows


def ratios(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many times as fast as each peer we are, like with like; and simplex beside our grid."""
    speed = {name: row["mpoints_per_second"] for name, row in rows.items()}
    found = {}
    pairs = [("grid", "Dr.Jit grid"), ("kuhn", "Dr.Jit permuto"), ("simplex", "Dr.Jit permuto")]
    torch_name = next((name.split(":")[0] for name in speed if name.startswith("torch")), None)
    pairs += [(name, torch_name) for name in ("grid", "simplex") if torch_name]
    for ours, peer in pairs:
        key = f"{ours} / {peer}"
        found[f"{key}, forward"] = speed[f"ours {ours}: forward"] / speed[f"{peer}: forward"]
        step = speed[f"ours {ours}: step"]
        found[f"{key}, step"] = step / speed[f"{peer}: step"]
        found[f"{key}, step against forward and backward"] = (
            step / speed[f"{peer}: forward and backward"]
        )
    for suffix in ("", " at equal vertices"):
        for what in ("forward", "step"):
            found[f"simplex{suffix} / grid, {what}"] = (
                speed[f"ours simplex{suffix}: {what}"] / speed[f"ours grid: {what}"]
            )
    for name in PACKED:
        for rows_of in ("halves", "bytes"):
            packed = speed[f"ours {name} of {rows_of}: forward"]
            found[f"{name} of {rows_of} / {name}, forward"] = (
                packed / speed[f"ours {name}: forward"]
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log2-points", type=int, default=17)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    count, cases, peer = 1 << given.log2_points, [], ""
    for dims in (2, 3, 4):
        points = torch.rand(count, dims)
        jobs: Jobs = {}
        for name in OTYPES:
            jobs |= our_jobs(name, dims, points)
        for name in PACKED:
            jobs |= packed_jobs(name, dims, points)
        jobs |= our_jobs("simplex", dims, points, density=(dims + 1) ** (-1 / (2 * dims)))
        jobs |= drjit_jobs(dims, points)
        if dims == 3:
            peer, more = torch_jobs(points)
            jobs |= more
        rows = measure(jobs, given.rounds, count)
        cases.append({"dims": dims, "jobs": rows, "ratios": ratios(rows)})
        print(f"-- {dims}D: million points a second and core")
        for name, row in rows.items():
            print(f"{name:55s} {row['mpoints_per_second']:8.3f}")
        for name, ratio in cases[-1]["ratios"].items():
            print(f"{name:75s} {ratio:6.2f}x")
    setting = {
        "levels": LEVELS,
        "features": FEATURES,
        "log2_rows": LOG2_ROWS,
        "cells": [COARSE, FINE],
    }
    write(
        "encode",
        {"points": count, "setting": setting, "torch_peer": peer, "fields_isa": _native.isa(),
         "drjit": importlib.metadata.version("drjit"), "cases": cases},
    )  # fmt: skip


if __name__ == "__main__":
    main()
