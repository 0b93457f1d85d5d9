"""What lies behind a radiance field, and how brightly each photograph was exposed."""

from __future__ import annotations

import torch
from torch import Tensor

BACKGROUNDS = ("black", "white", "random", "learned")
EXPOSURE_RATE, BACKGROUND_RATE = 2e-3, 1e-2  # Adam's.
EXPOSURE_WEIGHT = 1e-3  # Of the mean square of the log gains, in the loss.


class Appearance:
    """Background and exposures under training.

    A pixel of view i is gain_i times what its ray brings back, in sRGB, gain_i = exp(g_i - mean g)
    for each channel: the views' mean is what pictures without a view of their own show. A random
    background differs with every ray, so that what is not to be seen through becomes opaque; the
    model then lies on black.

    Args:
        background: one of BACKGROUNDS.
        views: training views.
        exposure: learn gains.
    """

    def __init__(
        self, background: str, views: int, exposure: bool, device: torch.device | str = "cpu"
    ) -> None:
        self.kind, self.exposed = background, exposure
        start = 1.0 if background == "white" else 0.0
        self._color = torch.full((3,), start, device=device)
        self._gains = torch.zeros(views, 3, device=device)
        groups = []
        if background == "learned":
            self._color.fill_(0.5).requires_grad_()
            groups.append({"params": [self._color], "lr": BACKGROUND_RATE})
        if exposure:
            groups.append({"params": [self._gains.requires_grad_()], "lr": EXPOSURE_RATE})
        self._adam = torch.optim.Adam(groups) if groups else None

    @property
    def behind(self) -> bool:
        """Whether opacities are wanted: something lies behind."""
        return self.kind != "black"

    @property
    def background(self) -> tuple[float, float, float]:
        """What the model is to be shown on, sRGB."""
        r, g, b = self._color.detach().clamp(0, 1).tolist()
        return r, g, b

    def gains(self) -> Tensor:
        """[views, 3] by which the model's colours are multiplied, 1 on the geometric mean."""
        return (self._gains - self._gains.mean(0)).exp()

    def seen(
        self,
        values: Tensor,
        view: Tensor,
        rng: torch.Generator,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """[R, 3] pixels of views [R]: colours and, where asked for, opacities [R, 3 or 4].

        Where photographs on black have an alpha [R], the random background shines through them as
        well; it is taken off again, so that all can be compared with the photographs.
        """
        if self.behind:
            color = self._color
            if self.kind == "random":
                color = torch.rand(len(values), 3, generator=rng).to(values.device)
            shown = over(values, color)
            values = shown if alpha is None else shown - (1 - alpha[:, None]) * color
        return values * self.gains()[view] if self.exposed else values

    def penalty(self) -> Tensor | float:
        """What gains cost in the loss."""
        return EXPOSURE_WEIGHT * self._gains.square().mean() if self.exposed else 0.0

    def zero_grad(self) -> None:
        """Forget gradients."""
        if self._adam is not None:
            self._adam.zero_grad()

    def step(self) -> None:
        """Down the gradients that there are."""
        if self._adam is not None:
            self._adam.step()


def over(values: Tensor, background: Tensor) -> Tensor:
    """[R, 3] colours [R, 4] with their opacity, laid over a background [3] or [R, 3]."""
    return values[:, :3] + (1 - values[:, 3:4]) * background


def with_opacity(shades: Tensor) -> Tensor:
    """[C + 1, M] shades [C, M], and ones, which composite to the opacity of a ray."""
    return torch.cat([shades, torch.ones_like(shades[:1])])
