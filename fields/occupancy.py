"""Which cells of a radiance field's cube may hold something (Müller et al. 2022, section E.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .nerf import CELL_SIDE, STEP

CELLS_EVERY = 16  # Steps between looks.
FIRST_LOOKS = 8  # That go everywhere.
CELLS_AT_ONCE = 1 << 15
FADE = 0.9  # Of a cell's density from one look to the next.
OPAQUE = 0.01  # Optical depth of a step from which a cell counts.
LARGEST_LOG = 12  # Of a density, here.


class Occupancy:
    """Densities that were met in the cells of a cube, and which cells count.

    Attributes:
        density: [64^3] float32 per edge, x fastest.
        cells: [64^3] bool.
        allowed: [64^3] bool, others never count.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.density = torch.zeros(CELL_SIDE**3, device=device)
        self.cells = torch.ones(CELL_SIDE**3, dtype=torch.bool, device=device)
        self.allowed = self.cells

    def keep_to(self, cells: Tensor) -> None:
        """Let no cells count any more but these [64^3]."""
        self.allowed = self.allowed & cells.to(self.allowed.device)
        self.cells = self.cells & self.allowed

    def look(
        self,
        field: Callable[[Tensor], Tensor],
        rng: torch.Generator,
        *,
        everywhere: bool = False,
    ) -> None:
        """Measure the density of some cells, or of all, at a random place of each; mark cells.

        Args:
            field: logs of densities per edge [N] at places [N, 3] in the unit cube.
            rng: of places, on the CPU.
            everywhere: all cells.
        """
        count, on = len(self.cells), self.cells.device
        pick = torch.arange(count)
        if not everywhere:
            pick = torch.randint(count, (CELLS_AT_ONCE,), generator=rng)
        seen = field(cell_points(pick, rng).to(on)).clamp_max(LARGEST_LOG).exp()
        pick = pick.to(on)
        self.density[pick] = torch.maximum(FADE * self.density[pick], seen)
        thick = self.density * STEP > min(OPAQUE, float(self.density.mean()) * STEP)
        self.cells = thick & self.allowed


def cell_of(points: Tensor) -> Tensor:
    """[N] numbers of the cells of places [N, 3] in the unit cube."""
    x, y, z = (points.T * CELL_SIDE).long().clamp(0, CELL_SIDE - 1)
    return x + CELL_SIDE * (y + CELL_SIDE * z)


def cell_points(index: Tensor, rng: torch.Generator) -> Tensor:
    """[N, 3] a random place in each of the cells of these numbers."""
    x, y, z = index % CELL_SIDE, index // CELL_SIDE % CELL_SIDE, index // CELL_SIDE**2
    return (torch.stack([x, y, z], 1) + torch.rand(len(index), 3, generator=rng)) / CELL_SIDE
