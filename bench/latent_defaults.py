"""Makes the parameters that latent codecs start from and code against: fields/latent_*.npy.

    python bench/latent_defaults.py image [--crops 48] [--visits 700]
    python bench/latent_defaults.py inter [--clips 24] [--visits 700]

Crops of many pictures, each with latents of its own and some rate, share the networks: one after
the other takes its step, and every fourth the networks take theirs, with noise that anneals as in
a fit. Frames that lean on others lean on those of a real file. From the shipped parameters on.

The shipped ones of frames that lean are those of `inter --clips 16 --visits 120`, from those of
version 3 on, which the same had made of those of version 2. Those of pictures are not of this file
but of the script that it was made from, in two runs: 32 crops of 192 pixels, 600 visits, with one
layer of mixing, then 48 of 160, 700 visits. Another run gives others.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from latent_clips import Pixels, clip, crop
from record import ROOT
from torch import Tensor

from fieldpress.fields import _native, latent_codec, latent_parts
from fieldpress.fields.latent_codec import LEANT_PRICE, SHARES, VERSION, LatentCodec
from fieldpress.fields.latent_defaults import UNIT
from fieldpress.fields.latent_engine import Engine, Painter, gain_for
from fieldpress.fields.latent_fit import NOISE_ROOM, Adam, Schedule, between
from fieldpress.fields.latent_group import order
from fieldpress.fields.latent_model import Design
from fieldpress.fields.soap import Soap

BATCH, SEED_STEPS, PASSES = 4, 120, 3
RATES = {"image": (-3.7, -2.2), "inter": (-3.5, -2.0)}  # Powers of ten of Lagrangians.


@dataclass
class Item:
    """A picture that takes part: its engine, and latents that stay with it.

    Attributes:
        before: whose latents the contexts see.
    """

    engine: Engine
    lmbda: float
    before: Item | None = None
    latents: Tensor = field(init=False)
    adam: Adam = field(init=False)

    def __post_init__(self) -> None:
        self.latents = torch.zeros(self.engine.count)
        self.adam = Adam(self.engine.count)


def item(design: Design, picture: Pixels, lmbda: float, guides: Tensor | None = None) -> Item:
    height, width = picture.shape[:2]
    target = torch.from_numpy(picture).permute(2, 0, 1).float().div(255).contiguous()
    painter = Painter(design, height, width, gain_for(lmbda), guides)
    before = torch.zeros(painter.grids.count) if design.before else None
    return Item(Engine(painter, target, before), lmbda)


def disturbed(latents: Tensor, noise: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Latents [N] as a fit sees them at some part of it, and the slope of that."""
    schedule, soft, slope = Schedule(), torch.empty_like(latents), torch.empty_like(latents)
    cold = 1 / between(schedule.temperature, part)
    over, spread = 0.5 / math.tanh(0.5 * cold), between(schedule.noise, part)
    _native.soften(latents, noise, cold, over, spread, soft, slope)
    return soft, slope


def train(items: Sequence[Item], flat: Tensor, visits: int, rng: random.Random) -> None:
    """Changes the parameters [P] that all items share."""
    schedule = Schedule()
    soap = Soap(flat, items[0].engine.design.matrices)
    grad, total = torch.zeros_like(flat), torch.zeros_like(flat)
    most = max(one.engine.count for one in items)
    pool = torch.randn(most + NOISE_ROOM, generator=torch.Generator().manual_seed(1))
    for visit in range(visits):
        part, losses = visit / visits, 0.0
        cosine = 0.5 * (1 + math.cos(math.pi * part))
        shuffled = rng.sample(items, len(items))
        for k in range(0, len(items), BATCH):
            total.zero_()
            for one in shuffled[k : k + BATCH]:
                engine, count = one.engine, one.engine.count
                if one.before is not None:
                    engine.lean_on(one.before.latents.round())
                first = rng.randrange(NOISE_ROOM)
                soft, slope = disturbed(one.latents, pool[first : first + count], part)
                error, bits, by_latent = engine.gradients(soft, flat, one.lmbda, grad)
                loss = error + one.lmbda * bits / engine.pixels
                by_latent.mul_(slope)
                one.adam.step(one.latents, by_latent, schedule.latent_rate * cosine)
                total.add_(grad, alpha=1 / loss)  # Of its logarithm: every rate counts alike.
                losses += math.log(loss) / len(items)
            soap.step(total.div_(BATCH), schedule.net_rate * cosine)
        if visit % max(1, visits // 10) == 0 or visit == visits - 1:
            print(f"  visit {visit}: {math.exp(losses):.6f}", flush=True)


def leaning(frames: Sequence[Pixels], lmbda: float) -> dict[int, list[Item]]:
    """Items of the anchors of a clip, and of the frames between them, which lean on a real file."""
    picture = np.stack(frames)
    codec = LatentCodec("medium", lmbda)
    shape = (len(frames), *picture.shape[1:3])
    decoded, _ = codec.decode(codec.encode(picture)[0], shape)
    found: dict[int, list[Item]] = {1: [], 2: []}
    for place in order(len(frames), latent_codec.SPAN, VERSION.anchors, [])[1:]:
        own = lmbda * SHARES[min(place.depth, len(SHARES) - 1)]
        references = [decoded[n] for n in place.references]
        now, dear = picture[place.number], own * (LEANT_PRICE if place.kind == 1 else 1)
        parts = latent_parts.find(now, references, dear, PASSES, place.away)
        one = item(VERSION.moving, now, own, latent_parts.guide(references, parts))
        earlier = found[place.kind]
        one.before = earlier[-1] if earlier else None
        earlier.append(one)
    return found


def save(kind: int, flat: Tensor) -> None:
    path: Path = ROOT / "fields" / f"{VERSION.files[kind]}.npy"
    np.save(path, (flat / UNIT).round().clamp(-32768, 32767).to(torch.int16).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["image", "inter"])
    parser.add_argument("--crops", type=int, default=48)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--visits", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng, (low, high) = random.Random(given.seed), RATES[given.kind]
    if given.kind == "image":
        items = [item(VERSION.still, crop(rng), 10 ** rng.uniform(low, high))
                 for _ in range(given.crops)]  # fmt: skip
        flat = VERSION.prior(0).clone()
        train(items, flat, given.visits, rng)
        save(0, flat)
        return
    latent_codec.STEPS["medium"] = SEED_STEPS
    clips = [leaning(clip(rng), 10 ** rng.uniform(low, high)) for _ in range(given.clips)]
    for kind in (1, 2):
        flat = VERSION.prior(kind).clone()
        items = [one for found in clips for one in found[kind]]
        train(items, flat, given.visits, rng)
        save(kind, flat)


if __name__ == "__main__":
    main()
