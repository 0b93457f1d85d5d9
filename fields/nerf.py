"""Radiance fields: density and colour at places, marched through along rays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..render.sh import sh_bases
from ..scenes.cameras import Cameras
from . import _native
from .appearance import over, with_opacity
from .encoding import backend_of
from .network import Network, layers, perceptron
from .sdf import pixel_rays

SH_DEGREE = _native.RADIANCE_SH_DEGREE
GEOMETRY = _native.GEOMETRY  # Outputs of the first network: the log of the density, and more.
CELL_SIDE = _native.CELL_SIDE
MARCH = _native.MARCH  # Steps along the diagonal of the cube.
STEP = _native.STEP  # Edges of the cube.
MAX_LOG_DENSITY = _native.MAX_LOG_DENSITY
RAYS = 1 << 10  # Rays of a picture that are marched together.
LARGEST = 1e9  # World units.
BLACK = (0.0, 0.0, 0.0)
PLAIN = (1.0, 1)  # Thickness and passes of our own fields.
MAX_THICKNESS, MAX_PASSES = 1e6, 64


@dataclass(frozen=True)
class NerfField:
    """A radiance field with an occupancy grid (Müller et al. 2022, section 5.4).

    Attributes:
        network: [0, 1]^3 to 16 numbers, the first the natural log of the density per edge.
        head: matrices from those 16 and 16 spherical harmonics of the direction to three numbers,
            whose sigmoid is sRGB.
        cells: [64^3] bool, x fastest, where there may be something.
        low: the cube's corner of least coordinates, world units.
        edge: its edge, world units.
        extra: numbers and strings that travel with the model (provenance).
        background: sRGB of what lies behind.
        thickness: what densities are multiplied with, where the network's are per another length
            than the edge.
        passes: marches of a ray, each between the steps of the others, where steps of ours are
            coarser than those that it was trained with.
    """

    network: Network
    head: tuple[Tensor, ...]
    cells: Tensor
    low: tuple[float, float, float]
    edge: float
    extra: dict[str, Any] = field(default_factory=dict)
    background: tuple[float, float, float] = BLACK
    thickness: float = 1.0
    passes: int = 1

    kind = "nerf"
    dims = 3
    side = CELL_SIDE
    head_inputs = GEOMETRY + (SH_DEGREE + 1) ** 2

    def __post_init__(self) -> None:
        if self.network.encoding.dims != self.dims or len(self.network.weights[-1]) != GEOMETRY:
            raise ValueError(f"nerf: expected a network from 3 coordinates to {GEOMETRY} numbers")
        if self.head[0].shape[1] != self.head_inputs or len(self.head[-1]) != self.channels:
            raise ValueError(
                f"{self.kind}: expected a head from {self.head_inputs} numbers to colours, "
                f"{self.channels} in all"
            )

    @property
    def channels(self) -> int:
        """Numbers that a ray brings back, colours first."""
        return 3

    @property
    def float_bytes(self) -> int:
        """Of parameters at 4 bytes each; the cells are derived from them."""
        return self.network.float_bytes + 4 * sum(w.numel() for w in self.head)

    def tensors(self) -> dict[str, Tensor]:
        heads = {f"head/{i}": w for i, w in enumerate(self.head)}
        return self.network.tensors() | heads | {"cells": self.cells}

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": list(self.low), "edge": self.edge, **self.extra}

    def place(self) -> dict[str, Any]:
        """What `at` needs beside the tensors: keys of a file's layout."""
        behind = {} if self.background == BLACK else {"background": list(self.background)}
        stride = (self.thickness, self.passes)
        strides = {} if stride == PLAIN else {"thickness": stride[0], "passes": stride[1]}
        return {"low": list(self.low), "edge": self.edge, **behind, **strides}

    @staticmethod
    def at(network: Network, layout: dict[str, Any], extra: dict[str, Any]) -> NerfField:
        """The model of a file's layout, its head and cells. Raises ValueError naming the key."""
        from .sdf import SdfField

        low, edge = SdfField.cube_of(layout)
        behind, stride = background_of(layout), stride_of(layout)
        cells, head = layout["cells"], layout["head"]
        return NerfField(network, head, cells, low, edge, extra, behind, *stride)

    def to(self, device: torch.device | str) -> NerfField:
        """The same field on another device."""
        head = tuple(w.to(device) for w in self.head)
        return replace(
            self, network=self.network.to(device), head=head, cells=self.cells.to(device)
        )

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3] float32 pictures, on the field's device.

        On CUDA a ray ends where at most a ten-thousandth of its light would come from behind.
        """
        return torch.stack([self._view(cameras[i : i + 1]) for i in range(len(cameras))])

    def _view(self, camera: Cameras) -> Tensor:
        return self.trace(camera)

    @torch.no_grad()
    def trace(self, camera: Cameras) -> Tensor:
        """[H, W, channels] what the rays of one camera bring back."""
        rays_o, rays_d = pixel_rays(camera, self.cells.device)
        origins = (rays_o - rays_o.new_tensor(self.low)) / self.edge
        values = self._values(origins, rays_d)
        return values.reshape(camera.height, camera.width, self.channels)

    def _values(self, origins: Tensor, rays_d: Tensor) -> Tensor:
        """[R, channels] of rays; one kernel where there is one for networks of these sizes."""
        plain = self.background == BLACK and (self.thickness, self.passes) == PLAIN
        if origins.device.type == "cuda" and self.channels == 3 and plain:
            from . import nerf_cuda

            found = nerf_cuda.colors(backend_of(origins.device), self, origins, rays_d)
            if found is not None:
                return found
        parts = zip(origins.split(RAYS), rays_d.split(RAYS), strict=True)
        return torch.cat([self._marched(*part) for part in parts])

    def _marched(self, origins: Tensor, rays_d: Tensor) -> Tensor:
        found = self._samples(origins, rays_d)
        sigmas, shades = shade(self.network(found.points), rays_d, found.ray, self.head)
        if self.passes > 1 or self.thickness != 1:
            sigmas = sigmas * (self.thickness / self.passes)
        if self.background == BLACK:
            return composite(sigmas, shades, found, len(origins))
        values = composite(sigmas, with_opacity(shades), found, len(origins))
        return over(values, values.new_tensor(self.background))

    def _samples(self, origins: Tensor, rays_d: Tensor) -> Samples:
        if self.passes == 1:
            jitter = torch.full((len(origins),), _native.MIDDLE, device=origins.device)
            return march(origins, rays_d, self.cells, jitter)
        marches = []
        for i in range(self.passes):
            jitter = torch.full((len(origins),), (i + 0.5) / self.passes, device=origins.device)
            marches.append(march(origins, rays_d, self.cells, jitter))
        points = torch.cat([m.points for m in marches])
        ray = torch.cat([m.ray for m in marches])
        far = ((points - origins[ray]) * rays_d[ray]).sum(1)
        order = far.argsort(stable=True)
        order = order[ray[order].argsort(stable=True)]
        return Samples(points[order], ray[order])


def stride_of(layout: dict[str, Any]) -> tuple[float, int]:
    """`thickness` and `passes` of a file's layout, 1 where it names none. Raises ValueError."""
    thickness, passes = layout.get("thickness", 1.0), layout.get("passes", 1)
    if type(thickness) not in (int, float) or not 0 < thickness <= MAX_THICKNESS:
        raise ValueError(f"thickness: expected above 0, to {MAX_THICKNESS}, got {thickness!r:.40}")
    if type(passes) is not int or not 1 <= passes <= MAX_PASSES:
        raise ValueError(f"passes: expected 1 to {MAX_PASSES}, got {passes!r:.40}")
    return float(thickness), passes


