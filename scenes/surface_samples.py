"""Points on the surfaces that cameras see, as dense as the photographs have detail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import Cameras
from .raycast import cast
from .still_life import StillLife, Surface

RAYS = 8  # Rays shot for each sample wanted.
SIDES = 28  # Directions from which each sample is looked at.
MARGIN = 0.1  # Of the frame: what lies just outside one view is the border of another.
SWAY = 0.03  # World units between a camera and where its rays start: a look behind edges.
PLAIN, BUSY = 0.004, 0.06  # Differences between neighbouring pixels, 0 to 1.
COARSEST = 4.0  # Spacing on plain surfaces over that on busy ones.


@dataclass(frozen=True)
class SurfaceSamples:
    """P points on what the cameras see, and what they look like from D sides.

    Attributes:
        points: [P, 3] world.
        normals: [P, 3] unit, outward.
        spacing: [P] typical distance to the next sample, world units.
        toward: [P, D, 3] unit directions from the point towards an eye.
        colors: [P, D, 3] sRGB in [0, 1] seen from there.
    """

    points: Tensor
    normals: Tensor
    spacing: Tensor
    toward: Tensor
    colors: Tensor


def sample(
    life: StillLife, cameras: Cameras, images: Tensor, count: int, seed: int
) -> SurfaceSamples:
    """About `count` points; their spacing follows the pixels' size and the photographs' detail.

    Args:
        life: the bodies.
        cameras: C views, and
        images: [C, H, W, 3] what they photographed.
        count: of samples.
        seed: of the rays.
    """
    generator = torch.Generator().manual_seed(seed)
    points, number, wanted = _shoot(life, cameras, images, RAYS * count, generator)
    picked, spacing = _thin(points, number, wanted, count)
    surface = life.light(points[picked], number[picked])
    toward = _eyes(surface, cameras, SIDES, generator)
    colors = torch.stack([surface.colors(toward[:, d]) for d in range(SIDES)], dim=1)
    return SurfaceSamples(surface.points, surface.normals, spacing, toward, colors)


def rays(camera: Cameras, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [P, 3] of the rays through pixels [P, 2] (x, y) of one camera."""
    viewmat, K = camera.viewmats[0], camera.Ks[0]
    x = (pixels[:, 0] - K[0, 2]) / K[0, 0]
    y = (pixels[:, 1] - K[1, 2]) / K[1, 1]
    local = torch.stack([x, y, torch.ones_like(x)], dim=1)
    rays_d = torch.nn.functional.normalize(local @ viewmat[:3, :3], dim=1)
    return camera.positions.expand(len(pixels), 3), rays_d


def _shoot(
    life: StillLife, cameras: Cameras, images: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Where random rays of all cameras land: points, bodies, and the spacing wanted there."""
    each = math.ceil(count / len(cameras))
    frame = torch.tensor([cameras.width, cameras.height], dtype=torch.float32)
    points, numbers, spacings = [], [], []
    for i in range(len(cameras)):
        pixels = (torch.rand(each, 2, generator=generator) * (1 + 2 * MARGIN) - MARGIN) * frame
        rays_o, rays_d = rays(cameras[i : i + 1], pixels)
        rays_o = rays_o + SWAY * torch.randn(each, 3, generator=generator)
        depth, number = cast(life.solids, rays_o, rays_d, life.limit(rays_o, rays_d))
        column, row = (pixels.long().clamp_min(0).minimum(frame.long() - 1)).unbind(1)
        points.append(rays_o + depth[:, None] * rays_d)
        numbers.append(number)
        spacings.append(depth / cameras.Ks[i, 0, 0] * _coarseness(images[i])[row, column])
    return torch.cat(points), torch.cat(numbers), torch.cat(spacings)


def _coarseness(image: Tensor) -> Tensor:
    """1 where a picture [H, W, 3] is busy, COARSEST where it is plain: [H, W]."""
    planes = image.permute(2, 0, 1)
    contrast = torch.zeros(image.shape[:2])
    contrast[1:] += planes.diff(dim=1).abs().amax(0)
    contrast[:, 1:] = torch.maximum(contrast[:, 1:], planes.diff(dim=2).abs().amax(0))
    around = torch.nn.functional.max_pool2d(contrast[None, None], 5, 1, 2)[0, 0]
    share = (torch.log(around.clamp(PLAIN, BUSY) / PLAIN)) / math.log(BUSY / PLAIN)
    return COARSEST ** (1 - share)


def _thin(points: Tensor, number: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """About `count` of the points, and their spacing, as `wanted` but for one factor for all."""
    factor = 1.0
    picked, spacing = points.new_zeros(0, dtype=torch.long), points.new_zeros(0)
    for _ in range(6):
        picked, spacing = _leaves(points, number, factor * wanted)
        ratio = len(picked) / count
        if abs(ratio - 1) < 0.03:
            break
        factor *= ratio**0.6
    return picked, spacing


def _leaves(points: Tensor, number: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The middle point of each leaf of octrees as fine as wanted, one a body; and spacings."""
    level = math.ceil(math.log2(float(wanted.max())))
    index = torch.arange(len(points))
    picked, spacing = [], []
    while len(index):
        size = 2.0**level
        cell = torch.floor(points[index] / size).long() + 4096
        key = ((number[index] * 8192 + cell[:, 0]) * 8192 + cell[:, 1]) * 8192 + cell[:, 2]
        _, leaf, members = torch.unique(key, return_inverse=True, return_counts=True)
        mean = torch.zeros(len(members)).index_add_(0, leaf, torch.log2(wanted[index])) / members
        # A cell of few points cannot be split any further.
        done = (mean > level - 0.5) | (members < 4)
        centroid = torch.zeros(len(members), 3).index_add_(0, leaf, points[index])
        offset = (points[index] - (centroid / members[:, None])[leaf]).square().sum(1)
        least = torch.full((len(members),), torch.inf).scatter_reduce_(0, leaf, offset, "amin")
        middle = torch.where(offset <= least[leaf], index, len(points))
        first = torch.full((len(members),), len(points), dtype=torch.long)
        first.scatter_reduce_(0, leaf, middle, "amin")
        picked.append(first[done])
        spacing.append(torch.full((int(done.sum()),), size))
        index = index[~done[leaf]]
        level -= 1
    return torch.cat(picked), torch.cat(spacing)


def _eyes(surface: Surface, cameras: Cameras, count: int, generator: torch.Generator) -> Tensor:
    """Unit directions [P, count, 3] towards cameras, and places near them, in front of a point."""
    points, normals = surface.points, surface.normals
    index = torch.randint(len(cameras), (len(points), count), generator=generator)
    jitter = 0.35 * torch.randn(len(points), count, 3, generator=generator)
    toward = cameras.positions[index] + jitter - points[:, None]
    toward = torch.nn.functional.normalize(toward, dim=-1)
    # Looks from behind the surface are mirrored to its front: they see nothing else.
    height = (toward * normals[:, None]).sum(-1, keepdim=True)
    return torch.nn.functional.normalize(
        torch.where(height < 0, toward - 2 * height * normals[:, None], toward), dim=-1
    )
