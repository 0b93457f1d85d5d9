"""Write tests/golden/vectree anew, after a deliberate change of the VecTree format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from make_golden import seeded_model

from fieldpress.gaussians import codec, vectree_file
from fieldpress.gaussians.vectree import VecTreeSettings, quantise
from fieldpress.quant import container
from fieldpress.quant.codebook import CodebookSettings

GOLDEN = Path(__file__).parent / "golden" / "vectree"


def tree_bytes(n: int = 24) -> bytes:
    rng = torch.Generator().manual_seed(n)
    model = seeded_model(rng, n, 1)
    scores = torch.rand(n, generator=rng, dtype=torch.float64)
    book = CodebookSettings(steps=3)
    tree = quantise(model, scores, VecTreeSettings(codebook=book, per_codeword=4))
    return vectree_file.encode(tree, {"recipe": "golden"})


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    data = tree_bytes()
    tree = vectree_file.read(container.read(data), name="tiny.fpz")
    expected: dict[str, object] = {
        "coded": tree.coded.astype(int).tolist(),
        "indices": tree.indices.tolist(),
    }
    for name, values in codec.decode(data).tensors().items():
        expected[name] = values.numpy().astype("<f4").tobytes().hex()
    (GOLDEN / "tiny.fpz").write_bytes(data)
    (GOLDEN / "tiny.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
