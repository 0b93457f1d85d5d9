"""Which places of a radiance field's cube photographs can tell of, and which they do."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from .nerf import CELL_SIDE, Samples
from .occupancy import cell_of

VIEWS = 2  # That have to see a cell; what a single one sees can be at any distance.
NEAR = 0.05  # Edges of the cube, nearer than which a view counts for nothing.
FULL = 0.4  # Edges from a camera from which gradients count in full.
ENOUGH = 1 << 17  # Rays that tell which cells anything is seen of.
FAINT = 0.01  # Share of a ray's light that is nothing, at most.
FAINT_OF_MEAN = 1.0


def seen_cells(cameras: Cameras, low: tuple[float, float, float], edge: float) -> Tensor:
    """[64^3] bool, cells with a middle that at least two of the cameras see, not all too near."""
    side = edge / CELL_SIDE
    axes = [x + side * (torch.arange(CELL_SIDE) + 0.5) for x in low]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    middles = torch.stack([x.flatten(), y.flatten(), z.flatten()])
    count = torch.zeros(CELL_SIDE**3, dtype=torch.int32)
    for viewmat, K in zip(cameras.viewmats, cameras.Ks, strict=True):
        x, y, depth = viewmat[:3, :3] @ middles + viewmat[:3, 3:]
        u = K[0, 0] * x + K[0, 2] * depth
        v = K[1, 1] * y + K[1, 2] * depth
        # A cell that is cut by the picture's border is seen.
        across, down = K[0, 0] * side, K[1, 1] * side
        inside = (u > -across) & (u < cameras.width * depth + across)
        inside &= (v > -down) & (v < cameras.height * depth + down)
        count += inside & (depth > NEAR * edge)
    return count >= min(VIEWS, len(cameras))


def far_enough(samples: Samples, origins: Tensor) -> Tensor:
    """[M] what gradients of samples of rays from [R, 3] are multiplied with, less near cameras.

    Philip and Deschaintre 2023: the square of the distance, up to 1. A place is in as many rays as
    it is near, so that without this things first grow right before cameras, and stay.
    """
    away = (samples.points - origins[samples.ray]) / FULL
    return away.square().sum(1).clamp_max(1)


class Shown:
    """The most of any ray's light that came from each cell.

    Attributes:
        rays: how many there were.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._most = torch.zeros(CELL_SIDE**3, device=device)
        self.rays = 0

    def add(self, samples: Samples, weights: Tensor, rays: int) -> None:
        """Take in samples of rays with their shares [M] of the rays' light."""
        self._most.scatter_reduce_(0, cell_of(samples.points), weights, "amax")
        self.rays += rays

    @property
    def enough(self) -> bool:
        """Whether more rays would tell little."""
        return self.rays >= ENOUGH

    @property
    def cells(self) -> Tensor:
        """[64^3] bool, those of which something was seen, and their neighbours."""
        met = self._most[self._most > 0]
        mean = float(met.mean()) if len(met) else 0.0
        grid = self._most.reshape(1, 1, CELL_SIDE, CELL_SIDE, CELL_SIDE)
        around = torch.nn.functional.max_pool3d(grid, 3, stride=1, padding=1).flatten()
        return around > min(FAINT, FAINT_OF_MEAN * mean)
