"""An encoding and the small network behind it: the function that every field is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from . import _native
from .encoding import LazyAdam, backend_of, encode, new_table
from .levels import Encoding

CHUNK = 1 << 12  # Points whose activations stay in the cache.
BATCH = 1 << 17  # Points encoded together.
WEIGHT_RATE = 0.5  # Of the table's learning rate.
MAX_LAYERS, MAX_NEURONS = _native.MAX_LAYERS, _native.MAX_NEURONS


@dataclass(frozen=True)
class Network:
    """Features of an encoding through a perceptron with rectifiers and no biases.

    Attributes:
        encoding: the levels.
        table: [rows, F] float32.
        weights: matrices [out, in] float32, at least one; the first has as many columns as the
            encoding has features.
    """

    encoding: Encoding
    table: Tensor
    weights: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shape = (self.encoding.rows, self.encoding.features)
        if tuple(self.table.shape) != shape:
            raise ValueError(f"table: expected {list(shape)}, got {list(self.table.shape)}")
        check_widths([self.encoding.width, *(len(w) for w in self.weights)])
        columns = self.encoding.width
        for i, weight in enumerate(self.weights):
            if weight.ndim != 2 or weight.shape[1] != columns:
                raise ValueError(f"weights {i}: expected [N, {columns}], got {list(weight.shape)}")
            columns = len(weight)

    @property
    def float_bytes(self) -> int:
        """At 4 bytes a parameter."""
        return 4 * (self.table.numel() + sum(w.numel() for w in self.weights))

    def tensors(self) -> dict[str, Tensor]:
        return {"table": self.table} | {f"mlp/{i}": w for i, w in enumerate(self.weights)}

    def __call__(self, points: Tensor) -> Tensor:
        """[out, N] float32 at points [N, n] in [0, 1]; without gradients."""
        with torch.no_grad():
            if points.device.type == "cuda":
                return self._on_cuda(points)
            parts = [
                perceptron(encode(self.encoding, part, self.table), self.weights)
                for part in points.split(BATCH)
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _on_cuda(self, points: Tensor) -> Tensor:
        """One kernel of ours or, for larger perceptrons, of tiny-cuda-nn; else one and products."""
        from . import network_cuda, tcnn

        parts = (self.encoding, self.table, self.weights, points)
        found = network_cuda.evaluate(backend_of(points.device), *parts)
        if found is None:
            found = tcnn.evaluate(*parts)
        if found is None:
            found = layers(encode(self.encoding, points, self.table), self.weights)[-1]
        return found

    def to(self, device: torch.device | str) -> Network:
        """The same network on another device."""
        weights = tuple(w.to(device) for w in self.weights)
        return Network(self.encoding, self.table.to(device), weights)


def check_widths(widths: Sequence[int]) -> None:
    """Raises ValueError for layers that no network here has."""
    if not 2 <= len(widths) <= MAX_LAYERS + 1 or not all(1 <= w <= MAX_NEURONS for w in widths):
        raise ValueError(
            f"network: expected 1 to {MAX_LAYERS} layers of 1 to {MAX_NEURONS} neurons, "
            f"got {list(widths)[:10]}"
        )


def new_weights(widths: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Matrices for layers of these widths, uniform as Glorot and Bengio 2010 have it."""
    check_widths(widths)
    rng = torch.Generator().manual_seed(seed)
    return tuple(
        torch.empty(rows, columns).uniform_(-1, 1, generator=rng) * math.sqrt(6 / (rows + columns))
        for columns, rows in pairwise(widths)
    )


