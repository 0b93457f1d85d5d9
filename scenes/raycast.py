"""Ray casting of solids given by signed distances, with shadows and procedural noise.

Small on purpose: each solid is sphere-traced (Hart 1996) only by the rays that meet its bounding
box, which is fast enough in plain torch to photograph a whole scene in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]  # Local points [P, 3] to signed distances [P].

STEPS = 40
HIT = 4e-4  # World units; below this distance a ray has arrived.
SHADOW_STEPS = 14
SHADOW_MARGIN = 0.06  # World units by which penumbras widen a body's box.
SOFTNESS = 9.0  # Inverse size of the light: larger means harder shadows.
OCCLUSION_REACH = 0.3  # World units over which neighbours darken each other.
LATTICE = 32  # Period of the noise, in lattice cells.


@dataclass(frozen=True)
class Solid:
    """A body: where it stands, how large it is, and its signed distance.

    Attributes:
        center: [3] world units.
        rotation: [3, 3], local to world.
        half: [3] half edges of a local box around `center` that holds the body.
        distance: signed distance of local points; may fall short, must not overshoot.
    """

    center: Tensor
    rotation: Tensor
    half: Tensor
    distance: Distance

    def local(self, points: Tensor) -> Tensor:
        """World points [P, 3] in the body's own axes."""
        return (points - self.center) @ self.rotation

    def normals(self, points: Tensor) -> Tensor:
        """Outward unit normals at world points [P, 3] on the surface."""
        # Four corners of a tetrahedron give the gradient with the fewest evaluations.
        corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1.0]])
        local = self.local(points)
        step = 1e-3
        gradient = sum(self.distance(local + step * corner)[:, None] * corner for corner in corners)
        assert isinstance(gradient, Tensor)
        return torch.nn.functional.normalize(gradient @ self.rotation.T, dim=1)


def cast(solids: list[Solid], rays_o: Tensor, rays_d: Tensor, limit: Tensor) -> tuple[Tensor, ...]:
    """The first body that each ray meets before `limit`.

    Args:
        solids: bodies, numbered from 0.
        rays_o: [R, 3] origins.
        rays_d: [R, 3] unit directions.
        limit: [R] distance at which to stop looking.

    Returns:
        Distance [R] (`limit` where nothing was met) and the body's number [R] (-1 there).
    """
    nearest = limit.clone()
    number = torch.full(limit.shape, -1, dtype=torch.long)
    near_line = _near_line(solids, rays_o, rays_d, 0.0)
    for i, solid in enumerate(solids):
        index = near_line[i].nonzero()[:, 0]
        start, along = solid.local(rays_o[index]), rays_d[index] @ solid.rotation
        near, far = _bounds(start, along, solid.half)
        met = ((far > 0) & (near < far) & (near < nearest[index])).nonzero()[:, 0]
        if len(met) == 0:
            continue
        index, start, along, near, far = (value[met] for value in (index, start, along, near, far))
        stop = torch.minimum(far, nearest[index])
        t = _march(solid.distance, start, along, near.clamp_min(0), stop)
        hit = t < stop
        nearest[index[hit]] = t[hit]
        number[index[hit]] = i
    return nearest, number


def soft_shadow(solids: list[Solid], points: Tensor, light: Tensor) -> Tensor:
    """How much of a far, broad light in direction `light` [3] each point [P, 3] sees, in [0, 1].

    Args:
        solids: bodies that may stand in the way.
        points: [P, 3], a little off the surface.
        light: [3] unit direction towards the light.
    """
    seen = torch.ones(len(points))
    near_line = _near_line(solids, points, light.expand(len(points), 3), SHADOW_MARGIN)
    for i, solid in enumerate(solids):
        index = near_line[i].nonzero()[:, 0]
        start, along = solid.local(points[index]), light @ solid.rotation
        near, far = _bounds(start, along.expand(len(index), 3), solid.half + SHADOW_MARGIN)
        met = ((far > 0) & (near < far)).nonzero()[:, 0]
        if len(met) == 0:
            continue
        index, start, stop = index[met], start[met], far[met]
        t = near[met].clamp_min(0.02)
        clear = torch.ones(len(index))
        for _ in range(SHADOW_STEPS):
            gap = solid.distance(start + t[:, None] * along)
            clear = torch.minimum(clear, 0.5 + 0.5 * SOFTNESS * gap / t)
            t = torch.minimum(t + gap.clamp_min(0.02), stop)
        clear = clear.clamp(0, 1)
        seen[index] = torch.minimum(seen[index], clear * clear * (3 - 2 * clear))
    return seen


