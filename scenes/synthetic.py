"""A posed capture made from nothing: photographs of a procedural still life, and its surfaces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cameras import Cameras, Scene
from .orbit import UP, directions, look_at, pinhole
from .photos import TEST_EVERY
from .raycast import cast
from .still_life import StillLife
from .surface_samples import SurfaceSamples, rays, sample
from .transforms_json import write_transforms

FOV = 48.0  # Degrees along the shorter side.
TARGET = (0.0, -0.14, 0.02)  # World point around which the photographer walks.
EDGE = 0.08  # Pixels that differ this much from a neighbour are sampled again.
EXTRA_SAMPLES = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))  # Pixels.


def capture(
    seed: int = 0,
    views: int = 40,
    width: int = 400,
    height: int = 300,
    samples: int = 80_000,
    progress: Callable[[float], None] | None = None,
) -> tuple[Scene, SurfaceSamples]:
    """Photograph a procedural still life from all around, and sample its surfaces.

    Nothing is downloaded and nothing has a licence but ours. Edges are antialiased; glaze, fruit
    and brass look different from every side.

    Args:
        seed: changes paint, arrangement and the photographer's path.
        views: number of photographs; every eighth is a test view.
        width: image columns.
        height: image rows.
        samples: about so many surface samples.
        progress: called with the share done, in (0, 1].

    Returns:
        The posed photographs with `samples` as initial points, and the surface samples.
    """
    if views < 2:
        raise ValueError(f"views: expected at least 2, got {views}")
    life = StillLife(seed)
    cameras = _walk(seed, views, width, height)
    images = torch.empty(views, height, width, 3)
    with one_thread():
        for i in range(views):
            images[i] = photograph(life, cameras[i : i + 1])
            if progress is not None:
                progress(0.9 * (i + 1) / views)
    is_test = torch.arange(views) % TEST_EVERY == 0
    with one_thread():
        surface = sample(life, cameras[~is_test], images[~is_test], samples, seed)
    scene = Scene(
        "still-life",
        cameras[~is_test],
        cameras[is_test],
        images[~is_test],
        images[is_test],
        surface.points,
        surface.colors.mean(1),
    )
    if progress is not None:
        progress(1.0)
    return scene, surface


def save_capture(scene: Scene, folder: str | Path) -> None:
    """Write photographs (PNG) and transforms.json below `folder`, to be read by read_transforms.

    Names are given so that the train / test split is the same when read again.
    """
    from PIL import Image

    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if scene.train_images is None or scene.test_images is None:
        raise ValueError(f"scene {scene.name}: expected photographs, got none")
    splits = {
        True: iter(zip(scene.test.viewmats, scene.test.Ks, scene.test_images, strict=True)),
        False: iter(zip(scene.train.viewmats, scene.train.Ks, scene.train_images, strict=True)),
    }
    names, viewmats, Ks = [], [], []
    for i in range(len(scene.train) + len(scene.test)):
        viewmat, K, image = next(splits[i % TEST_EVERY == 0])
        name = f"images/{i:04d}.png"
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / name)
        names.append(name)
        viewmats.append(viewmat)
        Ks.append(K)
    cameras = Cameras(torch.stack(viewmats), torch.stack(Ks), scene.train.width, scene.train.height)
    write_transforms(folder / "transforms.json", cameras, names)


def photograph(life: StillLife, camera: Cameras) -> Tensor:
    """One antialiased picture [H, W, 3] in sRGB."""
    rows, columns = torch.meshgrid(
        torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
    )
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    colors = _look(life, camera, pixels)
    image = colors.reshape(camera.height, camera.width, 3)
    edges = _edges(image).reshape(-1).nonzero()[:, 0]
    if len(edges):
        around = torch.tensor(EXTRA_SAMPLES)
        extra = (pixels[edges, None] + around).reshape(-1, 2)
        colors[edges] = _look(life, camera, extra).reshape(len(edges), -1, 3).mean(1)
    return colors.reshape(image.shape)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on these small tensors more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _look(life: StillLife, camera: Cameras, pixels: Tensor) -> Tensor:
    rays_o, rays_d = rays(camera, pixels)
    depth, number = cast(life.solids, rays_o, rays_d, life.limit(rays_o, rays_d))
    surface = life.light(rays_o + depth[:, None] * rays_d, number)
    return surface.colors(-rays_d)


def _edges(image: Tensor) -> Tensor:
    """Pixels [H, W] that differ from a neighbour."""
    rows = (image[1:] - image[:-1]).abs().amax(-1) > EDGE
    columns = (image[:, 1:] - image[:, :-1]).abs().amax(-1) > EDGE
    result = torch.zeros(image.shape[:2], dtype=torch.bool)
    result[1:] |= rows
    result[:-1] |= rows
    result[:, 1:] |= columns
    result[:, :-1] |= columns
    return result


def _walk(seed: int, views: int, width: int, height: int) -> Cameras:
    """Two rounds about the table, up and down and back to the start, as with a phone in hand."""
    rng = np.random.default_rng(seed)
    share = np.arange(views) / views
    turn = 2 * np.pi * (2 * share + 0.006 * rng.standard_normal(views))
    tilt = np.radians(29 + 13 * np.sin(2 * np.pi * share) + rng.standard_normal(views))
    reach = 1.9 + 0.2 * np.sin(6 * np.pi * share) + 0.03 * rng.standard_normal(views)
    target = np.asarray(TARGET) + 0.03 * rng.standard_normal((views, 3))
    eye = np.asarray(TARGET) + reach[:, None] * directions(turn, tilt, UP)
    return Cameras(look_at(eye, target), pinhole(views, width, height, FOV), width, height)
