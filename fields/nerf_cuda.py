"""Radiance fields on CUDA: samples along rays, and whole pictures in one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _native
from .encoding_cuda import BLOCK, WAVES, Backend, aligned, kind
from .network_cuda import MOST_FLOATS, layers_of, network_macros, packed

if TYPE_CHECKING:
    from .nerf import NerfField

WARP = 32
DESK_FLOATS = 1 << 10  # Of shared memory, beside the weights (native/radiance.cu).


def march(
    backend: Backend, origins: Tensor, rays_d: Tensor, cells: Tensor, jitter: Tensor
) -> tuple[Tensor, Tensor]:
    """`nerf.march`: places [M, 3] and ray numbers [M]; waits for the device to tell M."""
    count, on = len(origins), origins.device
    if count == 0:
        return torch.empty(0, 3, device=on), torch.empty(0, dtype=torch.int64, device=on)
    blocks = -(-count // BLOCK)
    progress = torch.zeros(1 + blocks, dtype=torch.int64, device=on)
    points = torch.empty(count * _native.MARCH, 3, device=on)
    rays = torch.empty(count * _native.MARCH, dtype=torch.int64, device=on)
    inputs = [t.contiguous() for t in (origins, rays_d, cells, jitter)]
    at = [t.data_ptr() for t in inputs]
    backend.kernels.launch(
        "march", blocks, BLOCK, *at, count, progress.data_ptr(), points.data_ptr(), rays.data_ptr()
    )
    found = int(progress[-1]) & ((1 << 62) - 1)  # warp.h's CHAIN_VALUE.
    return points[:found], rays[:found]


def colors(backend: Backend, field: NerfField, origins: Tensor, rays_d: Tensor) -> Tensor | None:
    """[R, 3] colours of rays, in one launch; None for networks too large for that."""
    network, count = field.network, len(origins)
    shape = layers_of(network.encoding.width, network.weights)
    head = layers_of(field.head_inputs, field.head)
    if shape is None or head is None:
        return None
    weights = torch.cat([packed(network.weights), packed(field.head)])
    if len(weights) + DESK_FLOATS > MOST_FLOATS:
        return None
    out = torch.empty(count, 3, device=origins.device)
    if count:
        macros = kind(network.encoding.native, network.table.dtype)
        macros += network_macros(network.encoding, shape)
        macros += (("FIELDPRESS_HEAD_NEURONS", head[0]), ("FIELDPRESS_HEAD_HIDDEN", head[1]))
        blocks = min(WAVES * backend.kernels.processors, -(-count * WARP // BLOCK))
        parts = (origins.contiguous(), rays_d.contiguous(), field.cells.contiguous())
        at = [part.data_ptr() for part in parts]
        backend.kernels.launch(
            "radiance", blocks, BLOCK, backend.grid(network.encoding.native),
            aligned(network.table).data_ptr(), *at[:2], count, at[2], weights.data_ptr(),
            out.data_ptr(), macros=macros,
        )  # fmt: skip
    return out
