"""How solids become fields: distances to a mesh, learned near its surface first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import codec
from .encoding import encode
from .levels import Encoding
from .network import Trainer, cosine_rate, layers
from .sdf import SdfField

MARGIN = 0.05  # Of the longest extent, on each side of the mesh.
SPREAD = 0.01  # Of the cube's edge: standard deviation of samples about the surface.
NEAR_SHARE = 0.75  # Of the samples; the rest fill the cube, so that nothing floats in it.
EIKONAL_SHARE = 4  # One of so many samples of a step also tells its slope.
MAX_EIKONAL = 100.0
EASE = 0.01  # Edges: errors count relative to the distance plus this (instant-ngp's MAPE).

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Solid:
    """A closed mesh: vertices [V, 3] float32 in world units, and triangles [T, 3] uint32."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.uint32]

    def __post_init__(self) -> None:
        v, f = self.vertices, self.faces
        if v.ndim != 2 or f.ndim != 2 or v.shape[1:] != (3,) or f.shape[1:] != (3,) or not len(f):
            raise ValueError(f"mesh: expected [V, 3] and [T, 3], got {v.shape} and {f.shape}")
        if not np.isfinite(v).all() or not np.ptp(v, axis=0).max() > 0 or f.max() >= len(v):
            raise ValueError("mesh: expected finite vertices with an extent, and triangles of them")

    def cube(self) -> tuple[tuple[float, float, float], float]:
        """The corner of least coordinates and the edge of a cube around it, with a margin."""
        low, high = self.vertices.min(0).astype(float), self.vertices.max(0).astype(float)
        edge = float((high - low).max()) * (1 + 2 * MARGIN)
        corner = (low + high) / 2 - edge / 2
        return (float(corner[0]), float(corner[1]), float(corner[2])), edge

    def scene(self) -> Any:
        """Open3D's ray caster of the mesh. Raises ValueError where Open3D is missing."""
        try:
            import open3d
        except ImportError:
            raise ValueError("meshes need Open3D: pip install 'fieldpress[meshes]'") from None
        scene = open3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())
        tensor: Any = open3d.core.Tensor
        scene.add_triangles(tensor(self.vertices), tensor(self.faces.astype(np.uint32)))
        return scene

    def surface(self, count: int, rng: torch.Generator) -> Tensor:
        """[count, 3] points, even over the area."""
        a, b, c = (torch.from_numpy(self.vertices[self.faces[:, i]]) for i in range(3))
        area = torch.linalg.cross(b - a, c - a).norm(dim=1).double()
        place = torch.rand(count, generator=rng, dtype=torch.float64) * area.sum()
        pick = torch.searchsorted(area.cumsum(0), place).clamp_max(len(area) - 1)
        u, v = torch.rand(2, count, 1, generator=rng)
        u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
        return a[pick] + u * (b - a)[pick] + v * (c - a)[pick]


