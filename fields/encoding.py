"""The multiresolution encoding of points, differentiable, and the optimiser of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _native
from .levels import Encoding

INIT = 1e-4  # Uniform in +-INIT, as in tiny-cuda-nn.
Numbers = tuple[float, float, float, float, float]
PACKED = {torch.float32: 1, torch.float16: 1, torch.int8: 1, torch.uint8: 8}  # values an element


def new_table(encoding: Encoding, seed: int = 0) -> Tensor:
    """A table [rows, F] float32, uniform in +-1e-4; the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    return _zeros(encoding.rows, encoding.features).uniform_(-INIT, INIT, generator=rng)


def encode(
    encoding: Encoding, points: Tensor, table: Tensor, steps: Tensor | None = None
) -> Tensor:
    """Features of points (Müller et al. 2022, section 3), on the lattice of the encoding.

    Features come first, as tiny-cuda-nn keeps them: `W @ encode(...)` is a layer. Differentiable
    once with respect to points and a float32 table; the gradient is constant within a simplex.
    The same bits whatever the number of threads.

    Args:
        encoding: the levels.
        points: [N, n] float32 in [0, 1]; others count as the nearest point that is, NaN as 0.
        table: [rows, F] float32 or, for inference, float16, int8, or uint8 [rows * F / 8]: a bit a
            value, low bits first, where a one is +step and a zero -step.
        steps: [levels] float32 with an integer table: what a unit of each level is worth.

    Returns:
        [levels * F, N] float32.

    Raises:
        ValueError: a shape, dtype or device that does not fit, by argument.
    """
    points = _checked("points", points, (points.shape[0] if points.ndim else 0, encoding.dims))
    per_element = PACKED.get(table.dtype)
    if per_element is None:
        raise ValueError(f"table: expected float32, float16, int8 or uint8, got {table.dtype}")
    shape = (encoding.rows, encoding.features)
    if per_element > 1:
        shape = (encoding.rows * encoding.features // per_element,)
    table = _checked("table", table, shape, table.dtype)
    if (steps is not None) != (table.dtype in (torch.int8, torch.uint8)):
        raise ValueError("steps: expected one a level with an integer table, and only there")
    if steps is not None:
        steps = _checked("steps", steps, (encoding.levels,)).detach()
    return _Encode.apply(encoding, points, table, steps)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, encoding: Encoding, points: Tensor, table: Tensor, steps: Tensor | None
    ) -> Tensor:
        ctx.encoding = encoding
        ctx.save_for_backward(points, table)
        points, table = points.detach().contiguous(), table.detach().contiguous()
        out = torch.empty(encoding.width, len(points))
        _native.encode(encoding.native, table, steps, points, out, torch.get_num_threads())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:  # pyright: ignore
        points, table = ctx.saved_tensors
        encoding, threads = ctx.encoding, torch.get_num_threads()
        points, upstream = points.detach().contiguous(), upstream.contiguous()
        dx = grad = None
        if ctx.needs_input_grad[1]:
            if table.dtype != torch.float32:
                raise ValueError(f"table: expected float32 for gradients, got {table.dtype}")
            dx = torch.empty(points.shape)
            _native.slope(
                encoding.native, table.detach().contiguous(), points, upstream, dx, threads
            )
        if ctx.needs_input_grad[2]:
            grad = _zeros(*table.shape)
            touched = torch.zeros(encoding.native.lines, dtype=torch.uint8)
            _native.scatter(encoding.native, points, upstream, grad, touched, None, None, threads)
        return None, dx, grad, None


@dataclass(frozen=True)
class AdamSettings:
    """Adam (Kingma and Ba 2015) with instant-ngp's constants for tables."""

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-15


class LazyAdam:
    """Adam that visits only the rows that gradients touched; the others keep their moments.

    A parameter whose gradient is exactly 0 does not move, as with torch's SparseAdam and
    tiny-cuda-nn. Gradients are added where they stand, without a dense tensor for each step.

    Attributes:
        table: [rows, F] float32, changed in place by `step`.
        grad: [rows, F] what `accumulate` has added since the last step.
    """

    def __init__(
        self, encoding: Encoding, table: Tensor, settings: AdamSettings | None = None
    ) -> None:
        self.encoding, self.settings = encoding, settings or AdamSettings()
        self.table = _checked("table", table, (encoding.rows, encoding.features))
        if not table.is_contiguous() or table.requires_grad:
            raise ValueError("table: expected a contiguous tensor without gradients of its own")
        self.grad = _zeros(*table.shape)
        self._moments = (self.table, _zeros(*table.shape), _zeros(*table.shape))
        self._touched = torch.zeros(encoding.native.lines, dtype=torch.uint8)
        self._steps = 0

    def accumulate(self, points: Tensor, upstream: Tensor) -> None:
        """Add the gradient of features [levels * F, N] at points [N, n] to that of their rows."""
        self._scatter(points, upstream, None)

    def add(self, gradient: Tensor) -> None:
        """Add a gradient [rows, F] to that of the table; all of its rows count as touched."""
        self.grad += _checked("gradient", gradient, tuple(self.grad.shape))
        self._touched.fill_(1)

    def step(self, rate: float) -> None:
        """Move what was touched by one step of learning rate `rate`, and forget the gradients."""
        _native.adam(
            self._moments, self._numbers(rate), self.grad, self._touched, torch.get_num_threads()
        )

    def update(self, points: Tensor, upstream: Tensor, rate: float) -> None:
        """`accumulate` and `step`, each level while its gradient is still in the cache."""
        self._scatter(points, upstream, self._numbers(rate))

    def _scatter(self, points: Tensor, upstream: Tensor, numbers: Numbers | None) -> None:
        points = _checked("points", points, (len(points), self.encoding.dims))
        upstream = _checked("upstream", upstream, (self.encoding.width, len(points)))
        _native.scatter(
            self.encoding.native, points.detach().contiguous(), upstream.detach().contiguous(),
            self.grad, self._touched, None if numbers is None else self._moments, numbers,
            torch.get_num_threads(),
        )  # fmt: skip

    def _numbers(self, rate: float) -> Numbers:
        """What the kernel needs of a new step, in the order of its AdamStep."""
        s = self.settings
        self._steps += 1
        mean_bias, square_bias = 1 - s.beta1**self._steps, 1 - s.beta2**self._steps
        return rate / mean_bias, s.beta1, s.beta2, square_bias**0.5, s.epsilon


def _zeros(*shape: int) -> Tensor:
    # numpy asks the system for huge pages, torch does not: rows are met at random.
    return torch.from_numpy(np.zeros(shape, np.float32))


def _checked(
    name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    if value.device.type != "cpu":
        raise ValueError(f"{name}: expected a CPU tensor, got one on {value.device}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if value.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype}, got {value.dtype}")
    return value
