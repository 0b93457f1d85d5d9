"""The multiresolution encoding of points, differentiable, and the optimiser of its table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _native
from .levels import Encoding

LINE_BYTES = 64  # Of a cache.
INIT = 1e-4  # Uniform in +-INIT, as in tiny-cuda-nn.
Numbers = tuple[float, float, float, float, float]
PACKED = {torch.float32: 1, torch.float16: 1, torch.int8: 1, torch.uint8: 8}  # values an element


def new_table(encoding: Encoding, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """A table [rows, F] float32, uniform in +-1e-4; the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    table = _zeros(encoding.rows, encoding.features).uniform_(-INIT, INIT, generator=rng)
    return table.to(device)


def encode(
    encoding: Encoding, points: Tensor, table: Tensor, steps: Tensor | None = None
) -> Tensor:
    """Features of points (Müller et al. 2022, section 3), on the lattice of the encoding.

    Features come first, as tiny-cuda-nn keeps them: `W @ encode(...)` is a layer. Differentiable
    with respect to points and a float32 or float16 table, on the CPU twice, as losses of slopes
    need (Gropp et al. 2020); the gradient is constant within a simplex. On the CPU the same bits
    whatever the number of threads. All tensors lie on one device, the CPU or a CUDA GPU, which then
    does the work.

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
    on = points.device
    points = _checked("points", points, (points.shape[0] if points.ndim else 0, encoding.dims), on)
    per_element = PACKED.get(table.dtype)
    if per_element is None:
        raise ValueError(f"table: expected float32, float16, int8 or uint8, got {table.dtype}")
    shape = (encoding.rows, encoding.features)
    if per_element > 1:
        shape = (encoding.rows * encoding.features // per_element,)
    table = _checked("table", table, shape, on, table.dtype)
    if (steps is not None) != (table.dtype in (torch.int8, torch.uint8)):
        raise ValueError("steps: expected one a level with an integer table, and only there")
    if steps is not None:
        steps = _checked("steps", steps, (encoding.levels,), on).detach().contiguous()
    return _Encode.apply(encoding, points, table, steps)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, encoding: Encoding, points: Tensor, table: Tensor, steps: Tensor | None
    ) -> Tensor:
        ctx.encoding = encoding
        ctx.save_for_backward(points, table)
        return _features(encoding, points, table, steps, None)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:  # pyright: ignore
        points, table = ctx.saved_tensors
        if not table.dtype.is_floating_point:
            raise ValueError(f"table: expected float32 or float16 for gradients, got {table.dtype}")
        dx = grad = None
        if ctx.needs_input_grad[1]:
            dx = _Slope.apply(ctx.encoding, points, table, upstream)
        if ctx.needs_input_grad[2]:
            grad = _Scatter.apply(ctx.encoding, points, upstream)
        return None, dx, grad, None


class _Slope(torch.autograd.Function):
    """The gradient of points, [N, n]."""

    @staticmethod
    def forward(
        ctx: Any, encoding: Encoding, points: Tensor, table: Tensor, upstream: Tensor
    ) -> Tensor:
        ctx.encoding = encoding
        ctx.save_for_backward(points, table, upstream)
        return _slopes(encoding, points, table, upstream, None)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore
        ctx: Any, along: Tensor
    ) -> tuple[None, Tensor | None, Tensor | None, Tensor | None]:
        points, table, upstream = ctx.saved_tensors
        encoding, along = ctx.encoding, along.contiguous()
        dx = rows = features = None
        if ctx.needs_input_grad[1]:
            dx = torch.zeros_like(points)  # A simplex has the same slope all over.
            if encoding.lattice == "grid":
                dx = _slopes(encoding, points, table, upstream, along)
        if ctx.needs_input_grad[2]:
            rows = _scattered(encoding, points, upstream, along)
        if ctx.needs_input_grad[3]:
            features = _features(encoding, points, table, None, along)
        return None, dx, rows, features


class _Scatter(torch.autograd.Function):
    """The gradient of a table, [rows, F]."""

    @staticmethod
    def forward(ctx: Any, encoding: Encoding, points: Tensor, upstream: Tensor) -> Tensor:
        ctx.encoding = encoding
        ctx.save_for_backward(points, upstream)
        return _scattered(encoding, points, upstream, None)

    @staticmethod
    def backward(ctx: Any, table: Tensor) -> tuple[None, Tensor | None, Tensor | None]:  # pyright: ignore
        points, upstream = ctx.saved_tensors
        dx = features = None
        if ctx.needs_input_grad[1]:
            dx = _Slope.apply(ctx.encoding, points, table, upstream)
        if ctx.needs_input_grad[2]:
            features = _Encode.apply(ctx.encoding, points, table, None)
        return None, dx, features


# With `along` [N, n] weights are replaced by how they change along it, for second derivatives.
def _features(
    encoding: Encoding, points: Tensor, table: Tensor, steps: Tensor | None, along: Tensor | None
) -> Tensor:
    points, table = points.detach().contiguous(), table.detach().contiguous()
    out = torch.empty(encoding.width, len(points), device=points.device)
    backend_of(points.device).encode(
        encoding.native, table, steps, points, along, out, torch.get_num_threads()
    )
    return out


def _slopes(
    encoding: Encoding, points: Tensor, table: Tensor, upstream: Tensor, along: Tensor | None
) -> Tensor:
    points, rows = points.detach().contiguous(), table.detach().contiguous()
    backend, dx = backend_of(points.device), torch.empty(points.shape, device=points.device)
    if backend is _native:
        rows = rows.float()
    upstream = upstream.detach().contiguous()
    backend.slope(encoding.native, rows, points, along, upstream, dx, torch.get_num_threads())
    return dx


def _scattered(
    encoding: Encoding, points: Tensor, upstream: Tensor, along: Tensor | None
) -> Tensor:
    grad, touched = _room(encoding, points.device)
    backend_of(points.device).scatter(
        encoding.native, points.detach().contiguous(), along, upstream.detach().contiguous(),
        grad, touched, None, None, torch.get_num_threads(),
    )  # fmt: skip
    return grad


def backend_of(device: torch.device) -> Any:
    """What runs on a device: the native module, or the same calls in CUDA.

    Raises ValueError with one sentence where the device cannot be used.
    """
    if device.type == "cpu":
        return _native
    from . import encoding_cuda

    return encoding_cuda.backend_on(device)


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
        shape = (encoding.rows, encoding.features)
        self.table = _checked("table", table, shape, table.device)
        if not table.is_contiguous() or table.requires_grad:
            raise ValueError("table: expected a contiguous tensor without gradients of its own")
        self._backend = backend_of(table.device)
        self.grad, self._touched = _room(encoding, table.device)
        self._moments = (self.table, _zeros_like(table), _zeros_like(table))
        self._steps = 0

    def accumulate(self, points: Tensor, upstream: Tensor) -> None:
        """Add the gradient of features [levels * F, N] at points [N, n] to that of their rows."""
        self._scatter(points, upstream, None)

    def add(self, gradient: Tensor) -> None:
        """Add a gradient [rows, F] to that of the table; all of its rows count as touched."""
        self.grad += _checked("gradient", gradient, tuple(self.grad.shape), self.grad.device)
        self._touched.fill_(1)

    def step(self, rate: float) -> None:
        """Move what was touched by one step of learning rate `rate`, and forget the gradients."""
        self._backend.adam(
            self._moments, self._numbers(rate), self.grad, self._touched, torch.get_num_threads()
        )

    def update(self, points: Tensor, upstream: Tensor, rate: float) -> None:
        """`accumulate` and `step`, each level while its gradient is still in the cache."""
        self._scatter(points, upstream, self._numbers(rate))

    def _scatter(self, points: Tensor, upstream: Tensor, numbers: Numbers | None) -> None:
        on = self.table.device
        points = _checked("points", points, (len(points), self.encoding.dims), on)
        upstream = _checked("upstream", upstream, (self.encoding.width, len(points)), on)
        self._backend.scatter(
            self.encoding.native, points.detach().contiguous(), None,
            upstream.detach().contiguous(), self.grad, self._touched,
            None if numbers is None else self._moments, numbers, torch.get_num_threads(),
        )  # fmt: skip

    def _numbers(self, rate: float) -> Numbers:
        """What the kernel needs of a new step, in the order of its AdamStep."""
        s = self.settings
        self._steps += 1
        mean_bias, square_bias = 1 - s.beta1**self._steps, 1 - s.beta2**self._steps
        return rate / mean_bias, s.beta1, s.beta2, square_bias**0.5, s.epsilon


def _room(encoding: Encoding, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gradients of all rows; marks of the lines that have some, at which the CPU alone looks."""
    marks = torch.zeros(encoding.native.lines if device.type == "cpu" else 0, dtype=torch.uint8)
    if device.type == "cpu":
        return _zeros(encoding.rows, encoding.features), marks
    return torch.zeros(encoding.rows, encoding.features, device=device), marks


def _zeros_like(table: Tensor) -> Tensor:
    return _zeros(*table.shape) if table.device.type == "cpu" else torch.zeros_like(table)


def _zeros(*shape: int) -> Tensor:
    # numpy asks the system for huge pages, torch does not: rows are met at random. It does not
    # begin at a line of the cache, as neighbours that are to share one need.
    size = math.prod(shape)
    room = np.zeros(size + LINE_BYTES // 4, np.float32)
    first = -room.ctypes.data % LINE_BYTES // 4
    return torch.from_numpy(room[first : first + size].reshape(shape))


def _checked(
    name: str,
    value: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    if value.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: expected a CPU tensor or a CUDA one, got one on {value.device}")
    if value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if value.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype}, got {value.dtype}")
    return value
