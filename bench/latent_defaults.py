"""Makes the parameters that latent codecs start from and code against: fields/latent_*.npy.

    python bench/latent_defaults.py image
    python bench/latent_defaults.py inter     # from frames of a clip, each behind the one before

Networks are fitted to some pictures at several rates, from common parameters, which then move to
the mean of what came of them; and again (Reptile, Nichol et al. 2018). Pictures are crops of the
shared ones that no benchmark of the codec measures on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from record import DATA, ROOT
from torch import Tensor

from fieldpress.fields import latent_codec, latent_motion
from fieldpress.fields.latent_engine import Engine, Painter, gain_for
from fieldpress.fields.latent_fit import Schedule, fit
from fieldpress.fields.latent_frame import Given, decode_frame, encode_frame, psnr
from fieldpress.fields.latent_model import Design

CROPS = {  # file -> how many times smaller, left, top
    "astronaut.png": (1, 150, 40),
    "chelsea.png": (1, 120, 60),
    "earth-blue-marble.jpg": (3, 700, 200),
    "milkyway_8192x4096.jpg": (6, 500, 250),
}
CLIP = "CiscoVT2people_320x192_12fps.yuv"
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
    latents, flat = fit(engine, start, lmbda, Schedule(steps=steps, tail=0, pull=0))
    error, bits = engine.losses(latents, flat)
    loss = error + lmbda * bits / engine.pixels
    quality = -10 * np.log10(error)
    print(f"  {lmbda:g}: {quality:.2f} dB, {bits / engine.pixels:.3f} bpp, {loss:.6f}", flush=True)
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


def frames(count: int) -> list[np.ndarray]:
    """A crop of every second frame of the shared YUV clip."""
    width, height = 320, 192
    size = width * height * 3 // 2
    found = []
    with (DATA / "video" / CLIP).open("rb") as file:
        for number in range(count):
            file.seek(2 * number * size)
            planes = np.frombuffer(file.read(size), np.uint8).reshape(-1, width)
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p").to_ndarray(format="rgb24")
            found.append(np.ascontiguousarray(frame[16 : 16 + SIDE, 80 : 80 + SIDE]))
    return found


def train_inter(rounds: int, steps: int) -> Tensor:
    """Parameters that went through all frames, and again, at one rate after the other."""
    still = Given(latent_codec.defaults(latent_codec.STILL))
    design, flat = latent_codec.MOVING, latent_codec.MOVING.new(0)
    first, *others = frames(4)
    for number in range(rounds):
        lmbda = LMBDAS[(number + 1) % len(LMBDAS)]
        schedule = Schedule(steps=steps, tail=20, pull=0)
        data = encode_frame(latent_codec.STILL, first, still, lmbda / 2, schedule)
        last = decode_frame(latent_codec.STILL, data, SIDE, SIDE, still).pixels
        before = np.zeros(design.grids(SIDE, SIDE).count, np.int32)
        for frame in others:
            motion = latent_motion.find(frame, last, 12)
            given = Given(flat, before, latent_motion.move(last, motion))
            data = encode_frame(design, frame, given, lmbda, schedule)
            found = decode_frame(design, data, SIDE, SIDE, given)
            size = 8 * len(data) / SIDE**2
            print(f"  {lmbda:g}: {psnr(found.pixels, frame):.2f} dB, {size:.3f} bpp", flush=True)
            last, flat, before = found.pixels, found.flat, found.latents
    return flat


def save(path: Path, flat: Tensor) -> None:
    np.save(path, (flat / UNIT).round().clamp(-32768, 32767).to(torch.int16).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["image", "inter"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.kind == "image":
        flat = train(latent_codec.STILL, given.rounds, given.steps)
    else:
        flat = train_inter(given.rounds, given.steps)
    save(ROOT / "fields" / f"latent_{given.kind}.npy", flat)


if __name__ == "__main__":
    main()
