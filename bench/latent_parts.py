"""Prints the probabilities that motion by parts starts from: SHIPPED of latent_parts.cpp.

    python bench/latent_parts.py [--clips 30]

They are shares of ones among the bits of clips that nothing is measured on (`latent_clips.py`), by
the kind of frame and by context, of files at several rates and spans.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np
import torch
from latent_clips import clip

from fieldpress.fields import _native, latent_codec, latent_parts
from fieldpress.fields.latent_codec import LatentCodec
from fieldpress.fields.latent_ops import Ints

CONTEXTS, LEAST = 59, 400  # Of 65536.
RATES, SPANS = (-3.3, -2.1), (2, 4, 8)  # Powers of ten of Lagrangians; frames between anchors.


def counted(clips: int, rng: random.Random) -> np.ndarray:
    """[kinds, CONTEXTS, 2] how often each bit is what."""
    total, write = np.zeros((3, CONTEXTS, 2)), latent_parts.write

    def counting(parts: Ints, away: Sequence[int]) -> bytes:
        counts = np.zeros((CONTEXTS, 2), np.float32)
        _native.count_parts(parts, list(away), counts)
        kind = len(away) - 1 + (len(away) == 2 and away[0] < 0 < away[1])
        total[kind] += counts
        return write(parts, away)

    latent_parts.write = counting
    for number in range(clips):
        latent_codec.SPAN = rng.choice(SPANS)
        lmbda = 10 ** rng.uniform(*RATES)
        data, _ = LatentCodec("ultrafast", lmbda).encode(np.stack(clip(rng)))
        print(f"  clip {number}: {len(data)} bytes", flush=True)
    latent_parts.write = write
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for counts in counted(given.clips, random.Random(7)):
        zeros, ones = counts.T + 1
        shares = np.rint(65536 * ones / (zeros + ones)).clip(LEAST, 65536 - LEAST)
        print(", ".join(str(int(share)) for share in shares))


if __name__ == "__main__":
    main()
