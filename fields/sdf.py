"""Signed distances as fields: a solid's surface is where they are zero."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..scenes.cameras import Cameras
from .network import BATCH, Network

MAX_TRACE_STEPS = 64
ARRIVED = 5e-4  # Of the cube's edge: a ray is on the surface.
CAUTION = 0.9  # Of the distance that a ray goes at once: a fitted distance may be too large.
AMBIENT = 0.35
LARGEST = 1e9  # World units.


@dataclass(frozen=True)
class SdfField:
    """A signed distance as a function of the place (Müller et al. 2022, section 5.2).

    Attributes:
        network: [0, 1]^3 to one number, the distance in edges of the cube, negative inside.
        low: the cube's corner of least coordinates, world units.
        edge: its edge, world units.
        extra: numbers and strings that travel with the model (provenance).
    """

    network: Network
    low: tuple[float, float, float]
    edge: float
    extra: dict[str, Any] = field(default_factory=dict)

    kind = "sdf"
    dims = 3

    def __post_init__(self) -> None:
        if self.network.encoding.dims != self.dims or len(self.network.weights[-1]) != 1:
            raise ValueError("sdf: expected a network from 3 coordinates to a distance")

    @property
    def float_bytes(self) -> int:
        return self.network.float_bytes

    def tensors(self) -> dict[str, Tensor]:
        return self.network.tensors()

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": list(self.low), "edge": self.edge, **self.extra}

    def place(self) -> dict[str, Any]:
        """What `at` needs beside the network: keys of a file's layout."""
        return {"low": list(self.low), "edge": self.edge}

    @staticmethod
    def at(network: Network, layout: dict[str, Any], extra: dict[str, Any]) -> SdfField:
        """The model of a file's layout. Raises ValueError naming the key."""
        low, edge = SdfField.cube_of(layout)
        return SdfField(network, low, edge, extra)

    @staticmethod
    def cube_of(layout: dict[str, Any]) -> tuple[tuple[float, float, float], float]:
        """Corner and edge of a file's layout. Raises ValueError naming the key."""
        low, edge = layout.get("low"), layout.get("edge")
        if not (isinstance(low, list) and len(low) == 3 and all(map(_is_place, low))):
            raise ValueError(f"low: expected 3 numbers, got {low!r:.40}")
        if not _is_place(edge) or not isinstance(edge, int | float) or edge <= 0:
            raise ValueError(f"edge: expected a positive number, got {edge!r:.40}")
        return (float(low[0]), float(low[1]), float(low[2])), float(edge)

    def to(self, device: torch.device | str) -> SdfField:
        """The same field on another device."""
        return replace(self, network=self.network.to(device))

    def distance(self, points: Tensor) -> Tensor:
        """[N] signed distances of world points [N, 3]; beyond the cube, that to it is added."""
        unit = (points - points.new_tensor(self.low)) / self.edge
        inside = unit.clamp(0, 1)
        return self.edge * (self.network(inside)[0] + (unit - inside).norm(dim=1))

    def mesh(self, resolution: int = 192) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Vertices [V, 3] and triangles [T, 3] by marching cubes (Lorensen and Cline 1987).

        Raises ValueError where scikit-image is missing or there is no surface.
        """
        try:
            from skimage.measure import marching_cubes
        except ImportError:
            raise ValueError("meshes need scikit-image: pip install scikit-image") from None
        values, on = np.empty(resolution**3, np.float32), self.network.table.device
        for first in range(0, len(values), BATCH):
            index = torch.arange(first, min(first + BATCH, len(values)), device=on)
            z, y, x = index % resolution, index // resolution % resolution, index // resolution**2
            values[first : first + BATCH] = self.network(
                torch.stack([x, y, z], 1) / (resolution - 1)
            )[0].cpu()
        if not (values.min() < 0 < values.max()):
            raise ValueError("sdf: expected a surface within the cube, got none")
        volume = values.reshape(resolution, resolution, resolution)
        vertices, faces, _, _ = marching_cubes(volume, 0.0)
        world = np.array(self.low) + vertices * (self.edge / (resolution - 1))
        return world.astype(np.float32), faces.astype(np.int32)

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3] shaded pictures by sphere tracing (Hart 1996), on black."""
        views = [self._view(cameras[i : i + 1]) for i in range(len(cameras))]
        return torch.stack(views) if views else torch.empty(0, cameras.height, cameras.width, 3)

    def _view(self, camera: Cameras) -> Tensor:
        rays_o, rays_d = pixel_rays(camera, self.network.table.device)
        center = rays_o.new_tensor(self.low) + 0.5 * self.edge
        # Where a ray enters and leaves the ball around the cube.
        middle = ((center - rays_o) * rays_d).sum(1)
        reach = 0.75 * self.edge**2 - (rays_o + middle[:, None] * rays_d - center).square().sum(1)
        near, far = middle - reach.clamp_min(0).sqrt(), middle + reach.clamp_min(0).sqrt()
        live = ((reach > 0) & (far > 0)).nonzero()[:, 0]
        depth, hit = near.clamp_min(0), torch.zeros_like(near, dtype=torch.bool)
        for _ in range(MAX_TRACE_STEPS):
            if len(live) == 0:
                break
            gap = self.distance(rays_o[live] + depth[live, None] * rays_d[live])
            depth[live] += CAUTION * gap
            arrived = gap < ARRIVED * self.edge
            hit[live[arrived]] = True
            live = live[~arrived & (depth[live] < far[live])]
        colors = torch.zeros_like(rays_d)
        if bool(hit.any()):
            normals = self.normals(rays_o[hit] + depth[hit, None] * rays_d[hit])
            facing = -(normals * rays_d[hit]).sum(1)  # The light is at the camera.
            shade = AMBIENT + (1 - AMBIENT) * facing.clamp_min(0)
            colors[hit] = shade[:, None].expand(-1, 3)
        return colors.reshape(camera.height, camera.width, 3)

    def normals(self, points: Tensor) -> Tensor:
        """Outward unit normals [N, 3] at world points, by differences over a small tetrahedron."""
        corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1.0]])
        step = 2 * ARRIVED * self.edge
        slope = sum(self.distance(points + step * c)[:, None] * c for c in corners)
        assert isinstance(slope, Tensor)
        return torch.nn.functional.normalize(slope, dim=1)


def _is_place(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST  # Nor NaN, nor 10^400.


def pixel_rays(camera: Cameras, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Origins and unit directions [H * W, 3] of the pixels of one camera, row by row."""
    viewmat, K, eye = (t.to(device) for t in (camera.viewmats[0], camera.Ks[0], camera.positions))
    rows, columns = (torch.arange(n, device=device) + 0.5 for n in (camera.height, camera.width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    x, y = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
    local = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    rays_d = torch.nn.functional.normalize(local @ viewmat[:3, :3], dim=1)
    return eye.expand(len(rays_d), 3), rays_d
