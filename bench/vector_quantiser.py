"""Would a vector quantiser serve view-dependent colour better than the codec's scalars?

At the steps of a finished file, all else as it is, the AC coefficients are coded by the codec at
several steps, and by entropy-constrained vector quantisers (Chou et al. 1989): k-means weighted by
the classes' importance, one stage and two, several sizes and multipliers. Bits are real ones for
the codec; for the vector quantiser they are a lower bound, the entropy of its indices within each
class and four bits a number of the codebook, so that where it loses, it loses.
Writes bench/results/vector_quantiser.json.

    python bench/vector_quantiser.py [--only fox-trained leica-sofort] [--goal 36.5]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from record import DATA, write
from torch import Tensor

from fieldpress import models
from fieldpress.gaussians import blocks, search
from fieldpress.gaussians.allocate import section_bits
from fieldpress.gaussians.codec import Steps, encode_source, requantise
from fieldpress.gaussians.compress import CompressSettings, prepare
from fieldpress.gaussians.fit_tables import Source
from fieldpress.quant.codebook import CodebookSettings, fit_codebook

SCENES = {
    "fox-trained": "fox-trained/point_cloud.ply",
    "leica-sofort": "leica-sofort/leica-sofort-top8192.ply",
}
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)
SIZES, MULTIPLIERS = (64, 512, 4096), (0.05, 0.3, 1.5)
NUMBER_BITS = 4  # of a codebook entry's coordinate: fewer than a real file would take
ITERATIONS = 12


class Tap:
    """A dry stream that notes what AC is asked for, and hands out something else if told to."""

    def __init__(self, dry: blocks.Dry, block: int, seen: dict[int, Any], instead: Any) -> None:
        self.dry, self.block, self.seen, self.instead = dry, block, seen, instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dry, name)

    def limited(self, key: str, wanted: Any, row: blocks.Row) -> Any:
        self.seen[self.block] = (wanted.copy(), row.scale.copy(), row.context[:, 0].copy())
        if self.instead is None:
            return self.dry.limited(key, wanted, row)
        return self.instead[self.block]


def through(source: Source, steps: Steps, instead: Any = None) -> tuple[Any, dict[int, Any]]:
    seen: dict[int, Any] = {}

    def watch(layout, tables):
        return lambda block: Tap(blocks.Dry(source.near[block]), block, seen, instead)

    return requantise(source, steps, watch), seen


def quantise(x: Tensor, weights: Tensor, size: int, multiplier: float, seed: int) -> Any:
    """Indices [M] and codebook that make sum w d^2 + multiplier * bits least, by alternation."""
    book = fit_codebook(x, weights, CodebookSettings(size=size, steps=60, batch=20_000, seed=seed))
    book[0] = 0
    share = torch.full((len(book),), 1 / len(book))
    for _ in range(ITERATIONS):
        half, price = 0.5 * book.square().sum(1), multiplier * -torch.log2(share.clamp_min(1e-9))
        found = []
        for rows, w in zip(x.split(4096), weights.split(4096), strict=True):
            found.append((2 * (half - rows @ book.T) * w[:, None] + price).argmin(1))
        indices = torch.cat(found)
        mass = torch.zeros(len(book)).index_add_(0, indices, weights)
        total = torch.zeros_like(book).index_add_(0, indices, x * weights[:, None])
        book = torch.where(mass[:, None] > 0, total / mass.clamp_min(1e-30)[:, None], book)
        share = torch.bincount(indices, minlength=len(book)) / len(x)
    return indices, book


def bits_of(indices: Tensor, classes: np.ndarray, book: Tensor) -> float:
    used = len(indices.unique())
    bits = float(used * book.shape[1] * NUMBER_BITS)
    for found in np.unique(classes):
        counts = np.bincount(indices.numpy()[classes == found])
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits


def measure(name: str, goal: float) -> list[dict[str, Any]]:
    settings = CompressSettings(target_db=goal)
    job = prepare(models.load(DATA / "gaussians" / SCENES[name]), settings).job
    effort = settings.spend(len(job.whole.order))
    best = search.search(job, search.Goal(None, goal, True), effort, lambda done: None)
    source, steps = job.source(best.steps), best.steps
    count, rows = len(source.order), []

    def add(coder: str, bits: float, model: Any) -> None:
        row = {"scene": name, "goal": goal, "coder": coder, "bits_per_gaussian": bits / count}
        rows.append(row | {"psnr_self": job.quality(model)})
        print(f"{name:14s} {coder:34s} {bits / count:7.2f} bits {rows[-1]['psnr_self']:.2f} dB")

    for factor in FACTORS:
        scaled = replace(steps, ac=steps.ac * factor)
        found = section_bits(encode_source(source, scaled))
        add(f"codec, step x {factor}", found["lim"] + found["ac"], requantise(source, scaled))
    _, seen = through(source, steps)
    parts = [seen[block] for block in sorted(seen)]
    wanted, scale, classes = (np.concatenate(x) for x in zip(*parts, strict=True))
    x = torch.from_numpy(wanted.astype(np.float32))
    unit = float(scale.min())
    weights = torch.from_numpy((unit / scale).astype(np.float32) ** 2)
    ends = np.cumsum([len(part[1]) for part in parts])[:-1]

    def decoded(values: Tensor) -> Any:
        whole = np.split(np.rint(values.numpy()).astype(np.int32), ends)
        return through(source, steps, dict(zip(sorted(seen), whole, strict=True)))[0]

    for size in SIZES:
        for multiplier in MULTIPLIERS:
            price = multiplier * unit**2
            first, book = quantise(x, weights, size, price, 0)
            bits = bits_of(first, classes, book)
            add(f"VQ {size}, lambda {multiplier}", bits, decoded(book[first]))
            if size == 512:
                second, more = quantise(x - book[first], weights, size, price, 1)
                bits += bits_of(second, classes, more)
                add(
                    f"VQ {size} + {size}, lambda {multiplier}",
                    bits,
                    decoded(book[first] + more[second]),
                )
    return rows


def bits_at(rows: list[dict[str, Any]], psnr_self: float) -> float | None:
    """What the codec takes for a quality, between its steps; None outside them."""
    found = sorted(
        (row["psnr_self"], row["bits_per_gaussian"])
        for row in rows
        if row["coder"].startswith("codec")
    )
    if not found[0][0] <= psnr_self <= found[-1][0]:
        return None
    return float(np.exp(np.interp(psnr_self, [x for x, _ in found], np.log([y for _, y in found]))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[*SCENES], choices=[*SCENES])
    parser.add_argument("--goal", type=float, default=36.5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in arguments.only:
        found = measure(name, arguments.goal)
        for row in found:
            if row["coder"].startswith("VQ"):
                codec = bits_at(found, row["psnr_self"])
                row["times_the_codec"] = codec and row["bits_per_gaussian"] / codec
        rows += found
        write("vector_quantiser", {"rows": rows})
    times = [row["times_the_codec"] for row in rows if row.get("times_the_codec")]
    print(f"at equal quality VQ takes {min(times):.2f} to {max(times):.2f} times the codec's bits")


if __name__ == "__main__":
    main()
