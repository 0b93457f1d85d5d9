"""A radiance field as a torch module, for programs that own the optimiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..fields.appearance import over, with_opacity
from ..fields.checkpoint import encoding_numbers
from ..fields.encoding import encode, new_table
from ..fields.levels import Encoding
from ..fields.nerf import GEOMETRY, NerfField, composite, march, shade
from ..fields.network import Network, layers, new_weights
from ..fields.occupancy import CELLS_EVERY, FIRST_LOOKS, Occupancy

MIDDLE = 0.5  # Of a step, where its sample lies but in training.


class Radiance(nn.Module):
    """`NerfField` under training: the same parameters, by names that `field_of` knows.

    Args:
        encoding: of three dimensions.
        neurons: width of the hidden layers.
        low: corner [3] of the cube; edge: its edge, world units.
        background: sRGB of what lies behind.
        seed: of what it begins with and of all random places.
    """

    table: nn.Parameter
    density: Tensor
    cells: Tensor
    cube: Tensor
    background: Tensor

    def __init__(
        self,
        encoding: Encoding,
        neurons: int,
        low: Tensor,
        edge: float,
        background: tuple[float, float, float],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoding, self._rng = encoding, torch.Generator().manual_seed(seed + 1)
        self.table = nn.Parameter(new_table(encoding, seed))
        head = [NerfField.head_inputs, neurons, neurons, 3]
        weights = new_weights([encoding.width, neurons, GEOMETRY], seed)
        self.weights = nn.ParameterList(weights)
        self.head = nn.ParameterList(new_weights(head, seed + 1))
        occupancy = Occupancy()
        self.register_buffer("density", occupancy.density)
        self.register_buffer("cells", occupancy.cells)
        self.register_buffer("cube", torch.cat([low, low.new_tensor([edge])]).float())
        self.register_buffer("background", torch.tensor(background))
        self.register_buffer("layout", encoding_numbers(encoding))

    def look(self, step: int) -> None:
        """Look where there may be something, when it is time."""
        if step % CELLS_EVERY or not step:
            return
        occupancy = Occupancy(self.cells.device)
        occupancy.density, occupancy.cells = self.density, self.cells
        weights = tuple(w.detach() for w in self.weights)
        network = Network(self.encoding, self.table.detach(), weights)
        early = step < FIRST_LOOKS * CELLS_EVERY
        occupancy.look(lambda points: network(points)[0], self._rng, everywhere=early)
        self.density, self.cells = occupancy.density, occupancy.cells

    def forward(self, origins: Tensor, rays_d: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [R, 3] and opacities [R, 1] of rays: origins in world units, unit directions."""
        origins = ((origins - self.cube[:3]) / self.cube[3]).contiguous()
        count = len(origins)
        jitter = torch.full((count,), MIDDLE)
        if self.training:
            jitter = torch.rand(count, generator=self._rng)
        found = march(origins, rays_d.contiguous(), self.cells, jitter.to(origins.device))
        raw = layers(encode(self.encoding, found.points, self.table), tuple(self.weights))[-1]
        sigmas, shades = shade(raw, rays_d, found.ray, tuple(self.head))
        values = composite(sigmas, with_opacity(shades), found, count)
        return over(values, self.background), values[:, 3:]
