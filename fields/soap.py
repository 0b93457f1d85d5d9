"""SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo, for small matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETA1, BETA2, BETA_BASIS = 0.95, 0.95, 0.95
EVERY = 10  # Steps between refinements of the basis.
EPSILON = 1e-10
TINY = 1e-24  # Squares of gradients below it say nothing.


class Soap:
    """Moves flat parameters: matrices in one padded batch, by plain Adam what else there is.

    Args:
        flat: [P] parameters, changed in place.
        matrices: places in `flat` of each matrix [rows, columns].
    """

    def __init__(self, flat: Tensor, matrices: Sequence[Tensor]) -> None:
        self._flat, count = flat, len(flat)
        rows, columns = max(len(m) for m in matrices), max(m.shape[1] for m in matrices)
        shape = (len(matrices), rows, columns)
        self._at = torch.full(shape, count)  # Padding is one behind the end, where a zero stands.
        for to, matrix in zip(self._at, matrices, strict=True):
            to[: matrix.shape[0], : matrix.shape[1]] = matrix
        others = torch.ones(count + 1)
        others[self._at.flatten()] = 0
        self._others = others[:count]
        self._mean, self._square = torch.zeros(shape), torch.zeros(shape)
        self._plain_mean, self._plain_square = torch.zeros(count), torch.zeros(count)
        self._sides = [torch.zeros(len(matrices), n, n) for n in (rows, columns)]
        self._bases: list[Tensor] = []
        self._zero, self._step = torch.zeros(1), 0

    def step(self, grad: Tensor, lr: float) -> None:
        """One step along a gradient [P]."""
        g = torch.cat([grad, self._zero])[self._at]
        for side, square in zip(self._sides, (g @ g.mT, g.mT @ g), strict=True):
            side.lerp_(square, 1 - BETA_BASIS)
        if not self._bases:
            self._bases = [_basis(side) for side in self._sides]
        self._step += 1
        left, right = self._bases
        self._mean.lerp_(g, 1 - BETA1)
        self._square.lerp_((left.mT @ g @ right).square(), 1 - BETA2)
        move = left @ self._ratio(left.mT @ self._mean @ right, self._square) @ right.mT
        total = torch.zeros(len(grad) + 1)
        total[self._at] = move
        self._plain_mean.lerp_(grad, 1 - BETA1)
        self._plain_square.lerp_(grad.square(), 1 - BETA2)
        plain = self._ratio(self._plain_mean, self._plain_square) * self._others
        self._flat.sub_(total[:-1].add_(plain), alpha=lr)
        if self._step % EVERY == 0:
            self._bases = [
                torch.linalg.qr(_safe(side) @ basis).Q
                for side, basis in zip(self._sides, self._bases, strict=True)
            ]

    def _ratio(self, mean: Tensor, square: Tensor) -> Tensor:
        root = (square / (1 - BETA2**self._step)).sqrt_().add_(EPSILON)
        return mean / root.mul_(1 - BETA1**self._step)


def _safe(side: Tensor) -> Tensor:
    """Of full rank, whatever the gradients are."""
    size = side.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    eye = torch.eye(side.shape[-1])
    return torch.where(size > TINY, side / size.clamp_min(TINY), eye) + 1e-6 * eye


def _basis(side: Tensor) -> Tensor:
    return torch.linalg.eigh(_safe(side)).eigenvectors.flip(-1)
