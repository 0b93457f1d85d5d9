"""Blocks of Bayesian fields: what samples are like, what they take, and that decoders agree.

    python bench/recombiner_blocks.py [--only samples speed determinism]

Samples: the variance of chosen samples about the posterior's mean over the posterior's own, 1 if
they were exact, by the KL of a block; the budget of a block is the most that keeps it near 1.
Speed: choosing one block here and in the straightforward form. Determinism: files decoded with one
and two threads, by copies of our kernels and kernels of the linear algebra library. Parts of
bench/results/recombiner.json.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recombiner import SMALL, TRAIN, crops, store, summary

from fieldpress.fields import bayes_codec
from fieldpress.fields.bayes_blocks import choose
from fieldpress.fields.bayes_codec import BayesField
from fieldpress.fields.bayes_learn import Learner, learn
from fieldpress.fields.bayes_noise import NORMAL_SHIFT, normals
from fieldpress.fields.bayes_prior import Prior


def samples() -> list[dict[str, float]]:
    """Variance of chosen samples about the posterior's mean, over the posterior's, by KL."""
    generator, found, dims, rows = np.random.default_rng(0), [], 16, 8
    for bits in (14, 16):
        for kl in (6, 8, 10, 11, 12, 13, 14, 15, 16):
            ratios = []
            for block in range(48):  # Rows of a block have the same candidates.
                mean, std = posteriors(rows, dims, kl, generator)
                index = choose(mean, std, (7, block), bits, generator)
                z = normals(index, 7, block, dims).T / (1 << NORMAL_SHIFT)
                ratios.append(np.square((z - mean) / std).mean())
            row = {
                "index_bits": bits, "kl_bits": kl, "variance_ratio": float(np.mean(ratios)),
                "standard_error": float(np.std(ratios) / math.sqrt(len(ratios))),
            }  # fmt: skip
            found.append(row)
            print(summary(row), flush=True)
    return found


def posteriors(
    count: int, dims: int, bits: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random ones whose KL from the standard normal is `bits` each: means are drawn, and scaled."""
    std = np.exp(-generator.uniform(0.2, 0.7, (count, dims)) * min(1.0, bits / 10))
    base = (0.5 * (np.square(std) - 1) - np.log(std)).sum(1)
    mean = generator.standard_normal((count, dims))
    left = np.maximum(bits * math.log(2) - base, 0.0)
    mean *= np.sqrt(2 * left / np.square(mean).sum(1))[:, None]
    return mean.astype(np.float32), std.astype(np.float32)


def speed() -> dict[str, Any]:
    """One block of 64 dimensions and 2^16 candidates, ours and in the straightforward form."""
    generator = np.random.default_rng(0)
    mean, std = posteriors(1, 64, 14, generator)
    many = posteriors(16, 64, 14, generator)
    cases: dict[str, Callable[[], Any]] = {
        "straightforward": lambda: straightforward(mean[0], std[0], generator),
        "ours": lambda: choose(mean, std, (0, 0), 16, generator),
        "ours, 16 rows": lambda: choose(*many, (0, 0), 16, generator),
        "ours, decoder's sample": lambda: normals(np.array([12345]), 0, 0, 64),
    }
    found = {}
    for name, work in cases.items():
        work()
        times = []
        for _ in range(5):
            start = time.process_time()
            work()
            times.append(1000 * (time.process_time() - start))
        found[name] = {"ms": float(np.median(times)), "least": min(times), "most": max(times)}
        print(name, found[name], flush=True)
    for name in ("ours", "ours, 16 rows"):
        rows = 16 if "16" in name else 1
        ratio = found["straightforward"]["ms"] * rows / found[name]["ms"]
        found[name]["times_cheaper"] = ratio
        print(f"{name}: {ratio:.1f}x cheaper a block")
    return found


def straightforward(mean: np.ndarray, std: np.ndarray, generator: np.random.Generator) -> int:
    """As published: scrambled Sobol points through the quantile, log q - log p, Gumbel noise."""
    sobol = torch.quasirandom.SobolEngine(len(mean), scramble=True, seed=42)
    uniform = sobol.draw(1 << 16, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    z = torch.distributions.Normal(0.0, 1.0).icdf(uniform)
    q = torch.distributions.Normal(torch.from_numpy(mean).double(), torch.from_numpy(std).double())
    score = (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum(1)
    arrived = generator.standard_exponential(1 << 16).cumsum()
    return int((score - torch.from_numpy(np.log(arrived))).argmax())


CHILD = """
import sys, torch
from fieldpress.fields import _native as fields, bayes_codec, bayes_prior
from fieldpress.quant._native import crc32c
threads, copy, prior, *files = sys.argv[1:]
torch.set_num_threads(int(threads))
fields.set_isa(copy)
prior = bayes_prior.read_prior(open(prior, "rb").read())
for file in files:
    field = bayes_codec.decode(open(file, "rb").read(), prior=prior)
    print(crc32c(field.units.astype("<i8").tobytes()))
"""


def determinism() -> dict[str, Any]:
    """Files decoded with one and two threads, copies of our kernels, and kernels of the BLAS."""
    shape, generator = replace(SMALL, group=2), np.random.default_rng(0)
    prior = Prior.of(learn(Learner.new(shape, crops(TRAIN, 4, 64)), 2000, 20))
    found: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "prior.fpz").write_bytes(prior.data)
        files = []
        for number, size in enumerate([(64, 64), (50, 90), (200, 120)]):
            rows = shape.rows(shape.grid(size))
            index = {
                level: generator.integers(0, 1 << 16, (rows[level], len(blocks.ends)))
                for level, blocks in prior.blocks.items()
            }
            files.append(place / f"{number}.fpz")
            files[-1].write_bytes(bayes_codec.encode(BayesField(prior, size, index)))
        for threads, copy, core in (
            (1, "baseline", "Nehalem"), (2, "baseline", "Haswell"), (1, "avx2", "SkylakeX"),
            (2, "avx2", "Sandybridge"),
        ):  # fmt: skip
            names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
            environment = {
                **os.environ,
                "OPENBLAS_CORETYPE": core,
                **dict.fromkeys(names, f"{threads}"),
            }
            call = [sys.executable, "-c", CHILD, str(threads), copy, str(place / "prior.fpz")]
            done = subprocess.run(
                [*call, *map(str, files)],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
            found[f"{threads} threads, {copy}, BLAS {core}"] = [int(x) for x in done.stdout.split()]
    same = len({tuple(x) for x in found.values()}) == 1
    print("decoded alike" if same else "DECODED DIFFERENTLY", found)
    return {"same": same, "crc": found}


PARTS: dict[str, Callable[[], Any]] = {
    "samples": samples,
    "speed": speed,
    "determinism": determinism,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    torch.set_num_threads(1)
    for part in parser.parse_args().only:
        store(part, PARTS[part]())


if __name__ == "__main__":
    main()
