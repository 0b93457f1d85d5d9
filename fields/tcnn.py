"""tiny-cuda-nn where it is installed: for perceptrons that are too large for our own kernels.

It computes in half precision. Nothing of ours needs it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .levels import Encoding
from .network import Network
from .tcnn_params import params_of

WIDTHS = (16, 32, 64, 128)  # Neurons of a FullyFusedMLP.
OTYPES = ("HashGrid", "DenseGrid")


@functools.cache
def module() -> Any:
    """The module `tinycudann`, or a string that says why it cannot be imported.

    Without a GPU of its liking the import ends in OSError, not in ImportError.
    """
    try:
        return importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:
        return f"tinycudann: {error}"


def suits(encoding: Encoding, weights: Sequence[Tensor]) -> bool:
    """Is there a FullyFusedMLP of this shape behind a grid of this kind?"""
    neurons = len(weights[0])
    equal = all(len(w) == neurons for w in weights[:-1])
    whole = encoding.base_resolution == int(encoding.base_resolution)
    return encoding.otype in OTYPES and whole and len(weights) > 1 and equal and neurons in WIDTHS


def network(encoding: Encoding, table: Tensor, weights: Sequence[Tensor]) -> Any:
    """A tinycudann.NetworkWithInputEncoding [N, n] -> [N, out] of the same parameters."""
    config = encoding.config() | {"base_resolution": int(encoding.base_resolution)}
    perceptron = {
        "otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None",
        "n_neurons": len(weights[0]), "n_hidden_layers": len(weights) - 1,
    }  # fmt: skip
    theirs = module().NetworkWithInputEncoding(encoding.dims, len(weights[-1]), config, perceptron)
    ours = params_of(Network(encoding, table, tuple(weights)))
    if theirs.params.shape != ours.shape:
        raise ValueError(
            f"tinycudann: expected {len(ours)} parameters, got {list(theirs.params.shape)}"
        )
    with torch.no_grad():
        theirs.params.copy_(ours)
    return theirs


def evaluate(
    encoding: Encoding, table: Tensor, weights: Sequence[Tensor], points: Tensor
) -> Tensor | None:
    """[out, N] at points [N, n] on CUDA; None where it is not installed or has no such network."""
    if isinstance(module(), str) or not suits(encoding, weights):
        return None
    with torch.no_grad():
        return network(encoding, table, weights)(points).float().T.contiguous()