def background_of(layout: dict[str, Any]) -> tuple[float, float, float]:
    """The background of a file's layout, black where it names none. Raises ValueError."""
    found = layout.get("background", list(BLACK))
    if not (
        isinstance(found, list)
        and len(found) == 3
        and all(type(v) in (int, float) and 0 <= v <= 1 for v in found)
    ):
        raise ValueError(f"background: expected 3 numbers of 0 to 1, got {found!r:.40}")
    r, g, b = map(float, found)
    return r, g, b


@dataclass(frozen=True)
class Samples:
    """M samples along rays, in their order: places [M, 3] in the unit cube, ray numbers [M]."""

    points: Tensor
    ray: Tensor


def march(origins: Tensor, rays_d: Tensor, cells: Tensor, jitter: Tensor) -> Samples:
    """Samples a fixed step apart in cells where there may be something.

    Args:
        origins: [R, 3] in edges of the cube, whose low corner is 0.
        rays_d: [R, 3] unit directions.
        cells: [64^3] bool, x fastest.
        jitter: [R] in [0, 1), where in its step the first sample of a ray lies.
    """
    if origins.device.type == "cuda":
        from . import nerf_cuda

        return Samples(*nerf_cuda.march(backend_of(origins.device), origins, rays_d, cells, jitter))
    origins, rays_d, cells, jitter = (t.contiguous() for t in (origins, rays_d, cells, jitter))
    return Samples(*_native.march(origins, rays_d, cells, jitter, torch.get_num_threads()))


def shade(
    raw: Tensor, rays_d: Tensor, ray: Tensor, head: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Densities [M] per edge and shades [C, M] of samples.

    The first three shades are colours; what a head has beyond them is as it comes.

    Args:
        raw: [16, M] what the network says of them.
        rays_d: [R, 3] unit directions.
        ray: [M] which of them each sample is seen along.
        head: matrices from that and spherical harmonics to shades.
    """
    sigmas = raw[0].clamp_max(MAX_LOG_DENSITY).exp()
    bases = sh_bases(SH_DEGREE, rays_d).T
    if raw.device.type == "cpu" and not torch.is_grad_enabled():
        seen = bases.contiguous().index_select(1, ray)
        values = perceptron(torch.cat([raw, seen]), head)
    else:
        by_place, by_direction = head[0][:, :GEOMETRY], head[0][:, GEOMETRY:]
        # The product with bases is of each ray, not of each sample.
        values = by_place @ raw + (by_direction @ bases).index_select(1, ray)
        if len(head) > 1:
            values = layers(values.relu_(), head[1:])[-1]
    colors = values[:3].sigmoid()
    return sigmas, colors if len(values) == 3 else torch.cat([colors, values[3:]])


def composite(sigmas: Tensor, shades: Tensor, samples: Samples, rays: int) -> Tensor:
    """[R, C] shades [C, M] along rays, on black: Max 1995, each step of one density and shade."""
    weights = ray_weights(sigmas, samples, rays)
    out = shades.new_zeros(rays, len(shades))
    return out.index_add(0, samples.ray, (weights * shades).T)


def ray_weights(sigmas: Tensor, samples: Samples, rays: int) -> Tensor:
    """[M] what shares of their rays' light come from samples of densities [M] per edge."""
    depth = sigmas.double() * STEP  # Sums over all rays at once would drown single precision.
    before = depth.cumsum(0) - depth
    first = torch.ones_like(samples.ray, dtype=torch.bool)
    first[1:] = samples.ray[1:] != samples.ray[:-1]
    start = before.detach().new_zeros(rays)
    start = start.index_put((samples.ray[first],), before[first])
    trans = (start[samples.ray] - before).exp().float()
    return trans * (1 - (-depth.float()).exp())
