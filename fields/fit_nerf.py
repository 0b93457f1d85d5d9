"""How posed photographs become radiance fields: random rays, an occupancy grid, lazy Adam."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..scenes.cameras import Scene
from . import codec, tables
from .appearance import BACKGROUNDS, Appearance, with_opacity
from .backdrop import backdrop
from .encoding import LazyAdam, encode, new_table
from .levels import Encoding
from .nerf import GEOMETRY, MAX_LOG_DENSITY, NerfField, composite, march, ray_weights, shade
from .nerf_steps import search_steps, touched_rows
from .network import WEIGHT_RATE, Network, cosine_rate, layers, network_copy, new_weights
from .occupancy import CELLS_EVERY, FIRST_LOOKS, Occupancy
from .rounding import Rounding
from .sdf import pixel_rays
from .visibility import Shown, far_enough, seen_cells

QUANTILE = 0.02  # Of the points, on each side, that may lie outside the cube.
ROOM = 1.5  # Of the extent of the rest.
REACH = 0.75  # Without points: the cube's edge over the mean distance of the cameras,
WIDE = 2.5  # the same where they stand in a place and not before a backdrop.
THROUGH = 0.8  # Of the steps, the last ones: they go through the rounding where `rate_db` says so.
RISING = 100  # Steps that the learning rate rises for, a quarter of all at most.
LEARNED = 100  # Steps at least before those, half of all at most: none are sought in a haze.
HIDE = 0.2  # Of the steps, after which cells go that nothing is seen of.
START_DB = 0.05  # What rounding may cost at first beyond what it may in the end.

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
        rate_db: train the last steps through the rounding, a kilobyte worth so many dB of the
            training error; None: round afterwards.
        seed: of every random choice.
        background: what lies behind the cube: black, white, random or learned (`Appearance`).
        alpha: the scene's masks are the photographs' alpha, the photographs on black, as
            `read_scene` with masks="alpha" has them: a random background shines through them.
        exposure: learn how brightly each photograph was exposed, and leave it out at the end.
    """

    encoding: Encoding = field(
        default_factory=lambda: Encoding(3, "SimplexGrid", 10, 2, 16, 16, 1.5)
    )
    neurons: int = 32
    steps: int = 1000
    rays: int = 1024
    rate: float = 4e-2
    loss_db: float = 0.1
    rate_db: float | None = None
    seed: int = 0
    background: str = "black"
    alpha: bool = False
    exposure: bool = False

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(
                f"background: expected one of {', '.join(BACKGROUNDS)}, got {self.background!r}"
            )
        for name in ("neurons", "steps", "rays"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("rate", "loss_db"):
            if not 0 < getattr(self, name) <= 10:
                raise ValueError(f"{name}: expected above 0, up to 10, got {getattr(self, name)}")
        if self.alpha and self.background != "random":
            raise ValueError(f"alpha: expected a random background, got {self.background!r}")
        if self.rate_db is not None and not 0 <= self.rate_db <= 1:
            raise ValueError(f"rate_db: expected 0 to 1, got {self.rate_db}")


@dataclass(frozen=True)
class FittedNerf:
    """A field, which of its rows matter, steps for its file, and seconds of fitting."""

    model: NerfField
    used: codec.Used
    steps: codec.Steps
    seconds: float


def cube_around(scene: Scene) -> tuple[tuple[float, float, float], float]:
    """Corner and edge of a cube: around the points, else around what the cameras look at.

    Without points it takes in the cameras, unless their photographs show a backdrop.
    """
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
        reach = WIDE if backdrop(scene) is None else REACH
        edge = reach * float((eyes - center).norm(dim=1).mean())
    corner = [float(x) - edge / 2 for x in center]
    return (corner[0], corner[1], corner[2]), edge


@dataclass(frozen=True)
class Drawn:
    """Rays of pixels: origins in the unit cube, directions, colours [R, 3]; views, alpha [R]."""

    origins: Tensor
    rays_d: Tensor
    colors: Tensor
    view: Tensor
    alpha: Tensor | None = None


@dataclass(frozen=True)
class Traced:
    """What rays brought back, [R, channels], with gradients down to features at places [M, 3]."""

    values: Tensor
    points: Tensor
    features: Tensor


class NerfTrainer:
    """Density and colour under training, and the cells that its rays pass.

    Attributes:
        appearance: what lies behind, and exposures.
        rounding: of the file, where training goes through it.
    """

    rounding: Rounding | None = None

    def __init__(
        self,
        scene: Scene,
        settings: NerfSettings,
        channels: int = 3,
        device: torch.device | str = "cpu",
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
        self._alpha = None
        if settings.alpha and scene.train_masks is not None:
            self._alpha = (255 * scene.train_masks).round().byte().flatten().to(device)
        self._pixels = scene.train.width * scene.train.height
        encoding, n = settings.encoding, settings.neurons
        self.table = new_table(encoding, settings.seed, device)
        self._lazy = LazyAdam(encoding, self.table)
        weights = new_weights([encoding.width, n, GEOMETRY], settings.seed)
        self.weights = tuple(w.to(device) for w in weights)
        head = new_weights([NerfField.head_inputs, n, n, channels], settings.seed + 1)
        self.head = tuple(w.to(device) for w in head)
        for weight in (*self.weights, *self.head):
            weight.requires_grad_()
        self._adam = torch.optim.Adam((*self.weights, *self.head), betas=(0.9, 0.99), eps=1e-15)
        self._occupancy = Occupancy(device)
        self._occupancy.keep_to(seen_cells(scene.train, self.low, self.edge))
        self.appearance = Appearance(
            settings.background, len(scene.train), settings.exposure, device
        )

    @property
    def cells(self) -> Tensor:
        """[64^3] bool, those that may hold something."""
        return self._occupancy.cells

    @property
    def model(self) -> NerfField:
        """A copy of what has been learned so far, on the CPU."""
        network = network_copy(self.settings.encoding, self.table, self.weights)
        head = tuple(w.detach().to("cpu", copy=True) for w in self.head)
        cells = self.cells.to("cpu", copy=True)
        behind = self.appearance.background
        return NerfField(network, head, cells, self.low, self.edge, background=behind)

    def step(self, rate: float) -> float:
        """One step of Adam on random rays; the mean squared error that it found."""
        drawn = self.draw()
        traced = self.trace(drawn.origins, drawn.rays_d)
        if not len(traced.points):
            return float("nan")
        seen = self.appearance.seen(traced.values, drawn.view, self._rng, drawn.alpha)
        self.appearance.zero_grad()
        loss = (seen - drawn.colors).square().mean() + self.appearance.penalty()
        found = self.learn(loss, traced, rate)
        self.appearance.step()
        return found

    def draw(self) -> Drawn:
        """Rays of random pixels."""
        pick = torch.randint(len(self._colors), (self.settings.rays,), generator=self._rng)
        pick = pick.to(self.device)
        colors, view = self._colors[pick].float() / 255, pick // self._pixels
        alpha = None if self._alpha is None else self._alpha[pick].float() / 255
        return Drawn(self._origins[view], self._rays_d[pick], colors, view, alpha)

    def trace(self, origins: Tensor, rays_d: Tensor) -> Traced:
        """What rays [R, 3] bring back, their samples at random places of their steps."""
        count = len(origins)
        jitter = torch.rand(count, generator=self._rng).to(self.device)
        found = march(origins, rays_d, self.cells, jitter)
        table, weights, head = self.table, self.weights, self.head
        if self.rounding is not None:
            table = self.rounding.table(table)
            weights = self.rounding.matrices(weights, self.rounding.steps.weights)
            head = self.rounding.matrices(head, self.rounding.steps.head)
        features = encode(self.settings.encoding, found.points, table).requires_grad_()
        raw = layers(features, weights)[-1]
        sigmas, shades = shade(raw, rays_d, found.ray, head)
        gradient = far_enough(found, origins)
        sigmas.register_hook(lambda slope: slope * gradient)
        shades.register_hook(lambda slope: slope * gradient)
        if self.appearance.behind:
            shades = with_opacity(shades)
        return Traced(composite(sigmas, shades, found, count), found.points, features)

    def learn(self, loss: Tensor, traced: Traced, rate: float) -> float:
        """One step of Adam down the gradient of a loss of what was traced; the loss."""
        self._adam.zero_grad()
        loss.backward()
        for group in self._adam.param_groups:
            group["lr"] = WEIGHT_RATE * rate
        self._adam.step()
        found = float(loss.detach())
        assert traced.features.grad is not None
        if self.rounding is None or not self.rounding.rate_db:
            self._lazy.update(traced.points, traced.features.grad, rate)
            return found
        self._lazy.accumulate(traced.points, traced.features.grad)
        self._lazy.add(self.rounding.slope(self.table, found))
        self._lazy.step(rate)
        return found

    def look(self, *, everywhere: bool = False) -> None:
        """Measure the density of some cells, or of all; mark those that may hold something."""
        network = self._network()
        self._occupancy.look(lambda points: network(points)[0], self._rng, everywhere=everywhere)

    @torch.no_grad()
    def hide(self) -> None:
        """Give up cells of which rays of random pixels see nothing: inside things, or a haze."""
        network, shown = self._network(), Shown(self.device)
        while shown.rays < len(self._colors) and not shown.enough:
            drawn = self.draw()
            jitter = torch.rand(len(drawn.view), generator=self._rng).to(self.device)
            found = march(drawn.origins, drawn.rays_d, self.cells, jitter)
            sigmas = network(found.points)[0].clamp_max(MAX_LOG_DENSITY).exp()
            shown.add(found, ray_weights(sigmas, found, len(drawn.view)), len(drawn.view))
        self._occupancy.keep_to(shown.cells)

    def _network(self) -> Network:
        weights, table = tuple(w.detach() for w in self.weights), self.table
        if self.rounding is not None:
            table = self.rounding.table(table)
            weights = tables.rounded(weights, self.rounding.steps.weights)
        return Network(self.settings.encoding, table, weights)


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
    trainer = NerfTrainer(scene, settings, device=device)
    for step in range(settings.steps):
        if progress is not None and step % 10 == 0:
            progress("fitting", step / settings.steps)
        if step % CELLS_EVERY == 0 and step:
            trainer.look(everywhere=step < FIRST_LOOKS * CELLS_EVERY)
        if step and step == round(HIDE * settings.steps):
            trainer.hide()
        if settings.rate_db is not None and step == turn(settings.steps):
            trainer.look(everywhere=True)
            model = trainer.model
            used, points = touched_rows(model, scene.name)
            steps = search_steps(model, used, scene, points, START_DB + settings.loss_db)
            trainer.rounding = Rounding(settings.encoding, used, steps, settings.rate_db)
        trainer.step(rate_at(step, settings))
    trainer.look(everywhere=True)
    model = trainer.model
    used, points = touched_rows(model, scene.name)
    if trainer.rounding is not None:
        steps = trainer.rounding.steps
    else:
        steps = search_steps(model, used, scene, points, settings.loss_db, device)
    return FittedNerf(model, used, steps, time.perf_counter() - start)


def rate_at(step: int, settings: NerfSettings) -> float:
    """The learning rate of a step: up from nothing at first, lest haze set before the cameras."""
    rising = min(RISING, max(settings.steps // 4, 1))
    rate = cosine_rate(step, settings.steps, settings.rate)
    return rate * min(1, (step + 1) / rising)


def turn(steps: int) -> int:
    """The first of the steps that go through the rounding, where any do."""
    return max(round(steps * (1 - THROUGH)), min(LEARNED, steps // 2))
