"""Training through the rounding of a file, its bytes weighed against the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from . import codec, tables
from .levels import Encoding

FADE = 0.95  # Of the error from one step to the next.
FLOOR = (
    0.05  # Of a level's mean magnitude, in steps: a symbol among none but zeros still has a cost.
)
NEPERS = 10 / math.log(10)  # dB for each natural unit of an error.


@dataclass
class Rounding:
    """What parameters become in a file, and what its bits are worth.

    Attributes:
        encoding, used, steps: of the file.
        rate_db: dB of the training error that a kilobyte is worth; 0: rounding alone.
    """

    encoding: Encoding
    used: codec.Used
    steps: codec.Steps
    rate_db: float
    _error: float = field(default=math.nan, init=False)
    _mask: Tensor = field(init=False)
    _step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._mask = torch.cat([torch.from_numpy(u) for u in self.used])[:, None]
        sizes = torch.tensor([level.rows for level in self.encoding.level])
        self._step = torch.tensor(self.steps.table).repeat_interleave(sizes)[:, None]

    def table(self, table: Tensor) -> Tensor:
        """The table [rows, F] that decoding gives."""
        return codec.rounded_table(self.encoding, table, self.steps)

    def matrices(self, weights: Sequence[Tensor], steps: Sequence[float]) -> list[Tensor]:
        """Weights as decoding gives them; gradients go straight through."""
        return [
            weight + (rounded - weight).detach()
            for weight, rounded in zip(weights, tables.rounded(weights, steps), strict=True)
        ]

    def slope(self, table: Tensor, error: float) -> Tensor:
        """Gradient [rows, F] of the rate, in units of the training error.

        Of a prior of whole rows, in proportion to (1 + sum |q| / b)^-(F + 1): heavy tails around
        zero, for symbols q of a level whose mean magnitude is b. A row of zeros is told by one
        flag: what joins a row that is paid for already costs less than what starts one.

        Args:
            table: what is being learned, not rounded.
            error: the mean squared error of this step.
        """
        seen = self._error if math.isfinite(self._error) else error
        self._error = FADE * seen + (1 - FADE) * error
        worth = self.rate_db / NEPERS * self._error / 8000  # Of one bit.
        symbols = table / self._step
        size = symbols.abs()
        of_row = size.sum(1, keepdim=True)
        ends, scales = self.encoding.first_rows, []
        for first, end in pairwise(ends):
            part = size[first:end][self._mask[first:end, 0]]
            spread = float(part.round().mean()) if len(part) else 0.0
            scales.append(torch.full((end - first, 1), max(spread, FLOOR)))
        power = self.encoding.features + 1
        bits = power / math.log(2) / (torch.cat(scales) + of_row)  # For each unit of |q|.
        return self._mask * symbols.sign() * bits * (worth / self._step)