@dataclass(frozen=True)
class SdfSettings:
    """How a solid is fitted.

    Attributes:
        encoding: of three dimensions.
        neurons, hidden: width and number of the network's hidden layers.
        steps, batch: samples of a step are drawn from `pool` ones.
        rate: learning rate of the table at first.
        quantise: steps of the table in edges of the cube over the noise that they make, that the
            last third of the training goes through; see `codec.even_steps`.
        eikonal: weight of the mean square of |slope| - 1 (Gropp et al. 2020), slopes in edges an
            edge, on a quarter of each step's samples; 0 leaves it out.
        seed: of every random choice.
    """

    encoding: Encoding = field(
        default_factory=lambda: Encoding(3, "SimplexGrid", 8, 2, 14, 16, 1.38)
    )
    neurons: int = 32
    hidden: int = 2
    steps: int = 1000
    batch: int = 1 << 14
    pool: int = 1 << 19
    rate: float = 1e-2
    quantise: float = 1e-3
    eikonal: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("neurons", "hidden", "steps", "batch", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.eikonal <= MAX_EIKONAL:
            raise ValueError(f"eikonal: expected 0 to {MAX_EIKONAL}, got {self.eikonal}")
        for name in ("rate", "quantise"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected above 0, up to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class FittedSdf:
    """A field, which of its rows matter, steps that it was trained with, and seconds of fitting."""

    model: SdfField
    used: codec.Used
    steps: codec.Steps
    seconds: float


def fit_sdf(
    solid: Solid,
    settings: SdfSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> FittedSdf:
    """Fit a field to the signed distance of a closed mesh, on a device; it comes back to the CPU.

    Raises ValueError where Open3D, which measures distances, is missing.
    """
    start = time.perf_counter()
    low, edge = solid.cube()
    points, truth = samples(solid, settings.pool, settings.seed)
    encoding = settings.encoding
    widths = [settings.neurons] * settings.hidden + [1]
    trainer = Trainer(encoding, widths, settings.seed, device)
    there, wanted = points.to(device), truth.to(device)
    used = codec.rows_in_use(encoding, points.split(1 << 16))
    rng = torch.Generator().manual_seed(settings.seed + 1)
    turn, steps = round(settings.steps * (1 - codec.QUANTISED_SHARE)), None
    for step in range(settings.steps):
        if progress is not None and step % 10 == 0:
            progress("fitting", step / settings.steps)
        if step == turn:
            steps = _steps(trainer, used, points, settings)
        pick = torch.randint(len(points), (settings.batch,), generator=rng).to(device)
        rounded = None if steps is None else codec.rounded_table(encoding, trainer.table, steps)
        rate = cosine_rate(step, settings.steps, settings.rate)
        if settings.eikonal:
            part = there[pick[: settings.batch // EIKONAL_SHARE]]
            _add_eikonal(trainer, part, settings.eikonal, rounded)
        _step(trainer, there[pick], wanted[pick], rate, rounded)
    steps = steps or _steps(trainer, used, points, settings)
    model = SdfField(trainer.network, low, edge)
    return FittedSdf(model, used, steps, time.perf_counter() - start)


def samples(solid: Solid, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Places [count, 3] in the unit cube and signed distances [count] in edges of it."""
    rng = torch.Generator().manual_seed(seed)
    low, edge = solid.cube()
    near = round(NEAR_SHARE * count)
    about = solid.surface(near, rng) + SPREAD * edge * torch.randn(near, 3, generator=rng)
    fill = torch.rand(count - near, 3, generator=rng) * edge + torch.tensor(low)
    world = torch.cat([about, fill])
    distance = solid.scene().compute_signed_distance(world.numpy()).numpy()
    points = ((world - torch.tensor(low)) / edge).clamp(0, 1)
    return points, torch.from_numpy(distance) / edge


def compare(model: SdfField, solid: Solid, count: int = 1 << 17, seed: int = 7) -> dict[str, float]:
    """How near a field's solid is to a mesh.

    Returns:
        iou: of the two solids, at `count` random points of the cube.
        distance_error: mean absolute error of distances near the surface, in edges.
    """
    rng, on = torch.Generator().manual_seed(seed), model.network.table.device
    scene, low = solid.scene(), torch.tensor(model.low)
    fill = torch.rand(count, 3, generator=rng) * model.edge + low
    inside = torch.from_numpy(scene.compute_signed_distance(fill.numpy()).numpy()) < 0
    found = model.distance(fill.to(on)).cpu() < 0
    near = solid.surface(count, rng)
    near = near + SPREAD * model.edge * torch.randn(count, 3, generator=rng)
    truth = torch.from_numpy(scene.compute_signed_distance(near.numpy()).numpy())
    error = (model.distance(near.to(on)).cpu() - truth).abs().mean()
    union = int((inside | found).sum())
    return {
        "iou": int((inside & found).sum()) / max(union, 1),
        "distance_error": float(error) / model.edge,
    }


def chamfer(first: Solid, second: Solid, edge: float, count: int = 1 << 16) -> float:
    """Mean distance from points of each surface to the other, both ways averaged, in edges."""
    rng = torch.Generator().manual_seed(3)
    total = 0.0
    for a, b in ((first, second), (second, first)):
        distance = b.scene().compute_distance(a.surface(count, rng).numpy()).numpy()
        total += float(distance.mean()) / 2
    return total / edge


def eikonal(encoding: Encoding, table: Tensor, weights: Sequence[Tensor], points: Tensor) -> Tensor:
    """Mean (|slope| - 1)^2 of a network's distance at points [N, 3] (Gropp et al. 2020, eq. 2)."""
    at = points.clone().requires_grad_()
    distance = layers(encode(encoding, at, table), weights)[-1]
    (slope,) = torch.autograd.grad(distance.sum(), at, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


def _add_eikonal(trainer: Trainer, points: Tensor, weight: float, table: Tensor | None) -> None:
    def loss(rows: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        return weight * eikonal(trainer.encoding, rows, weights, points)

    trainer.add_gradients(loss, table)


def _steps(
    trainer: Trainer, used: codec.Used, points: Tensor, settings: SdfSettings
) -> codec.Steps:
    return codec.even_steps(trainer.network, used, points).scaled(settings.quantise)


def _step(
    trainer: Trainer, points: Tensor, truth: Tensor, rate: float, table: Tensor | None
) -> None:
    """One step on the mean relative error."""

    def slope(outputs: Tensor, part: slice) -> Tensor:
        wanted = truth[None, part]
        return (outputs - wanted).sign() / ((wanted.abs() + EASE) * len(truth))

    trainer.step(points, slope, rate, table)
