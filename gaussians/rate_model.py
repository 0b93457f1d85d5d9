"""A rate term for training: bits as the codec's predictions and steps promise them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .straight_through import Prediction

PARTS = {"opa": "opacities", "scl": "scales", "dc": "sh0", "ac": "shN"}


@dataclass(frozen=True)
class RateModel:
    """Bits of a model, log2(1 + |coefficient - prediction| / step) each, summed.

    That is what an adaptive coder of residuals with a sharp peak takes, to a constant, without the
    part that no training can save. Predictions and steps are held constant.
    """

    predictions: Mapping[str, Prediction]

    def bits(self, values: Mapping[str, Tensor]) -> Tensor:
        """The sum, differentiable; values by the model's names, in the predictions' order."""
        total = torch.zeros((), dtype=torch.float64)
        for key, p in self.predictions.items():
            residual = self._residual(p, values[PARTS[key]])
            total = total + torch.log2(1 + residual.abs() / p.step).sum(dtype=torch.float64)
        return total

    @torch.no_grad()
    def add_gradients(self, values: Mapping[str, Tensor], weight: float) -> None:
        """Add weight times the gradient of `bits` to each value's .grad, where it has one."""
        for key, p in self.predictions.items():
            x = values[PARTS[key]]
            if x.grad is None:
                continue
            residual = self._residual(p, x)
            slope = residual.sign() / (residual.abs() + p.step)
            if p.inverse is not None:
                slope = slope @ p.inverse.T
            x.grad.add_(slope.view_as(x), alpha=weight / math.log(2))

    @staticmethod
    def _residual(p: Prediction, x: Tensor) -> Tensor:
        flat = x.reshape(len(x), -1)
        return (flat if p.inverse is None else flat @ p.inverse) - p.center
