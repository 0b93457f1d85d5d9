"""Flicker: how much pictures change along a path where the scene does not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..scenes.cameras import Cameras
from .nerf import RAYS, NerfField, composite, march, shade
from .sdf import pixel_rays

OPAQUE = 0.5  # Of a ray that has met something.
NEAR = 0.02  # Edges of the cube: places in two views that count as one.

Render = Callable[[Cameras], Tensor]


@torch.no_grad()
def places(model: NerfField, camera: Cameras) -> tuple[Tensor, Tensor]:
    """World points [H * W, 3] where rays end on average, and whether they met anything."""
    rays_o, rays_d = pixel_rays(camera)
    low, found_places, met = rays_o.new_tensor(model.low), [], []
    for part in torch.arange(len(rays_o)).split(RAYS):
        origins = (rays_o[part] - low) / model.edge
        found = march(origins, rays_d[part], model.cells, 0.5 * torch.ones(len(part)))
        sigmas, _ = shade(model.network(found.points), rays_d[part], found.ray, model.head)
        shades = torch.cat([found.points.T, torch.ones(1, len(found.ray))])
        values = composite(sigmas, shades, found, len(part))
        met.append(values[:, 3] > OPAQUE)
        found_places.append(values[:, :3] / values[:, 3:].clamp_min(1e-6))
    return torch.cat(found_places) * model.edge + low, torch.cat(met)


def flicker(render: Render, path: Cameras, geometry: NerfField) -> float:
    """Mean absolute change of a surface's colour from one view to the next, of 255.

    The pixels of a view are looked for in the next one, where a field has their places; those that
    something else covers there do not count. Looking up between pixels and true highlights change
    colours too, so that the number of a renderer without flicker is not 0: compare renderers.

    Args:
        render: views to pictures.
        path: at least two views, near to each other.
        geometry: where surfaces are; the same for whatever is compared.
    """
    pictures = render(path).movedim(3, 1)
    known = [places(geometry, path[i : i + 1]) for i in range(len(path))]
    changes = []
    for i in range(len(path) - 1):
        (points, met), (beyond, there) = known[i], known[i + 1]
        grid, inside = _projected(points, path[i + 1 : i + 2])
        surface = torch.cat([beyond, there[:, None].float()], 1).T
        surface = surface.reshape(1, 4, path.height, path.width)
        nearest = _looked_up(surface, grid, "nearest")
        same = (nearest[:, :3] - points).norm(dim=1) < NEAR * geometry.edge
        keep = met & inside & same & (nearest[:, 3] > 0)
        moved = _looked_up(pictures[i + 1 : i + 2], grid, "bilinear")
        changes.append((moved - pictures[i].flatten(1).T)[keep].abs().flatten())
    return 255 * float(torch.cat(changes).mean())


def _projected(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Where points [N, 3] are seen, in [-1, 1] each way, [N, 2], and whether in the picture."""
    viewmat, K = camera.viewmats[0], camera.Ks[0]
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = (local @ K.T)[:, :2] / local[:, 2:].clamp_min(1e-6)
    grid = 2 * pixels / pixels.new_tensor([camera.width, camera.height]) - 1
    return grid, (grid.abs() < 1).all(1) & (local[:, 2] > 0)


def _looked_up(maps: Tensor, grid: Tensor, mode: str) -> Tensor:
    """[N, C] of maps [1, C, H, W] at places [N, 2]."""
    found = functional.grid_sample(maps, grid[None, None], mode=mode, align_corners=False)
    return found[0, :, 0].T
