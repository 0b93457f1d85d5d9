"""Gradient training of splats on pictures: what fit, recovery and distillation share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..render.photometric import PhotometricTarget, photometric_loss
from ..render.splat import RasterOptions, rasterize
from ..scenes.cameras import Cameras
from .model import SplatModel

NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN")
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-15  # Kerbl et al. 2023: gradients may be tiny.
EXPOSURE_LR = 1e-3
CACHE_BYTES = 10**9  # of blurred photographs
WATCH = 0.95  # of the running mean that progress shows


@dataclass(frozen=True)
class TrainSettings:
    """How splats are trained; the rates are those of Kerbl et al. 2023 unless said otherwise.

    Attributes:
        steps: views shown, one a step; schedules end there.
        means_lr: times the extent of the cameras; falls exponentially to means_lr_final.
        quats_lr, scales_lr, opacities_lr, sh0_lr, shN_lr: Adam's rates; 0 freezes a tensor.
        cool: share of the steps, at the end, over which all rates but the means' fall to a tenth.
        ssim_weight: of 1 - SSIM in the loss, the rest is L1.
        sh_every: one more SH degree is used every so many steps; 0: all at once.
        exposure: learn an affine colour change per training view, and leave it out at the end.
        seed: of the order of the views.
    """

    steps: int = 7000
    means_lr: float = 1.6e-4
    means_lr_final: float = 1.6e-6
    quats_lr: float = 1e-3
    scales_lr: float = 5e-3
    opacities_lr: float = 5e-2
    sh0_lr: float = 2.5e-3
    shN_lr: float = 1.25e-4
    cool: float = 0.0
    ssim_weight: float = 0.2
    sh_every: int = 0
    exposure: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        for name in (*(f"{n}_lr" for n in NAMES), "means_lr_final"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        for name in ("cool", "ssim_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)}")


def camera_extent(cameras: Cameras) -> float:
    """Radius of the cameras about their middle, with a tenth to spare; 1 for a single camera."""
    positions = cameras.positions
    radius = float((positions - positions.mean(0)).norm(dim=1).max()) * 1.1
    return radius if radius > 0 else 1.0


class Trainer:
    """Splats being trained on one view a step (Adam; Kerbl et al. 2023), on the model's device.

    Args:
        model: where to start; it is not changed. Views and pictures may lie elsewhere.
        cameras: [C] training views.
        images: [C, H, W, 3] float32 in [0, 1], their pictures.
        settings: rates and schedules.
        masks: [C, H, W] float32 in [0, 1], the weight of every pixel, or None.

    Raises:
        ValueError: no views, or pictures whose shape is not that of the cameras.
    """

    def __init__(
        self,
        model: SplatModel,
        cameras: Cameras,
        images: Tensor,
        settings: TrainSettings,
        masks: Tensor | None = None,
    ) -> None:
        shape = (len(cameras), cameras.height, cameras.width, 3)
        if not len(cameras) or tuple(images.shape) != shape:
            raise ValueError(f"images: expected {list(shape)}, got {list(images.shape)}")
        if masks is not None and masks.shape != images.shape[:3]:
            raise ValueError(f"masks: expected {list(shape[:3])}, got {list(masks.shape)}")
        self.cameras, self.images, self.masks = cameras, images, masks
        self.settings, self.start = settings, model
        self.device = model.means.device
        self.extent = camera_extent(cameras)
        self.number = 0  # steps done
        self.whole = True  # False in mid-step: what an interruption would leave is no state
        self._mse = 0.0
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.params = {name: _leaf(getattr(model, name)) for name in NAMES}
        self.exposure = None
        if settings.exposure:
            identity = torch.eye(3, 4, device=self.device).repeat(len(cameras), 1, 1)
            self.exposure = _leaf(identity)
        self.optimizer = self._optimizer()
        self._order: list[int] = []
        self._targets: dict[int, PhotometricTarget] = {}

    def model(self) -> SplatModel:
        """The splats as they are now, detached copies."""
        values = {name: p.detach().clone() for name, p in self.params.items()}
        return SplatModel(**values, antialiased=self.start.antialiased, extra=self.start.extra)

    @property
    def sh_degree(self) -> int:
        """The degree in use at this step."""
        full = self.start.sh_degree
        every = self.settings.sh_every
        return full if every == 0 else min(full, self.number // every)

    def step(self, cameras: Cameras | None = None, target: Tensor | None = None) -> float:
        """One view: the next training view, or the given camera with its picture [1, H, W, 3].

        Returns the loss before the step.
        """
        view, mask = None, None
        if cameras is None:
            view = self._next_view()
            cameras, photo = self.cameras[view : view + 1], self._prepared(view)
            mask = None if self.masks is None else self.masks[view : view + 1].to(self.device)
            target = photo.image
        else:
            assert target is not None
            photo = target = target.to(self.device)
        image = self.render(cameras)
        if self.exposure is not None and view is not None:
            matrix = self.exposure[view]
            image = image @ matrix[:, :3].T + matrix[:, 3]
        loss = photometric_loss(image, photo, self.settings.ssim_weight, mask)
        loss.backward()
        self._watch(image.detach(), target)
        self._set_rates()
        self.whole = False
        self.before_update()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if view is not None:
            self._order.pop()
        self.number += 1
        self.after_update()
        self.whole = True
        return float(loss.detach())

    def values(self) -> dict[str, Tensor]:
        """What pictures show, by name: the parameters, or what a subclass makes of them."""
        return self.params

    def render(self, cameras: Cameras) -> Tensor:
        """[C, H, W, 3] of the current values on black, differentiable."""
        p = self.values()
        options = RasterOptions(
            sh_degree=self.sh_degree,
            rasterize_mode="antialiased" if self.start.antialiased else "classic",
        )
        colors = torch.cat([p["sh0"], p["shN"]], 1)
        return rasterize(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), colors,
            cameras.viewmats.to(self.device), cameras.Ks.to(self.device),
            cameras.width, cameras.height, options,
        )[0]  # fmt: skip

    def before_update(self) -> None:
        """What a subclass adds to the gradients."""

    def after_update(self) -> None:
        """What a subclass does to the values once they moved; `number` counts this step."""

    @property
    def psnr(self) -> float:
        """dB, of a running mean of the squared error of the views shown."""
        return -10 * math.log10(max(self._mse, 1e-10))

    def _watch(self, image: Tensor, target: Tensor) -> None:
        error = float((image - target).square().mean())
        self._mse = error if self._mse == 0 else WATCH * self._mse + (1 - WATCH) * error

    def replace(self, values: dict[str, Tensor], moments: dict[str, list[Tensor]]) -> None:
        """Go on with other tensors and Adam moments (two for each name), for densification."""
        old = self.optimizer.state_dict()
        self.params = {name: _leaf(values[name]) for name in NAMES}
        self.optimizer = self._optimizer()
        step = [s["step"] for s in old["state"].values()][:1]
        for name, p in self.params.items():
            if name in moments:
                first, second = moments[name]
                self.optimizer.state[p] = {
                    "step": step[0].clone(), "exp_avg": first, "exp_avg_sq": second
                }  # fmt: skip
        if self.exposure is not None:
            last = old["state"].get(len(old["param_groups"]) - 1)
            if last is not None:
                self.optimizer.state[self.exposure] = last

    def moments(self) -> dict[str, list[Tensor]]:
        """Adam's two moments by name, of those tensors that have any yet."""
        found = {}
        for name, p in self.params.items():
            state = self.optimizer.state.get(p)
            if state:
                found[name] = [state["exp_avg"], state["exp_avg_sq"]]
        return found

    def rates(self) -> dict[str, float]:
        """Learning rates of this step."""
        s = self.settings
        done = min(self.number / s.steps, 1.0)
        cooled = 1.0
        if s.cool > 0:
            cooled = 0.1 ** max(0.0, (done - (1 - s.cool)) / s.cool)
        rates = {name: getattr(s, f"{name}_lr") * cooled for name in NAMES}
        first, last = s.means_lr * self.extent, s.means_lr_final * self.extent
        rates["means"] = first * (last / first) ** done if first > 0 and last > 0 else first
        return rates

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on to the same result; tensors and numbers only."""
        return {
            "number": self.number,
            "mse": self._mse,
            "order": self._order,
            "generator": self.generator.get_state(),
            "params": {name: p.detach() for name, p in self.params.items()},
            "exposure": None if self.exposure is None else self.exposure.detach(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.number, self._order = int(state["number"]), [int(v) for v in state["order"]]
        self._mse = float(state["mse"])
        self.generator.set_state(state["generator"])
        self.params = {name: _leaf(state["params"][name].to(self.device)) for name in NAMES}
        if state["exposure"] is not None:
            self.exposure = _leaf(state["exposure"].to(self.device))
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(state["optimizer"])

    def _optimizer(self) -> torch.optim.Adam:
        groups: list[dict[str, Any]] = [
            {"params": [p], "lr": 0.0, "name": name} for name, p in self.params.items()
        ]
        if self.exposure is not None:
            groups.append({"params": [self.exposure], "lr": EXPOSURE_LR, "name": "exposure"})
        return torch.optim.Adam(groups, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)

    def _set_rates(self) -> None:
        rates = self.rates()
        for group in self.optimizer.param_groups:
            name = group["name"]
            group["lr"] = EXPOSURE_LR if name == "exposure" else rates[name]
            if name != "exposure" and rates[name] == 0:
                self.params[name].grad = None  # Adam skips what has no gradient: truly frozen.

    def _prepared(self, view: int) -> PhotometricTarget:
        """The photograph with its half of SSIM, blurred once as long as memory for it is small."""
        found = self._targets.get(view)
        if found is None:
            found = PhotometricTarget.prepare(self.images[view : view + 1].to(self.device))
            if 2 * self.images.numel() * self.images.element_size() <= CACHE_BYTES:
                self._targets[view] = found
        return found

    def _next_view(self) -> int:
        if not self._order:
            self._order = torch.randperm(len(self.cameras), generator=self.generator).tolist()
        return self._order[-1]  # Taken off once its step is done: an interruption loses none.


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().contiguous().requires_grad_(True)