def openness(solids: list[Solid], points: Tensor, normals: Tensor) -> Tensor:
    """Ambient visibility [P] in [0, 1] from distances along the normal (Evans 2006)."""
    steps = [0.12 * OCCLUSION_REACH, 0.4 * OCCLUSION_REACH, OCCLUSION_REACH]
    gaps = [torch.full((len(points),), step) for step in steps]
    for solid in solids:
        reach = float(solid.half.norm()) + OCCLUSION_REACH
        index = ((points - solid.center).square().sum(1) < reach**2).nonzero()[:, 0]
        if len(index) == 0:
            continue
        local, along = solid.local(points[index]), normals[index] @ solid.rotation
        for gap, step in zip(gaps, steps, strict=True):
            distance = solid.distance(local + step * along)
            gap[index] = torch.minimum(gap[index], distance)
    hidden = torch.stack([(step - gap) / step for gap, step in zip(gaps, steps, strict=True)])
    weights = torch.tensor([0.25, 0.35, 0.4])[:, None]
    return 1 - 0.85 * (weights * hidden.clamp(0, 1)).sum(0)


def _near_line(solids: list[Solid], rays_o: Tensor, rays_d: Tensor, margin: float) -> Tensor:
    """Whether each ray's line passes the bounding sphere of each solid: [S, R] bool."""
    centers = torch.stack([solid.center for solid in solids])
    bounds = torch.stack([solid.half.norm() for solid in solids]) + margin
    along = rays_d @ centers.T - (rays_o * rays_d).sum(1, keepdim=True)
    square = rays_o.square().sum(1, keepdim=True) - 2 * rays_o @ centers.T + centers.square().sum(1)
    return (square - along.square() < bounds.square()).T.contiguous()


def _bounds(start: Tensor, along: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which local rays enter and leave a box (near > far: never)."""
    inverse = 1 / torch.where(along.abs() < 1e-9, 1e-9, along)
    middle, reach = -start * inverse, half * inverse.abs()
    return (middle - reach).amax(1), (middle + reach).amin(1)


def _march(distance: Distance, start: Tensor, along: Tensor, t: Tensor, stop: Tensor) -> Tensor:
    """Sphere tracing in local axes: where each ray arrives, or inf."""
    result = torch.full_like(t, torch.inf)
    index = torch.arange(len(t))
    for _ in range(STEPS):
        gap = distance(start + t[:, None] * along)
        arrived = gap < HIT
        result[index[arrived]] = t[arrived]
        t = t + gap
        going = ~arrived & (t < stop)
        if not going.any():
            break
        index, start, along, t, stop = (
            value[going] for value in (index, start, along, t, stop)
        )  # fmt: skip
    return result


class Noise:
    """Smooth periodic noise in [-1, 1] (value noise; Perlin 1985 for the octaves)."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        cells = torch.rand(LATTICE, LATTICE, LATTICE, generator=generator) * 2 - 1
        for axis in range(3):  # The first cell again at the end: sampling wraps around.
            cells = torch.cat([cells, cells.narrow(axis, 0, 1)], dim=axis)
        self._cells = cells[None, None]

    def __call__(self, points: Tensor, octaves: int = 1) -> Tensor:
        """[P] values at points [P, 3]; features are about one unit large."""
        total, size = torch.zeros(len(points)), 1.0
        for octave in range(octaves):
            scaled = points * 2.0**octave + 7.3 * octave
            cell = scaled.floor()
            fraction = scaled - cell
            place = torch.remainder(cell, LATTICE) + fraction * fraction * (3 - 2 * fraction)
            grid = (place / LATTICE * 2 - 1).flip(1)[None, None, None]
            value = torch.nn.functional.grid_sample(self._cells, grid, align_corners=True)
            total += size * value.reshape(-1)
            size *= 0.5
        return total / (2 - 2 * size)


def sphere(radius: float) -> Distance:
    return lambda p: p.norm(dim=1) - radius


def ellipsoid(radii: tuple[float, float, float]) -> Distance:
    def distance(p: Tensor) -> Tensor:
        scale = p.new_tensor(radii)
        outer, inner = (p / scale).norm(dim=1), (p / scale.square()).norm(dim=1)
        return 0.8 * outer * (outer - 1) / inner.clamp_min(1e-6)  # First order; kept short.

    return distance


def torus(ring: float, tube: float) -> Distance:
    """A torus around the local y axis."""
    return lambda p: torch.hypot(torch.hypot(p[:, 0], p[:, 2]) - ring, p[:, 1]) - tube


def rounded_box(half: tuple[float, float, float], edge: float) -> Distance:
    def distance(p: Tensor) -> Tensor:
        q = p.abs() - (p.new_tensor(half) - edge)
        return q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0) - edge

    return distance


def rounded_cylinder(radius: float, half_height: float, edge: float) -> Distance:
    """A cylinder around the local y axis."""

    def distance(p: Tensor) -> Tensor:
        x = torch.hypot(p[:, 0], p[:, 2]) - (radius - edge)
        y = p[:, 1].abs() - (half_height - edge)
        outside = torch.hypot(x.clamp_min(0), y.clamp_min(0))
        return outside + torch.maximum(x, y).clamp_max(0) - edge

    return distance


def turned(profile: Distance, half_height: float, shorten: float) -> Distance:
    """A body turned on a lathe around the local y axis: radius as a function of height [P]."""

    def distance(p: Tensor) -> Tensor:
        side = shorten * (torch.hypot(p[:, 0], p[:, 2]) - profile(p[:, 1]))
        return torch.maximum(side, p[:, 1].abs() - half_height)

    return distance
