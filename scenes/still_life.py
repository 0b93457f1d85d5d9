"""A procedural still life: fruit, pottery and books on a table. Ours, so free of any licence.

Axes as in most captures: y points down, the table top lies at y = 0, units are about metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .raycast import (
    Distance,
    Noise,
    Solid,
    ellipsoid,
    openness,
    rounded_box,
    rounded_cylinder,
    soft_shadow,
    sphere,
    torus,
    turned,
)

FLOOR = 1.0  # y of the floor.
DOME = 6.0  # Radius of the painted walls around the scene.
KEY_LIGHT = (0.45, -0.8, -0.4)  # Towards the window.
KEY_COLOR = (1.9, 1.78, 1.6)
SKY_COLOR = (0.62, 0.68, 0.78)
GROUND_COLOR = (0.3, 0.26, 0.22)

Paint = Callable[[Tensor, Noise], Tensor]  # Local points [P, 3] to linear albedo [P, 3].


@dataclass(frozen=True)
class Body:
    """A solid with its paint and its shine.

    Attributes:
        solid: the shape.
        paint: albedo at local points.
        gloss: share of light that a frontal look mirrors (Schlick's F0).
        exponent: of the highlight; larger is smaller and sharper.
        metal: mirrors in the paint's colour, and nothing else.
        bumps: depth of the surface's relief, in slope.
    """

    solid: Solid
    paint: Paint
    gloss: float = 0.04
    exponent: float = 20.0
    metal: bool = False
    bumps: float = 0.0


@dataclass(frozen=True)
class Surface:
    """P surface points, lit; what a look at them from any side needs.

    Attributes:
        points, normals: [P, 3] world.
        diffuse: [P, 3] linear light that leaves in every direction.
        tint: [P, 3] mirrored share of light at a frontal look.
        exponent: [P] of the highlight.
        shadow, open: [P] how much of the key light and of the surroundings is seen.
    """

    points: Tensor
    normals: Tensor
    diffuse: Tensor
    tint: Tensor
    exponent: Tensor
    shadow: Tensor
    open: Tensor

    def colors(self, toward: Tensor) -> Tensor:
        """[P, 3] sRGB colours in [0, 1] seen from unit directions `toward` the eye [P, 3]."""
        light = _unit(self.points.new_tensor(KEY_LIGHT))
        facing = (self.normals * toward).sum(1, keepdim=True).clamp(0, 1)
        fresnel = self.tint + (1 - self.tint) * (1 - facing) ** 5 * (self.tint > 0)
        mirrored = 2 * (self.normals * toward).sum(1, keepdim=True) * self.normals - toward
        half = torch.nn.functional.normalize(light + toward, dim=1)
        aligned = (self.normals * half).sum(1).clamp(0, 1)
        lobe = (self.exponent + 8) / 25 * aligned**self.exponent * self.shadow
        key = toward.new_tensor(KEY_COLOR)
        shine = lobe[:, None] * key + self.open[:, None] * surroundings(mirrored)
        linear = self.diffuse + fresnel * shine
        return (1 - torch.exp(-0.95 * linear.clamp_min(0))).clamp_min(1e-6) ** (1 / 2.2)


class StillLife:
    """Bodies on a table within painted walls; the seed changes paint and arrangement."""

    def __init__(self, seed: int = 0) -> None:
        self.noise = Noise(seed)
        self.bodies = _bodies(seed)
        self.solids = [body.solid for body in self.bodies]

    def limit(self, rays_o: Tensor, rays_d: Tensor) -> Tensor:
        """Distance [R] to the floor or the walls, whichever comes first."""
        along = (rays_o * rays_d).sum(1)
        wall = -along + (along**2 - rays_o.square().sum(1) + DOME**2).clamp_min(0).sqrt()
        fall = rays_d[:, 1]
        floor = torch.where(fall > 1e-6, (FLOOR - rays_o[:, 1]) / fall.clamp_min(1e-6), torch.inf)
        return torch.minimum(wall, floor.clamp_min(0))

    def light(self, points: Tensor, number: Tensor) -> Surface:
        """The lit surface at points [P, 3] of bodies `number` [P] (-1: the floor or the walls)."""
        count = len(points)
        normals, albedo = _backdrop(points, self.noise)
        tint, exponent = torch.zeros(count, 3), torch.ones(count)
        for i, body in enumerate(self.bodies):
            index = (number == i).nonzero()[:, 0]
            if len(index) == 0:
                continue
            local = body.solid.local(points[index])
            color = body.paint(local, self.noise).clamp(0, 1)
            normal = body.solid.normals(points[index])
            normals[index] = self._bump(body, local, normal)
            albedo[index] = torch.zeros_like(color) if body.metal else color
            tint[index] = 0.8 * color if body.metal else body.gloss
            exponent[index] = body.exponent
        wall = (number < 0) & (points[:, 1] < FLOOR - 1e-3)
        return self._lit(points, normals, albedo, tint, exponent, wall)

    def _lit(self, points, normals, albedo, tint, exponent, wall: Tensor) -> Surface:
        key = _unit(points.new_tensor(KEY_LIGHT))
        shadow, open_ = torch.ones(len(points)), torch.ones(len(points))
        near = (~wall).nonzero()[:, 0]  # The walls are too far to be shaded by anything.
        lifted = points[near] + 4e-3 * normals[near]
        shadow[near] = soft_shadow(self.solids, lifted, key)
        open_[near] = openness(self.solids, points[near], normals[near])
        facing = (normals @ key).clamp_min(0) * shadow
        up = (0.5 - 0.5 * normals[:, 1:2]) * open_[:, None]
        sky, ground = points.new_tensor(SKY_COLOR), points.new_tensor(GROUND_COLOR)
        ambient = up * sky + (1 - up) * ground * open_[:, None]
        diffuse = albedo * (facing[:, None] * points.new_tensor(KEY_COLOR) + ambient)
        diffuse[wall] = albedo[wall]  # Painted light and all.
        return Surface(points, normals, diffuse, tint, exponent, shadow, open_)

    def _bump(self, body: Body, local: Tensor, normal: Tensor) -> Tensor:
        if not body.bumps:
            return normal
        shift = torch.eye(3) * 0.3
        here = self.noise(local * 28)
        slope = torch.stack([self.noise(local * 28 + axis) - here for axis in shift], dim=1)
        return torch.nn.functional.normalize(
            normal - body.bumps * slope @ body.solid.rotation.T, dim=1
        )


def surroundings(directions: Tensor) -> Tensor:
    """Light [P, 3] that comes from directions [P, 3]: bright above, a window, dark below."""
    up = (0.5 - 0.5 * directions[:, 1:2]).clamp(0, 1)
    window = _unit(directions.new_tensor((-0.7, -0.5, 0.5)))
    glow = (directions @ window).clamp_min(0)[:, None] ** 12
    sky, ground = directions.new_tensor(SKY_COLOR), directions.new_tensor(GROUND_COLOR)
    return up * sky + (1 - up) * ground + 1.1 * glow


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _backdrop(points: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Normals and albedo of the floor and of the walls."""
    on_floor = (points[:, 1] > FLOOR - 1e-3)[:, None]
    normals = torch.where(on_floor, points.new_tensor([0, -1.0, 0]), -points / DOME)
    cloudy = noise(points * 0.8, 2)[:, None]
    height = ((FLOOR - points[:, 1:2]) / (FLOOR + DOME)).clamp(0, 1)
    low, high = points.new_tensor([0.30, 0.36, 0.36]), points.new_tensor([0.75, 0.72, 0.64])
    wall = (low + (high - low) * height.sqrt()) * (1 + 0.35 * cloudy)
    plank = points * points.new_tensor([0.35, 1.0, 3.0])
    grain = noise(plank * 2.2, 2)[:, None]
    floor = points.new_tensor([0.34, 0.25, 0.19]) * (1 + 0.4 * grain)
    seam = torch.cos(2 * math.pi * 1.4 * points[:, 2:3]).clamp_min(0) ** 12
    return normals, torch.where(on_floor, floor * (1 - 0.3 * seam), wall)


def _mix(color_a: tuple[float, ...], color_b: tuple[float, ...], share: Tensor) -> Tensor:
    share = share.clamp(0, 1)[:, None]
    return share.new_tensor(color_a) * (1 - share) + share.new_tensor(color_b) * share


def _wood(p: Tensor, noise: Noise) -> Tensor:
    rings = torch.hypot(p[:, 0] + 3.1, p[:, 1] * 4) * 5 + 1.2 * noise(p * 1.5, 3)
    grain = 0.5 + 0.5 * torch.sin(2 * math.pi * rings)
    fine = noise(p * p.new_tensor([40, 12, 4]), 2)
    return _mix((0.30, 0.15, 0.07), (0.56, 0.34, 0.18), 0.7 * grain + 0.25 * fine + 0.15)


def _orange(p: Tensor, noise: Noise) -> Tensor:
    return _mix((0.85, 0.28, 0.02), (0.95, 0.48, 0.06), 0.5 + 0.6 * noise(p * 6, 3))


def _apple(p: Tensor, noise: Noise) -> Tensor:
    angle = torch.atan2(p[:, 2], p[:, 0])
    streak = noise(torch.stack([4 * torch.cos(angle), p[:, 1] * 2, 4 * torch.sin(angle)], 1), 4)
    blush = 0.5 + 2.0 * p[:, 0] + 0.9 * streak
    return _mix((0.72, 0.62, 0.12), (0.58, 0.03, 0.04), blush)


def _lemon(p: Tensor, noise: Noise) -> Tensor:
    return _mix((0.86, 0.68, 0.05), (0.70, 0.66, 0.12), 0.4 + noise(p * 5, 3))


def _delft(p: Tensor, noise: Noise) -> Tensor:
    """White glaze with two painted bands and a cloud of leaves."""
    angle = torch.atan2(p[:, 2], p[:, 0])
    ring = torch.stack([torch.cos(angle), 3.2 * p[:, 1], torch.sin(angle)], 1)
    leaves = ((noise(ring * 3.2 + 5, 2) - 0.08) * 9).clamp(0, 1)
    bands = ((p[:, 1].abs() - 0.30).abs() < 0.02).float()
    wave = 0.02 * torch.sin(8 * angle)
    bands = torch.maximum(bands, ((p[:, 1] - 0.02 - wave).abs() < 0.012).float())
    return _mix((0.76, 0.77, 0.74), (0.12, 0.20, 0.48), torch.maximum(0.85 * leaves, bands))


def _teal(p: Tensor, noise: Noise) -> Tensor:
    dripped = p[:, 1] + 0.06 * noise(p * 6, 2) > 0.07
    return torch.where(
        dripped[:, None],
        _mix((0.62, 0.50, 0.36), (0.50, 0.38, 0.26), 0.5 + noise(p * 30, 2)),
        _mix((0.03, 0.30, 0.32), (0.10, 0.46, 0.44), 0.5 + noise(p * 5, 3)),
    )


def _book(cover: tuple[float, float, float], stamp: tuple[float, float, float]) -> Paint:
    def paint(p: Tensor, noise: Noise) -> Tensor:
        cloth = _mix(tuple(0.8 * c for c in cover), cover, 0.5 + 0.8 * noise(p * 45, 2))
        frame = torch.maximum((p[:, 0].abs() - 0.27).abs(), torch.zeros(())) < 0.008
        title = (p[:, 2].abs() < 0.05) & (p[:, 0].abs() < 0.17) & (noise(p * 38) > -0.1)
        marked = (frame & (p[:, 2].abs() < 0.21)) | title
        color = torch.where(marked[:, None], p.new_tensor(stamp), cloth)
        sheet = 0.5 + 0.5 * torch.sin(p[:, 1] * 260)
        pages = _mix((0.64, 0.58, 0.47), (0.74, 0.69, 0.57), sheet + 0.3 * noise(p * 20))
        inner = (p[:, 1].abs() < 0.038) & (p[:, 0] > -0.3)
        edge = inner & ((p[:, 0] > 0.325) | (p[:, 2].abs() > 0.232))
        return torch.where(edge[:, None], pages, color)

    return paint


def _plaid(p: Tensor, noise: Noise) -> Tensor:
    stripes = [0.5 + 0.5 * torch.sin(p[:, axis] * 28).clamp(-0.6, 0.6) / 0.6 for axis in (0, 2)]
    color = _mix((0.70, 0.66, 0.57), (0.56, 0.20, 0.17), 0.5 * (stripes[0] + stripes[1]))
    return color * (1 + 0.12 * noise(p * 40, 2)[:, None])


def _brass(p: Tensor, noise: Noise) -> Tensor:
    return _mix((0.85, 0.62, 0.28), (0.70, 0.46, 0.20), 0.5 + 0.5 * noise(p * 7, 2))


def _mug(p: Tensor) -> Tensor:
    wall = rounded_cylinder(0.14, 0.16, 0.015)(p)
    hollow = rounded_cylinder(0.12, 0.16, 0.01)(p + p.new_tensor([0, 0.03, 0]))
    handle = torus(0.085, 0.022)((p - p.new_tensor([0.15, 0.0, 0]))[:, [0, 2, 1]])
    cut = torch.hypot(p[:, 0], p[:, 2]) < 0.13
    handle = torch.where(cut, handle.clamp_min(0.02), handle)
    return torch.minimum(torch.maximum(wall, -hollow), handle)


def _vase_profile(y: Tensor) -> Tensor:
    # y grows downwards: a narrow neck above, a belly below, a foot.
    return 0.135 + 0.075 * torch.sin(5.2 * y - 0.1) + 0.02 * torch.cos(13 * y)


def _bodies(seed: int) -> list[Body]:
    jitter = torch.Generator().manual_seed(seed + 1)

    def place(x: float, y: float, z: float, yaw: float = 0.0) -> tuple[Tensor, Tensor]:
        dx, dz, turn = (torch.rand(3, generator=jitter) * 2 - 1).tolist()
        angle = math.radians(yaw + 6 * turn)
        c, s = math.cos(angle), math.sin(angle)
        rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        return torch.tensor([x + 0.02 * dx, y, z + 0.02 * dz]), rotation

    def solid(at: tuple[Tensor, Tensor], half: tuple[float, ...], distance: Distance) -> Solid:
        return Solid(*at, torch.tensor(half), distance)

    level = torch.eye(3)
    book, book_half = rounded_box((0.34, 0.05, 0.24), 0.008), (0.34, 0.05, 0.24)
    table = solid(
        (torch.tensor([0, 0.04, 0]), level), (1.3, 0.04, 1.3), rounded_cylinder(1.3, 0.04, 0.02)
    )
    leg = solid(
        (torch.tensor([0, 0.54, 0]), level), (0.13, 0.47, 0.13), rounded_cylinder(0.13, 0.47, 0.02)
    )
    mat = solid(
        place(0.05, -0.006, 0.05, 12), (0.78, 0.008, 0.55), rounded_box((0.78, 0.008, 0.55), 0.004)
    )
    vase = solid(place(-0.36, -0.41, 0.24), (0.24, 0.4, 0.24), turned(_vase_profile, 0.4, 0.75))
    mug = solid(place(0.42, -0.175, 0.30, -35), (0.26, 0.16, 0.14), _mug)
    lower = solid(place(0.12, -0.064, -0.34, 20), book_half, book)
    upper = solid(place(0.10, -0.164, -0.33, -14), book_half, book)
    orange = solid(place(0.0, -0.155, 0.12), (0.14,) * 3, sphere(0.14))
    orange_2 = solid(place(0.13, -0.345, -0.34), (0.13,) * 3, sphere(0.13))
    round_apple, long_lemon = (0.14, 0.125, 0.14), (0.145, 0.098, 0.098)
    apple = solid(place(0.26, -0.13, 0.02, 40), round_apple, ellipsoid(round_apple))
    lemon = solid(place(-0.1, -0.105, 0.42, -30), long_lemon, ellipsoid(long_lemon))
    ring = solid(place(-0.42, -0.045, -0.22), (0.192, 0.032, 0.192), torus(0.16, 0.032))
    return [
        Body(table, _wood, 0.04, 16),
        Body(leg, _wood, 0.03, 12),
        Body(mat, _plaid, 0.0),
        Body(vase, _delft, 0.05, 26),
        Body(mug, _teal, 0.05, 22),
        Body(lower, _book((0.14, 0.20, 0.34), (0.72, 0.58, 0.28)), 0.03, 10),
        Body(upper, _book((0.42, 0.12, 0.12), (0.78, 0.70, 0.52)), 0.03, 10),
        Body(orange, _orange, 0.04, 14, bumps=0.25),
        Body(orange_2, _orange, 0.04, 14, bumps=0.25),
        Body(apple, _apple, 0.05, 24),
        Body(lemon, _lemon, 0.04, 14, bumps=0.15),
        Body(ring, _brass, 0.0, 18, metal=True),
    ]
