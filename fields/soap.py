"""SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's preconditioner, for small matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETA1, BETA2, BETA_BASIS = 0.95, 0.95, 0.95
EVERY = 10  # Steps between refinements of the basis.
EPSILON = 1e-10
TINY = 1e-24  # Squares of gradients below it say nothing.


class Soap:
    """Moves matrices, all in one padded batch, and by plain Adam what else there is.

    Args:
        big: matrices. small: tensors of any shape. Both are changed in place.
    """

    def __init__(self, big: Sequence[Tensor], small: Sequence[Tensor]) -> None:
        self._big, self._small = big, small
        rows, columns = max(len(m) for m in big), max(m.shape[1] for m in big)
        shape = (len(big), rows, columns)
        self._mean, self._square = torch.zeros(shape), torch.zeros(shape)
        self._grad = torch.zeros(shape)
        self._sides = [torch.zeros(len(big), n, n) for n in (rows, columns)]
        self._bases: list[Tensor] = []
        self._other = [(torch.zeros_like(s), torch.zeros_like(s)) for s in small]
        self._step = 0

    def step(self, big: Sequence[Tensor], small: Sequence[Tensor], lr: float) -> None:
        """One step along gradients of the matrices and of the others."""
        for to, grad in zip(self._grad, big, strict=True):
            to[: grad.shape[0], : grad.shape[1]] = grad
        g = self._grad
        for side, square in zip(self._sides, (g @ g.mT, g.mT @ g), strict=True):
            side.lerp_(square, 1 - BETA_BASIS)
        if not self._bases:
            self._bases = [_basis(side) for side in self._sides]
        self._step += 1
        left, right = self._bases
        self._mean.lerp_(g, 1 - BETA1)
        self._square.lerp_((left.mT @ g @ right).square(), 1 - BETA2)
        mean = left.mT @ self._mean @ right / (1 - BETA1**self._step)
        root = (self._square / (1 - BETA2**self._step)).sqrt() + EPSILON
        move = left @ (mean / root) @ right.mT
        for to, by in zip(self._big, move, strict=True):
            to -= lr * by[: to.shape[0], : to.shape[1]]
        self._plain(small, lr)
        if self._step % EVERY == 0:
            self._bases = [
                torch.linalg.qr(_safe(side) @ basis).Q
                for side, basis in zip(self._sides, self._bases, strict=True)
            ]

    def _plain(self, small: Sequence[Tensor], lr: float) -> None:
        for to, grad, (mean, square) in zip(self._small, small, self._other, strict=True):
            mean.lerp_(grad, 1 - BETA1)
            square.lerp_(grad.square(), 1 - BETA2)
            root = (square / (1 - BETA2**self._step)).sqrt() + EPSILON
            to -= lr * (mean / (1 - BETA1**self._step)) / root


def _safe(side: Tensor) -> Tensor:
    """Of full rank, whatever the gradients are."""
    size = side.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    eye = torch.eye(side.shape[-1])
    return torch.where(size > TINY, side / size.clamp_min(TINY), eye) + 1e-6 * eye


def _basis(side: Tensor) -> Tensor:
    return torch.linalg.eigh(_safe(side)).eigenvectors.flip(-1)
