"""Parameters of tiny-cuda-nn modules as networks and back, without tiny-cuda-nn.

A `NetworkWithInputEncoding` with a grid and a `FullyFusedMLP` keeps one flat tensor `params`: the
weight matrices first, row by row, inputs and outputs padded to 16, then the levels of the table.
Levels and rows are laid out as here (`Encoding`), hash included. Read from its sources, tested
without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from .levels import Encoding
from .network import Network

MULTIPLE = 16  # Of a FullyFusedMLP's outputs, and of what it takes in.
LATTICE = "grid"  # tiny-cuda-nn has no other.


def table_of(params: Tensor, encoding: Encoding) -> Tensor:
    """[rows, F] float32 of the parameters [rows * F] of an `Encoding` module. Raises ValueError."""
    _check_lattice(encoding)
    return _sized(params, encoding.rows * encoding.features).reshape(-1, encoding.features)


def network_of(
    params: Tensor, encoding: Encoding, *, neurons: int, hidden: int, outputs: int
) -> Network:
    """The network of the parameters of a `NetworkWithInputEncoding`.

    Args:
        params: one dimension, float32 or float16.
        encoding: of a grid.
        neurons: n_neurons of the FullyFusedMLP.
        hidden: its n_hidden_layers.
        outputs: n_output_dims.

    Raises:
        ValueError: parameters of another number, or a module that is laid out in another way.
    """
    shapes = _shapes(encoding, [neurons] * hidden, outputs)
    matrices = sum(rows * columns for rows, columns in shapes)
    flat = _sized(params, matrices + encoding.rows * encoding.features)
    weights = _cut(flat[:matrices], shapes)
    weights[0] = weights[0][:, : encoding.width]
    weights[-1] = weights[-1][:outputs]
    table = table_of(flat[matrices:], encoding)
    return Network(encoding, table.clone(), tuple(w.clone() for w in weights))


def matrices_of(params: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """The matrices [out, in] of a FullyFusedMLP of these widths, all padded, in its parameters."""
    shapes = [(rows, columns) for columns, rows in pairwise(widths)]
    return _cut(_sized(params, sum(rows * columns for rows, columns in shapes)), shapes)


def _cut(flat: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    parts = flat.split([rows * columns for rows, columns in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def params_of(network: Network) -> Tensor:
    """The flat float32 parameters of a network whose hidden layers are of one width.

    Raises ValueError for a network that no FullyFusedMLP is like.
    """
    widths = [len(weight) for weight in network.weights]
    shapes = _shapes(network.encoding, widths[:-1], widths[-1])
    padded = [
        functional.pad(
            weight.detach().float(), (0, columns - weight.shape[1], 0, rows - len(weight))
        )
        for weight, (rows, columns) in zip(network.weights, shapes, strict=True)
    ]
    return torch.cat([part.flatten() for part in (*padded, network.table)])


def _shapes(encoding: Encoding, hidden: list[int], outputs: int) -> list[tuple[int, int]]:
    _check_lattice(encoding)
    if not hidden or set(hidden) - {16, 32, 64, 128} or len(set(hidden)) > 1:
        raise ValueError(f"network: expected layers of 16, 32, 64 or 128 neurons, got {hidden}")
    first, last = (-(-n // MULTIPLE) * MULTIPLE for n in (encoding.width, outputs))
    return [(rows, columns) for columns, rows in pairwise([first, *hidden, last])]


def _check_lattice(encoding: Encoding) -> None:
    if encoding.lattice != LATTICE:
        raise ValueError(f"encoding: expected a HashGrid or DenseGrid, got {encoding.otype}")


def _sized(params: Tensor, count: int) -> Tensor:
    if params.ndim != 1 or len(params) != count:
        raise ValueError(f"params: expected [{count}], got {list(params.shape)}")
    return params.detach().cpu().float()
