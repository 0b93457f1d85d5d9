"""What latent_defaults.py trains on: crops of pictures, and short clips.

None of it is measured on by a benchmark of the codec, and all licences let derived works go: the
shared pictures but Kodak's and but the fox; what scikit-image and matplotlib bring along that is
in the public domain or CC0; the plush doll's photographs and the scenes of splats (MIT, CC0),
which a moving camera films; the clip of openh264 (BSD).
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import av
import matplotlib
import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from record import DATA

import fieldpress
from fieldpress.gaussians.model import SplatModel
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.synthesise import synthesise_cameras

Pixels = NDArray[np.uint8]
SIDE, FRAMES = 160, 9
FLAT = 8  # Standard deviation of grey levels below which a crop teaches nothing.
SAMPLES = Path(skimage.__file__).parent / "data"
PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
STILLS = {  # File -> how many times smaller.
    SAMPLES / "coffee.png": (1,), SAMPLES / "rocket.jpg": (2,), SAMPLES / "retina.jpg": (3,),
    SAMPLES / "hubble_deep_field.jpg": (2,), PORTRAIT: (2,),
    DATA / "images/astronaut.png": (1, 2), DATA / "images/earth-blue-marble.jpg": (2, 4),
    DATA / "images/milkyway_8192x4096.jpg": (6,),
}  # fmt: skip
DOLL = DATA / "multiview/snowmiku/images"
CLIP, CLIP_WIDTH = DATA / "video/CiscoVT2people_320x192_12fps.yuv", 320
SCENES = ("skull/skull.sog", "snowmiku-trained/point_cloud.ply", "statues/st-peter.sog",
          "angel/angel.sog", "guitar/guitar.compressed.ply",
          "leica-sofort/leica-sofort-top8192.ply")  # fmt: skip
NOISES = (0, 0.7, 1.5)


@cache
def pictures() -> tuple[list[Pixels], list[Pixels]]:
    """Of many kinds, and those of the doll."""
    several = [
        np.array(Image.open(path).convert("RGB").reduce(scale))
        for path, scales in STILLS.items()
        for scale in scales
    ]
    doll = [np.array(Image.open(path).convert("RGB").reduce(2))
            for path in sorted(DOLL.iterdir())[::6]]  # fmt: skip
    return several, doll


def crop(rng: random.Random) -> Pixels:
    """[SIDE, SIDE, 3] of a picture, perhaps mirrored, perhaps of other colours."""
    several, doll = pictures()
    while True:
        picture = rng.choice(several if rng.random() < 2 / 3 else doll)
        top, left = (rng.randrange(size - SIDE + 1) for size in picture.shape[:2])
        found = picture[top : top + SIDE, left : left + SIDE]
        if found.std() >= FLAT:
            found = found[:, ::-1] if rng.random() < 0.5 else found
            return coloured(found, rng) if rng.random() < 0.6 else np.ascontiguousarray(found)


def coloured(picture: Pixels, rng: random.Random) -> Pixels:
    """Of another saturation and brightness."""
    values = picture.astype(np.float32)
    grey = values.mean(-1, keepdims=True)
    values = grey + (values - grey) * rng.uniform(0.8, 1.7)
    return to_bytes(values * rng.uniform(0.8, 1.15))


def to_bytes(values: NDArray[np.floating]) -> Pixels:
    return values.clip(0, 255).round().astype(np.uint8)


def clip(rng: random.Random) -> list[Pixels]:
    """FRAMES frames [SIDE, SIDE, 3]: filmed, or of a picture, or of the shared clip."""
    kind = rng.random()
    frames = people(rng) if kind < 0.12 else filmed(rng) if kind < 0.5 else panned(rng)
    if rng.random() < 0.4:
        seed = rng.randrange(1 << 30)
        frames = [coloured(frame, random.Random(seed)) for frame in frames]
    return frames[::-1] if rng.random() < 0.5 else frames


def people(rng: random.Random) -> list[Pixels]:
    """Of the shared YUV clip."""
    planes = np.frombuffer(CLIP.read_bytes(), np.uint8).reshape(FRAMES, -1, CLIP_WIDTH)
    frames = [av.VideoFrame.from_ndarray(p, "yuv420p").to_ndarray(format="rgb24") for p in planes]
    top, left = (rng.randrange(size - SIDE + 1) for size in frames[0].shape[:2])
    return [
        np.asarray(f[top : top + SIDE, left : left + SIDE], np.uint8, order="C") for f in frames
    ]


def panned(rng: random.Random) -> list[Pixels]:
    """A picture that pans, zooms, turns and fades, often with a piece of another before it."""
    roomy = [p for group in pictures() for p in group if min(p.shape[:2]) > 1.3 * SIDE]
    picture, other = (Image.fromarray(rng.choice(roomy)) for _ in range(2))
    width, height = picture.size
    zoom = rng.uniform(1, 0.8 * min(width, height) / SIDE)
    x, y = (rng.uniform(0.5 * SIDE * zoom, s - 0.5 * SIDE * zoom) for s in (width, height))
    dx, dy = rng.gauss(0, 1.6), rng.gauss(0, 1)
    grow, turn, fade = rng.gauss(0, 0.006), rng.gauss(0, 0.004), rng.gauss(0, 0.006)
    side = 2 * rng.randrange(30, 80)
    piece = other.crop((0, 0, side + 10, side + 10)).resize((side, side))
    at = [rng.uniform(0, 2 * SIDE - side) for _ in range(2)]
    speed, covered, found = (rng.gauss(0, 4), rng.gauss(0, 3)), rng.random() < 0.6, []
    for t in range(FRAMES):
        scale = 0.5 * zoom * (1 + grow * t)
        c, s = scale * np.cos(turn * t), scale * np.sin(turn * t)
        corner = x + zoom * dx * t - (c - s) * SIDE, y + zoom * dy * t - (s + c) * SIDE
        big = picture.transform((2 * SIDE, 2 * SIDE), Image.Transform.AFFINE,
                                (c, -s, corner[0], s, c, corner[1]),
                                Image.Resampling.BICUBIC)  # fmt: skip
        if covered:
            big.paste(piece, (round(at[0] + speed[0] * t), round(at[1] + speed[1] * t)))
        found.append(np.array(big.reduce(2)) * (1 + fade * t))
    return noisy(found, rng)


def noisy(frames: list[NDArray[np.floating]], rng: random.Random) -> list[Pixels]:
    grain, spread = np.random.default_rng(rng.randrange(1 << 30)), rng.choice(NOISES)
    return [to_bytes(frame + grain.normal(0, spread, frame.shape)) for frame in frames]


@cache
def scene(name: str) -> tuple[SplatModel, Cameras]:
    model = fieldpress.load(DATA / "gaussians" / name)
    sizes = model.scales.exp().sort(1).values[:, 1]
    weights = model.opacities.sigmoid().view(-1) * sizes.square()
    cameras, _ = synthesise_cameras(
        model.means, weights, sizes, count=12, width=2 * SIDE, height=2 * SIDE
    )
    return model, cameras


def filmed(rng: random.Random) -> list[Pixels]:
    """A scene of splats by a camera that moves and turns."""
    model, cameras = scene(rng.choice(SCENES))
    number, zoom = rng.randrange(len(cameras)), rng.uniform(1, 1.6)
    first, Ks = cameras.viewmats[number], cameras.Ks[number].clone()
    Ks[0, 0] *= zoom
    Ks[1, 1] *= zoom
    depth = float((first[:3, :3] @ model.means.median(0).values + first[:3, 3]).norm())
    speed = depth * torch.tensor([rng.gauss(0, s) for s in (0.008, 0.005, 0.006)])
    turns = torch.tensor([rng.gauss(0, s) for s in (0.0015, 0.002, 0.0)])
    views = []
    for t in range(FRAMES):
        move = torch.eye(4)
        x, y, z = (turns * t).tolist()
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        move[:3, :3] = torch.linalg.matrix_exp(skew)
        move[:3, 3] = speed * t
        views.append(move @ first)
    along = Cameras(torch.stack(views), Ks.expand(FRAMES, 3, 3).contiguous(), 2 * SIDE, 2 * SIDE)
    frames = [np.array(Image.fromarray((x.clamp(0, 1) * 255).round().byte().numpy()).reduce(2))
              for x in model.renderer()(along)]  # fmt: skip
    return noisy([frame.astype(np.float64) for frame in frames], rng)
