"""Write tests/golden anew: run `python tests/make_golden.py` after a deliberate change of format.

The streams are made by the native coder from seeded numbers, the .fpz files by the encoder from
seeded models; both are committed, with what they must decode to.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from fieldpress.gaussians import codec, fit_tables
from fieldpress.gaussians.model import SplatModel
from fieldpress.quant import _native

GOLDEN = Path(__file__).parent / "golden"


def ints(seed: int, n: int, c: int, k: int, size: float, limited: bool) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.laplace(size=(n, c)) * size).clip(1 - 2**24, 2**24 - 1).astype(np.int32)
    limits = np.zeros(0, np.int32)
    if limited:
        limits = rng.integers(0, c + 1, n).astype(np.int32)
        symbols[np.arange(c) >= limits[:, None]] = 0
        last = np.maximum(limits - 1, 0)
        rows = np.nonzero((limits > 0) & (symbols[np.arange(n), last] == 0))[0]
        symbols[rows, last[rows]] = -1
    scale = rng.integers(1, 40, n).astype(np.int32)
    context = rng.integers(0, 32, (n, 2)).astype(np.uint8)
    near = [[int(rng.integers(-1, i)) if i else -1 for _ in range(k)] for i in range(n)]
    neighbors = np.array(near, np.int32).reshape(n, k)
    data = _native.encode_ints(symbols, scale, context, neighbors, limits)
    return {
        "channels": c,
        "symbols": symbols.tolist(),
        "scale": scale.tolist(),
        "context": context.tolist(),
        "neighbors": neighbors.tolist(),
        "limits": limits.tolist(),
        "data": data.hex(),
    }


def octree(seed: int, n: int, depth: int) -> dict[str, object]:
    codes = np.sort(np.random.default_rng(seed).integers(0, 8**depth, n).astype(np.uint64))
    return {
        "depth": depth,
        "codes": codes.tolist(),
        "data": _native.encode_octree(codes, depth).hex(),
        "neighbors": _native.neighbors(codes, depth, 4).tolist(),
    }


def seeded_model(rng: torch.Generator, n: int, degree: int) -> SplatModel:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    return SplatModel(
        means=normal(n, 3) * torch.tensor([2.0, 1.0, 0.3]),
        quats=normal(n, 4),
        scales=normal(n, 3) - 3.0,
        opacities=normal(n) * 2.0,
        sh0=normal(n, 1, 3),
        shN=normal(n, (degree + 1) ** 2 - 1, 3) * 0.2,
    )


def splats(n: int, degree: int, klt: bool) -> bytes:
    """A small file of several blocks; a basis of its own would not pay for so few Gaussians."""
    model = seeded_model(torch.Generator().manual_seed(n), n, degree)
    classes = np.arange(n) % 5
    with (
        mock.patch.object(fit_tables, "BLOCK_SIZE", 1 + n // 2),
        mock.patch.object(fit_tables, "KLT_FROM", 1 if klt else n + 1),
    ):
        return codec.encode(model, classes, codec.Steps(), header={"recipe": "golden"})


def digest(model: SplatModel) -> str:
    """SHA-256 of the tensors in their order."""
    tensors = model.tensors().values()
    return hashlib.sha256(b"".join(t.numpy().astype("<f4").tobytes() for t in tensors)).hexdigest()


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    streams = {
        "ints": [
            ints(1, 1, 1, 0, 3.0, False),
            ints(2, 12, 3, 4, 1.5, False),
            ints(3, 6, 12, 2, 1.0, True),
            ints(4, 4, 2, 1, 2.0**21, False),
        ],
        "octree": [octree(1, 1, 20), octree(2, 40, 3), octree(3, 30, 2)],
    }
    files = {
        "color.fpz": splats(40, 1, False),
        "klt.fpz": splats(45, 2, True),
        "plain.fpz": splats(1, 0, False),
    }
    for name, data in files.items():
        (GOLDEN / name).write_bytes(data)
    digests = {name: digest(codec.decode(data)) for name, data in files.items()}
    text = json.dumps(digests, indent=1)
    (GOLDEN / "digests.json").write_text(text + "\n", encoding="utf-8")
    text = json.dumps(streams, separators=(",", ":"))
    (GOLDEN / "streams.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
