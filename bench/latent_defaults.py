"""Makes the parameters that latent codecs start from and code against: fields/latent_*_2.npy.

    python bench/latent_defaults.py image --minutes 60
    python bench/latent_defaults.py inter --minutes 60     # leans on the first

From the shipped ones on, which stand for all that came before: networks are fitted to a picture at
some rate, and the common parameters move a little towards what came of them (Reptile, Nichol et al.
2018). Pictures are crops of shared ones that no benchmark of the codec measures on, and whose
licences let derived works go: the fox of `multiview/` is not among them.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from record import DATA, ROOT
from torch import Tensor

from fieldpress.fields import latent_motion
from fieldpress.fields.latent_codec import MOTION_PRICE
from fieldpress.fields.latent_defaults import UNIT
from fieldpress.fields.latent_engine import Engine, Painter, gain_for
from fieldpress.fields.latent_fit import Schedule, fit
from fieldpress.fields.latent_frame import Given, Symbols, paint
from fieldpress.fields.latent_group import MOVING, STILL, defaults
from fieldpress.fields.latent_model import Design

Pixels = NDArray[np.uint8]
STILLS = {  # file -> how many times smaller
    "astronaut.png": (1, 2), "chelsea.png": (1,), "earth-blue-marble.jpg": (2, 3, 5),
    "milkyway_8192x4096.jpg": (5, 8),
}  # fmt: skip
CLIP, CLIP_WIDTH, CLIP_FRAMES = "CiscoVT2people_320x192_12fps.yuv", 320, 9
SIDE, PACE, LEAST_PACE = 160, 0.15, 0.1


def pictures() -> list[Pixels]:
    """Still ones, at several sizes."""
    found = []
    for name, scales in STILLS.items():
        picture = Image.open(DATA / "images" / name).convert("RGB")
        found += [np.array(picture.reduce(scale)) for scale in scales]
    for path in sorted((DATA / "multiview/snowmiku/images").iterdir())[::5]:
        found.append(np.array(Image.open(path).convert("RGB").reduce(2)))
    return found


def clip() -> list[Pixels]:
    """Frames of the shared YUV clip."""
    data = (DATA / "video" / CLIP).read_bytes()
    planes = np.frombuffer(data, np.uint8).reshape(CLIP_FRAMES, -1, CLIP_WIDTH)
    frames = (av.VideoFrame.from_ndarray(p, "yuv420p") for p in planes)
    return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in frames]


def crop(picture: Pixels, rng: random.Random) -> tuple[slice, slice]:
    top, left = (rng.randrange(size - SIDE + 1) for size in picture.shape[:2])
    return slice(top, top + SIDE), slice(left, left + SIDE)


def moving(stills: list[Pixels], frames: list[Pixels], rng: random.Random) -> list[Pixels]:
    """Three frames: of the clip, or of a picture that pans, zooms, turns and fades."""
    if rng.random() < 0.4:
        first = rng.randrange(len(frames) - 2)
        part = crop(frames[0], rng)
        return [frame[part] for frame in frames[first : first + 3]]
    picture = Image.fromarray(rng.choice(stills))
    width, height = picture.size
    zoom = rng.uniform(1, 0.8 * min(width, height) / SIDE)
    x, y = (rng.uniform(0.5 * SIDE * zoom, s - 0.5 * SIDE * zoom) for s in (width, height))
    dx, dy, grow, turn = (
        rng.gauss(0, 2.5),
        rng.gauss(0, 1.5),
        rng.gauss(0, 0.01),
        rng.gauss(0, 0.008),
    )
    fade, noise = rng.gauss(0, 0.012), rng.choice((0, 1, 2))
    grain = np.random.default_rng(rng.randrange(1 << 30))
    found = []
    for t in range(3):
        scale = 0.5 * zoom * (1 + grow * t)
        c, s = scale * np.cos(turn * t), scale * np.sin(turn * t)
        corner = x + zoom * dx * t - (c - s) * SIDE, y + zoom * dy * t - (s + c) * SIDE
        matrix = (c, -s, corner[0], s, c, corner[1])
        big = picture.transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, matrix,
                                Image.Resampling.BICUBIC)  # fmt: skip
        values = np.array(big.reduce(2)) * (1 + fade * t) + grain.normal(0, noise, (SIDE, SIDE, 3))
        found.append(values.clip(0, 255).round().astype(np.uint8))
    return found


def fitted(
    design: Design, picture: Pixels, given: Given, lmbda: float, steps: int, seed: int
) -> tuple[Pixels, Symbols]:
    """The picture that a fit comes to, and its parameters and latents."""
    target = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float().div(255)
    painter = Painter(design, SIDE, SIDE, gain_for(lmbda), given.guides)
    before = None if given.before is None else torch.from_numpy(given.before).float()
    engine = Engine(painter, target.contiguous(), before)
    latents, flat = fit(engine, given.prior, lmbda, Schedule(steps=steps, tail=0), seed=seed)
    error, bits = engine.losses(latents, flat)
    quality, rate = -10 * np.log10(error), bits / engine.pixels
    print(
        f"  {lmbda:.5f}: {quality:.2f} dB, {rate:.3f} bpp, {error + lmbda * rate:.6f}", flush=True
    )
    found = Symbols(gain_for(lmbda), flat, latents.to(torch.int32).numpy())
    return paint(painter, found, given.guides).pixels, found


def image_ends(flat: Tensor, rng: random.Random) -> Iterator[Tensor]:
    stills = pictures()
    while True:
        picture = rng.choice(stills)
        if min(picture.shape[:2]) < SIDE:
            continue
        steps, lmbda, seed = (
            rng.choice((60, 120, 240)),
            10 ** rng.uniform(-4, -2),
            rng.randrange(99),
        )
        yield fitted(STILL, picture[crop(picture, rng)], Given(flat), lmbda, steps, seed)[1].flat


def inter_ends(flat: Tensor, rng: random.Random) -> Iterator[Tensor]:
    """Of a frame that leans on one, then of one between both."""
    stills, frames, still = pictures(), clip(), Given(defaults(STILL))
    none = np.zeros(MOVING.grids(SIDE, SIDE).count, np.int32)
    stills = [picture for picture in stills if min(picture.shape[:2]) > 1.3 * SIDE]
    while True:
        first, middle, last = (np.ascontiguousarray(x) for x in moving(stills, frames, rng))
        lmbda, seed = 10 ** rng.uniform(-3.7, -2), rng.randrange(99)
        references = [fitted(STILL, first, still, lmbda / 2, 60, seed)[0]]
        price = max(1, round(MOTION_PRICE * lmbda**0.5 / 8))
        for frame, steps in ((last, rng.choice((60, 100, 150))), (middle, rng.choice((60, 100)))):
            motion = latent_motion.choose(frame, references, price)
            given = Given(flat, none, latent_motion.guide(references, motion))
            pixels, found = fitted(MOVING, frame, given, lmbda, steps, seed)
            references.append(pixels)
            yield found.flat


def save(path: Path, flat: Tensor) -> None:
    np.save(path, (flat / UNIT).round().clamp(-32768, 32767).to(torch.int16).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["image", "inter"])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    design, ends = (STILL, image_ends) if given.kind == "image" else (MOVING, inter_ends)
    flat, start = defaults(design).clone(), time.monotonic()
    path = ROOT / "fields" / f"latent_{given.kind}_2.npy"
    for number, end in enumerate(ends(flat, random.Random(given.seed))):
        part = (time.monotonic() - start) / (60 * given.minutes)
        flat.lerp_(end, PACE * max(LEAST_PACE, 1 - part))  # In place: `ends` goes on from it.
        if part >= 1:
            print(f"{number + 1} fits")
            break
    save(path, flat)


if __name__ == "__main__":
    main()
