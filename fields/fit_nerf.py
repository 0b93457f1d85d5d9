"""How posed photographs become radiance fields: random rays, an occupancy grid, lazy Adam."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..scenes.cameras import Cameras, Scene
from ..scenes.metrics import psnr
from . import codec
from .encoding import LazyAdam, encode, new_table
from .levels import Encoding
from .nerf import CELL_SIDE, GEOMETRY, STEP, NerfField, composite, march, shade
from .network import WEIGHT_RATE, Network, cosine_rate, layers, network_copy, new_weights
from .sdf import pixel_rays

CELLS_EVERY = 16  # Steps between looks at the occupancy grid.
CELLS_AT_ONCE = 1 << 15
FADE = 0.9  # Of a cell's density from one look to the next.
OPAQUE = 0.01  # Optical depth of a step from which a cell counts.
QUANTILE = 0.02  # Of the points, on each side, that may lie outside the cube.
ROOM = 1.5  # Of the extent of the rest.
REACH = 0.75  # Without points: the cube's edge over the mean distance of the cameras.
PROBES = 1 << 17
TRIALS = 8
SHOWN = 3  # Training views that the search for steps looks at.

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class NerfSettings:
    """How a radiance field is fitted.

    Attributes:
        encoding: of three dimensions.
        neurons: width of the hidden layers, one before the geometry and one or two in the head.
        steps, rays: rays of a step are drawn from all training views.
        rate: learning rate of the table at first.
        loss_db: what rounding may cost on training views.
        seed: of every random choice.
    """

    encoding: Encoding = field(
        default_factory=lambda: Encoding(3, "SimplexGrid", 10, 2, 16, 16, 1.5)
    )
    neurons: int = 32
    steps: int = 1000
    rays: int = 1024
    rate: float = 1e-2
    loss_db: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("neurons", "steps", "rays"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("rate", "loss_db"):
            if not 0 < getattr(self, name) <= 10:
                raise ValueError(f"{name}: expected above 0, up to 10, got {getattr(self, name)}")


@dataclass(frozen=True)
class FittedNerf:
    """A field, which of its rows matter, steps for its file, and seconds of fitting."""

    model: NerfField
    used: codec.Used
    steps: codec.Steps
    seconds: float


def cube_around(scene: Scene) -> tuple[tuple[float, float, float], float]:
    """Corner and edge of a cube: around the points, else around what the cameras look at."""
    if scene.points is not None and len(scene.points):
        low = scene.points.quantile(QUANTILE, dim=0)
        high = scene.points.quantile(1 - QUANTILE, dim=0)
        center, edge = (low + high) / 2, ROOM * float((high - low).max())
    else:
        eyes, ahead = scene.train.positions.double(), scene.train.viewmats[:, 2, :3].double()
        across = torch.eye(3, dtype=torch.float64) - ahead[:, :, None] * ahead[:, None, :]
        center = torch.linalg.lstsq(across.sum(0), (across @ eyes[:, :, None]).sum(0)).solution[
            :, 0
        ]
        edge = REACH * float((eyes - center).norm(dim=1).mean())
    corner = [float(x) - edge / 2 for x in center]
    return (corner[0], corner[1], corner[2]), edge


class NerfTrainer:
    """Density and colour under training, and the cells that its rays pass.

    Attributes:
        cells: [64^3] bool.
    """

    def __init__(
        self, scene: Scene, settings: NerfSettings, device: torch.device | str = "cpu"
    ) -> None:
        if scene.train_images is None or not len(scene.train):
            raise ValueError(f"{scene.name}: expected training photographs, got none")
        self.settings, self.device = settings, torch.device(device)
        self.low, self.edge = cube_around(scene)
        self._rng = torch.Generator().manual_seed(settings.seed + 1)
        rays = [pixel_rays(scene.train[i : i + 1], device) for i in range(len(scene.train))]
        self._origins = torch.stack([o[0] for o, _ in rays])
        self._origins = (self._origins - self._origins.new_tensor(self.low)) / self.edge
        self._rays_d = torch.cat([d for _, d in rays])
        self._colors = (255 * scene.train_images).round().byte().reshape(-1, 3).to(device)
        self._pixels = scene.train.width * scene.train.height
        encoding, n = settings.encoding, settings.neurons
        self.table = new_table(encoding, settings.seed, device)
        self._lazy = LazyAdam(encoding, self.table)
        weights = new_weights([encoding.width, n, GEOMETRY], settings.seed)
        self.weights = tuple(w.to(device) for w in weights)
        head = new_weights([NerfField.head_inputs, n, n, 3], settings.seed + 1)
        self.head = tuple(w.to(device) for w in head)
        for weight in (*self.weights, *self.head):
            weight.requires_grad_()
        self._adam = torch.optim.Adam((*self.weights, *self.head), betas=(0.9, 0.99), eps=1e-15)
        self._density = torch.zeros(CELL_SIDE**3, device=device)
        self.cells = torch.ones(CELL_SIDE**3, dtype=torch.bool, device=device)

    @property
    def model(self) -> NerfField:
        """A copy of what has been learned so far, on the CPU."""
        network = network_copy(self.settings.encoding, self.table, self.weights)
        head = tuple(w.detach().to("cpu", copy=True) for w in self.head)
        cells = self.cells.to("cpu", copy=True)
        return NerfField(network, head, cells, self.low, self.edge)

    def step(self, rate: float) -> float:
        """One step of Adam on random rays; the mean squared error that it found."""
        count = self.settings.rays
        pick = torch.randint(len(self._colors), (count,), generator=self._rng)
        jitter = torch.rand(count, generator=self._rng).to(self.device)
        pick = pick.to(self.device)
        rays_d = self._rays_d[pick]
        found = march(self._origins[pick // self._pixels], rays_d, self.cells, jitter)
        if not len(found.ray):
            return float("nan")
        features = encode(self.settings.encoding, found.points, self.table).requires_grad_()
        raw = layers(features, self.weights)[-1]
        sigmas, rgb = shade(raw, rays_d, found.ray, self.head)
        truth = self._colors[pick].float() / 255
        loss = (composite(sigmas, rgb, found, count) - truth).square().mean()
        self._adam.zero_grad()
        loss.backward()
        for group in self._adam.param_groups:
            group["lr"] = WEIGHT_RATE * rate
        self._adam.step()
        assert features.grad is not None
        self._lazy.update(found.points, features.grad, rate)
        return float(loss.detach())

    def look(self, *, everywhere: bool = False) -> None:
        """Measure the density of some cells, or of all, at a random place of each; mark cells."""
        count = len(self.cells)
        pick = torch.arange(count)
        if not everywhere:
            pick = torch.randint(count, (CELLS_AT_ONCE,), generator=self._rng)
        raw = self._network()(cell_points(pick, self._rng).to(self.device))[0]
        pick, seen = pick.to(self.device), raw.clamp_max(12).exp()
        self._density[pick] = torch.maximum(FADE * self._density[pick], seen)
        self.cells = self._density * STEP > min(OPAQUE, float(self._density.mean()) * STEP)

    def _network(self) -> Network:
        weights = tuple(w.detach() for w in self.weights)
        return Network(self.settings.encoding, self.table, weights)


def cell_points(index: Tensor, rng: torch.Generator) -> Tensor:
    """[N, 3] a random place in each of the cells of these numbers."""
    x, y, z = index % CELL_SIDE, index // CELL_SIDE % CELL_SIDE, index // CELL_SIDE**2
    return (torch.stack([x, y, z], 1) + torch.rand(len(index), 3, generator=rng)) / CELL_SIDE


def fit_nerf(
    scene: Scene,
    settings: NerfSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> FittedNerf:
    """Fit a radiance field to photographs by least squares on random rays.

    It is trained on the device, and comes back to the CPU.

    Raises ValueError for a scene without photographs.
    """
    start = time.perf_counter()
    trainer = NerfTrainer(scene, settings, device)
    for step in range(settings.steps):
        if progress is not None and step % 10 == 0:
            progress("fitting", step / settings.steps)
        if step % CELLS_EVERY == 0 and step:
            trainer.look(everywhere=step < 8 * CELLS_EVERY)
        trainer.step(cosine_rate(step, settings.steps, settings.rate))
    trainer.look(everywhere=True)
    model = trainer.model
    rng = torch.Generator().manual_seed(2)
    live = model.cells.nonzero()[:, 0]
    if not len(live):
        raise ValueError(f"{scene.name}: the fit ended with an empty cube")
    points = [cell_points(part, rng) for part in live.repeat(8).split(1 << 16)]
    used = codec.rows_in_use(settings.encoding, points)
    steps = search_steps(model, used, scene, torch.cat(points), settings.loss_db, device)
    return FittedNerf(model, used, steps, time.perf_counter() - start)


def search_steps(
    model: NerfField, used: codec.Used, scene: Scene, points: Tensor, loss_db: float,
    device: torch.device | str = "cpu",
) -> codec.Steps:  # fmt: skip
    """The coarsest steps whose rounding costs at most `loss_db` on some training views.

    The model lies on the CPU; the views are rendered on the device.
    """
    steps = codec.even_steps(model.network, used, points)
    finest = min(steps.weights)
    steps = codec.Steps(steps.table, steps.weights, tuple(finest for _ in model.head))
    assert scene.train_images is not None
    pick = torch.linspace(0, len(scene.train) - 1, SHOWN).long()
    views, truth = scene.train[pick], scene.train_images[pick]
    goal = _quality(model.to(device), views, truth) - loss_db
    low, high = -12.0, 4.0  # log2 of the factor: what loses too little, too much.
    for _ in range(TRIALS):
        middle = 0.5 * (low + high)
        rounded = codec.rounded(model, steps.scaled(2**middle), used).to(device)
        good = _quality(rounded, views, truth) >= goal
        low, high = (middle, high) if good else (low, middle)
    return steps.scaled(2**low)


def _quality(model: NerfField, views: Cameras, truth: Tensor) -> float:
    level = float(psnr(model.render(views).cpu(), truth).mean())
    return level if math.isfinite(level) else -math.inf
