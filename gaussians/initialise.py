"""The Gaussians that a fit starts from: SfM points, or chance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from .model import SplatModel
from .unpack import SH_C0

EXACT_NEIGHBOURS = 20_000  # points to search in; larger clouds are thinned to it
CHUNK = 1024
NEIGHBOURS = 3
DEPTHS = (0.4, 1.6)  # of random points, in units of the distance to the focus


def from_points(
    points: Tensor,
    colors: Tensor | None,
    *,
    sh_degree: int = 3,
    opacity: float = 0.1,
    budget: int | None = None,
    seed: int = 0,
) -> SplatModel:
    """One round Gaussian a point, as wide as its nearest neighbours are far (Kerbl et al. 2023).

    Args:
        points: [P, 3] float32 world positions; not finite ones are left out.
        colors: [P, 3] in [0, 1], or None for grey.
        sh_degree: of the model; all but the constant term are zero.
        opacity: of every Gaussian, in (0, 1).
        budget: more points than this are thinned at random.
        seed: of the thinning.

    Raises:
        ValueError: no finite point.
    """
    finite = torch.isfinite(points).all(1)
    points = points[finite].float()
    if not len(points):
        raise ValueError("points: expected at least one finite point, got none")
    colors = torch.full_like(points, 0.5) if colors is None else colors[finite].float()
    generator = torch.Generator().manual_seed(seed)
    if budget is not None and len(points) > budget:
        kept = torch.randperm(len(points), generator=generator)[:budget].sort().values
        points, colors = points[kept], colors[kept]
    n = len(points)
    spacing = neighbour_distance(points, generator)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    return SplatModel(
        means=points.clone(),
        quats=quats,
        scales=spacing.log()[:, None].repeat(1, 3),
        opacities=torch.full((n,), opacity).logit(),
        sh0=((colors - 0.5) / SH_C0)[:, None, :],
        shN=torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
    )


def neighbour_distance(points: Tensor, generator: torch.Generator) -> Tensor:
    """[P] root mean square distance to the three nearest others, never zero.

    Of a large cloud a random part is searched, and distances shrink as on a surface.
    """
    n = len(points)
    searched, shrink = points, 1.0
    if n > EXACT_NEIGHBOURS:
        searched = points[torch.randperm(n, generator=generator)[:EXACT_NEIGHBOURS]]
        shrink = (EXACT_NEIGHBOURS / n) ** 0.5
    size = float((points.amax(0) - points.amin(0)).norm()) or 1.0
    found = []
    k = min(NEIGHBOURS + 1, len(searched))
    for start in range(0, n, CHUNK):
        part = points[start : start + CHUNK]
        # Not by a matrix product, which loses small distances far from the origin.
        distances = torch.cdist(part, searched, compute_mode="donot_use_mm_for_euclid_dist")
        near = distances.topk(k, largest=False).values
        # The point itself is among the searched, unless the cloud was thinned.
        near = near[:, 1:] if k > 1 and searched is points else near[:, :NEIGHBOURS]
        found.append(near.square().mean(1).sqrt() if near.shape[1] else torch.zeros(len(near)))
    return (torch.cat(found) * shrink).clamp(1e-5 * size, 0.1 * size)


def random_points(cameras: Cameras, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points that the cameras see: random pixels at random depths about what they look at.

    Returns:
        [count, 3] positions and [count, 3] random colours in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    view = torch.randint(len(cameras), (count,), generator=generator)
    pixel = torch.rand(count, 2, generator=generator) * torch.tensor(
        [float(cameras.width), float(cameras.height)]
    )
    low, high = DEPTHS
    depth = low + (high - low) * torch.rand(count, generator=generator)
    depth = depth * focus_distance(cameras)[view]
    K, positions = cameras.Ks[view], cameras.positions[view]
    ray = torch.stack(
        [(pixel[:, 0] - K[:, 0, 2]) / K[:, 0, 0], (pixel[:, 1] - K[:, 1, 2]) / K[:, 1, 1],
         torch.ones(count)], 1
    )  # fmt: skip
    rotation = cameras.viewmats[view, :3, :3]
    world = (rotation.transpose(1, 2) @ (ray * depth[:, None])[:, :, None])[:, :, 0]
    return positions + world, torch.rand(count, 3, generator=generator)


def focus_distance(cameras: Cameras) -> Tensor:
    """[C] distance along each axis to the point nearest to all of the cameras' axes.

    Where the axes run in parallel or meet behind the cameras: their own spread, or 1.
    """
    positions = cameras.positions.double()
    axes = cameras.viewmats[:, 2, :3].double()
    away = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    spread = float((positions - positions.mean(0)).norm(dim=1).max()) or 1.0
    solved = torch.linalg.lstsq(away.sum(0), (away @ positions[:, :, None]).sum(0), driver="gelsd")
    focus = solved.solution[:, 0]
    along = ((focus - positions) * axes).sum(1)
    along = torch.where(along > 0.05 * spread, along, torch.full_like(along, 3 * spread))
    return along.float()
