"""Whole networks on CUDA: encoding and perceptron of a point in one thread of one kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..render import cuda
from .encoding_cuda import BLOCK, WAVES, Backend, aligned, kind
from .levels import Encoding

MOST_NEURONS, MOST_OUTPUTS = 64, 16
MOST_FLOATS = (48 << 10) // 4  # Of shared memory that every GPU has.


def layers_of(inputs: int, weights: Sequence[Tensor]) -> tuple[int, int, int] | None:
    """Neurons, hidden layers and outputs of a perceptron that kernels are made for; else None.

    That is one or two hidden layers of equally many, up to 64, and up to 16 outputs, all of it
    within 48 KB.
    """
    hidden, outputs = len(weights) - 1, len(weights[-1])
    neurons = len(weights[0])
    if hidden not in (1, 2) or any(len(w) != neurons for w in weights[:-1]):
        return None
    wide = in_fours(neurons)
    floats = inputs * wide + (hidden - 1) * wide**2 + wide * in_fours(outputs)
    if wide > MOST_NEURONS or outputs > MOST_OUTPUTS or floats > MOST_FLOATS:
        return None
    return wide, hidden, outputs


def packed(weights: Sequence[Tensor]) -> Tensor:
    """Matrices [out, in] as native/perceptron.h reads them: transposed, rows of whole fours."""
    parts, rows = [], weights[0].shape[1]
    for weight in weights:
        columns = in_fours(len(weight))
        more = (0, columns - len(weight), 0, rows - weight.shape[1])
        parts.append(pad(weight.detach().float().T, more).flatten())
        rows = columns
    return torch.cat(parts)


def in_fours(count: int) -> int:
    return -(-count // 4) * 4


def evaluate(
    backend: Backend, encoding: Encoding, table: Tensor, weights: Sequence[Tensor], points: Tensor
) -> Tensor | None:
    """[out, N] of a network at points [N, n], in one launch; None for one too large for that."""
    shape = layers_of(encoding.width, weights)
    if shape is None:
        return None
    out = torch.empty(len(weights[-1]), len(points), device=points.device)
    if len(points):
        table, points, numbers = aligned(table), points.contiguous(), packed(weights)
        blocks = min(WAVES * backend.kernels.processors, -(-len(points) // BLOCK))
        backend.kernels.launch(
            "network", blocks, BLOCK, backend.grid(encoding.native), table.data_ptr(),
            points.data_ptr(), len(points), numbers.data_ptr(), out.data_ptr(),
            macros=kind(encoding.native, table.dtype) + network_macros(encoding, shape),
        )  # fmt: skip
    return out


def network_macros(encoding: Encoding, shape: tuple[int, int, int]) -> cuda.Macros:
    """What a kernel of this network is compiled for, beside the kind of its encoding."""
    return (
        ("FIELDPRESS_LEVELS", encoding.levels),
        ("FIELDPRESS_NEURONS", shape[0]),
        ("FIELDPRESS_HIDDEN", shape[1]),
        ("FIELDPRESS_OUTPUTS", shape[2]),
    )