def layers(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """The input [in, N] and the output of each layer, rectified but for the last."""
    found = [x]
    for weight in weights[:-1]:
        found.append((weight @ found[-1]).relu_())
    return [*found, weights[-1] @ found[-1]]


def perceptron(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[out, N] of inputs [in, N]: the last of `layers`, without gradients, on the CPU."""
    out = torch.empty(len(weights[-1]), x.shape[1])
    rows = [w.detach().contiguous() for w in weights]
    _native.perceptron(rows, x.detach().contiguous(), out, torch.get_num_threads())
    return out


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    return (slice(i, min(i + size, count)) for i in range(0, count, size or 1))


def network_copy(encoding: Encoding, table: Tensor, weights: Sequence[Tensor]) -> Network:
    """A network on the CPU that does not change with these tensors."""
    copies = [t.detach().to("cpu", copy=True) for t in (table, *weights)]
    return Network(encoding, copies[0], tuple(copies[1:]))


class Trainer:
    """Fits a network to a loss whose slope with respect to its outputs is known.

    Attributes:
        encoding: the levels. table, weights: what is being learned.
    """

    def __init__(
        self, encoding: Encoding, widths: Sequence[int], seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.encoding, self.table = encoding, new_table(encoding, seed, device)
        weights = new_weights([encoding.width, *widths], seed)
        self.weights = tuple(weight.to(device) for weight in weights)
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        self._lazy = LazyAdam(encoding, self.table)
        self._is_new = True  # No gradient of the next step has been added yet.
        self._adam = torch.optim.Adam(self.weights, betas=(0.9, 0.99), eps=1e-15)

    @property
    def network(self) -> Network:
        """A copy of what has been learned so far, on the CPU."""
        return network_copy(self.encoding, self.table, self.weights)

    def add_gradients(
        self, loss: Callable[[Tensor, tuple[Tensor, ...]], Tensor], table: Tensor | None = None
    ) -> None:
        """Add those of a loss of table and weights, by autograd, to what the next step moves.

        Args:
            loss: of a table [rows, F] and matrices.
            table: look features up here, as where the gradient goes straight through rounding.
        """
        parts = [self.table if table is None else table, *self.weights]
        rows, *weights = (part.detach().requires_grad_() for part in parts)
        found = torch.autograd.grad(loss(rows, tuple(weights)), [rows, *weights])
        self._begin()
        self._lazy.add(found[0])
        for weight, gradient in zip(self.weights, found[1:], strict=True):
            assert weight.grad is not None
            weight.grad += gradient

    def _begin(self) -> None:
        """Forget the gradients of the last step, once."""
        if self._is_new:
            for weight in self.weights:
                assert weight.grad is not None
                weight.grad.zero_()
        self._is_new = False

    def step(
        self, points: Tensor, slope: Callable[[Tensor, slice], Tensor], rate: float,
        table: Tensor | None = None,
    ) -> None:  # fmt: skip
        """One step of Adam at points [N, n].

        Args:
            points: [N, n] in [0, 1].
            slope: of outputs [out, M] of the points in a slice, the gradient of the loss.
            rate: learning rate of the table; that of the weights is half of it.
            table: look features up here, as where the gradient goes straight through rounding.
        """
        features = encode(self.encoding, points, self.table if table is None else table)
        upstream = torch.empty_like(features)
        self._begin()
        whole = points.device.type == "cuda"  # A GPU wants more at a time than a cache holds.
        for part in chunks(len(points), len(points) if whole else CHUNK):
            values = layers(features[:, part], self.weights)
            upstream[:, part] = self._back(values, slope(values[-1], part))
        for group in self._adam.param_groups:
            group["lr"] = WEIGHT_RATE * rate
        self._adam.step()
        self._lazy.update(points, upstream, rate)
        self._is_new = True

    def _back(self, values: list[Tensor], gradient: Tensor) -> Tensor:
        """Adds to the weights' gradients; returns that of the features."""
        for i in reversed(range(len(self.weights))):
            weight = self.weights[i]
            assert weight.grad is not None
            weight.grad.addmm_(gradient, values[i].T)
            gradient = weight.T @ gradient
            if i:
                gradient = torch.ops.aten.threshold_backward(gradient, values[i], 0)
        return gradient


def cosine_rate(step: int, steps: int, rate: float, end: float = 0.02) -> float:
    """The learning rate of a step: from `rate` down to `end` times it, along half a cosine."""
    return rate * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1))))
