"""Makes the parameters that latent codecs start from and code against: fields/latent_*.npy.

    python bench/latent_defaults.py image

Networks are fitted to some pictures at several rates, from common parameters, which then move to the
mean of what came of them; and again (Reptile, Nichol et al. 2018). Pictures are crops of the shared
ones that no benchmark of the codec measures on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import DATA, ROOT
from torch import Tensor

from fieldpress.fields.latent_engine import Engine, Painter, gain_for
from fieldpress.fields.latent_fit import Schedule, fit
from fieldpress.fields.latent_model import Design

CROPS = {  # file -> how many times smaller, left, top
    "astronaut.png": (1, 150, 40),
    "chelsea.png": (1, 120, 60),
    "earth-blue-marble.jpg": (3, 700, 200),
    "milkyway_8192x4096.jpg": (6, 500, 250),
}
SIDE = 160
LMBDAS = (3e-4, 1e-3, 4e-3)
UNIT = 1 / 1024


def crops() -> list[Tensor]:
    found = []
    for name, (scale, left, top) in CROPS.items():
        picture = Image.open(DATA / "images" / name).convert("RGB")
        if scale > 1:
            picture = picture.reduce(scale)
        part = np.array(picture.crop((left, top, left + SIDE, top + SIDE)))
        found.append(torch.from_numpy(part).permute(2, 0, 1).float().div(255).contiguous())
    return found


def fitted(design: Design, target: Tensor, start: Tensor, lmbda: float, steps: int) -> Tensor:
    painter = Painter(design, SIDE, SIDE, gain_for(lmbda))
    engine = Engine(painter, target)
    _, flat = fit(engine, start, lmbda, Schedule(steps=steps, tail=0, pull=0))
    error, bits = engine.losses(_, flat)
    loss = error + lmbda * bits / engine.pixels
    print(f"  {lmbda:g}: {-10 * np.log10(error):.2f} dB, {bits / engine.pixels:.3f} bpp, {loss:.6f}")
    return flat


def train(design: Design, rounds: int, steps: int) -> Tensor:
    pictures = crops()
    flat = fitted(design, pictures[0], design.new(0), 1e-3, 4 * steps)
    for number in range(rounds):
        print(f"round {number}", flush=True)
        ends = [
            fitted(design, picture, flat, LMBDAS[(number + k) % len(LMBDAS)], steps)
            for k, picture in enumerate(pictures)
        ]
        flat = torch.stack([flat, *ends]).mean(0)
    return flat


def save(path: Path, flat: Tensor) -> None:
    np.save(path, (flat / UNIT).round().clamp(-32768, 32767).to(torch.int16).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["image"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    given = parser.parse_args()
    torch.set_num_threads(1)
    flat = train(Design(), given.rounds, given.steps)
    save(ROOT / "fields" / f"latent_{given.kind}.npy", flat)


if __name__ == "__main__":
    main()
