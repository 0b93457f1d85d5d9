"""Encodings on CUDA: the same calls as `_native` has for the CPU, as launches on torch's stream."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import torch
from torch import Tensor

from ..render import cuda
from . import _native

LIBRARY = cuda.Library(
    Path(__file__).with_name("native"),
    {
        name: (name,)
        for name in ("encode", "scatter", "slope", "adam", "network", "march", "radiance")
    },
)
BLOCK = 256  # Threads of a block, as in render/native/cuda_frame.h.
WAVES = 8  # Blocks a processor of kernels that go on until nothing is left.
STORAGES = {torch.float32: 0, torch.float16: 1, torch.int8: 2, torch.uint8: 3}  # grid.h
ALIGNMENT = 16  # Bytes: rows are read four floats at a time.
Numbers = tuple[float, float, float, float, float]


class Backend:
    """Encodings, their gradients and their optimiser as `_native` has them, on one CUDA device."""

    def __init__(self, kernels: cuda.Kernels) -> None:
        self.kernels = kernels
        self._grids: dict[bytes, Tensor] = {}

    def encode(
        self, grid: _native.Grid, table: Tensor, steps: Tensor | None, points: Tensor,
        along: Tensor | None, out: Tensor, threads: int,
    ) -> None:  # fmt: skip
        """`_native.encode`, not along directions."""
        _expect_none(along)
        table = aligned(table)
        self._each(
            "encode", grid, table.dtype, len(points), self.grid(grid), table.data_ptr(),
            0 if steps is None else steps.data_ptr(), points.data_ptr(), len(points),
            out.data_ptr(),
        )  # fmt: skip

    def scatter(
        self, grid: _native.Grid, points: Tensor, along: Tensor | None, upstream: Tensor,
        grad: Tensor, touched: Tensor, moments: tuple[Tensor, Tensor, Tensor] | None,
        step: Numbers | None, threads: int,
    ) -> None:  # fmt: skip
        """`_native.scatter`, by atomics: the last bits of two runs differ. Marks nothing."""
        _expect_none(along)
        self._each(
            "scatter", grid, torch.float32, len(points), self.grid(grid), points.data_ptr(),
            len(points), upstream.data_ptr(), grad.data_ptr(),
        )  # fmt: skip
        if moments is not None and step is not None:
            self.adam(moments, step, grad, touched, threads)

    def slope(
        self, grid: _native.Grid, table: Tensor, points: Tensor, along: Tensor | None,
        upstream: Tensor, dx: Tensor, threads: int,
    ) -> None:  # fmt: skip
        """`_native.slope`, of half tables too."""
        _expect_none(along)
        table = aligned(table)
        if len(points):
            self.kernels.launch(
                "slope", -(-len(points) // BLOCK), BLOCK, self.grid(grid), table.data_ptr(),
                points.data_ptr(), len(points), upstream.data_ptr(), dx.data_ptr(),
                macros=kind(grid, table.dtype),
            )  # fmt: skip

    def adam(
        self, moments: tuple[Tensor, Tensor, Tensor], step: Numbers, grad: Tensor,
        touched: Tensor, threads: int,
    ) -> None:  # fmt: skip
        """`_native.adam`; looks at every gradient: to mark lines would cost more."""
        pairs = struct.unpack("<3q", struct.pack("<5f4x", *step))
        blocks = min(WAVES * self.kernels.processors, -(-grad.numel() // BLOCK))
        at = [tensor.data_ptr() for tensor in (*moments, grad)]
        self.kernels.launch("adam", blocks, BLOCK, *at, grad.numel(), *pairs)

    def _each(
        self, kernel: str, grid: _native.Grid, dtype: torch.dtype, count: int, *arguments: int
    ) -> None:
        """A thread a point and level."""
        if count:
            blocks = grid.levels * -(-count // BLOCK)
            self.kernels.launch(kernel, blocks, BLOCK, *arguments, macros=kind(grid, dtype))

    def grid(self, grid: _native.Grid) -> int:
        """The address of a grid on the device, where it stays."""
        if grid.data not in self._grids:
            self._grids[grid.data] = cuda.uploaded(grid.data, self.kernels.device)
        return self._grids[grid.data].data_ptr()


def _expect_none(along: Tensor | None) -> None:
    if along is not None:
        raise ValueError("points: second derivatives need CPU tensors, got CUDA ones")


def kind(grid: _native.Grid, dtype: torch.dtype) -> cuda.Macros:
    """What a kernel is compiled for."""
    return (
        ("FIELDPRESS_DIMS", grid.dims),
        ("FIELDPRESS_FEATURES", grid.features),
        ("FIELDPRESS_LATTICE", grid.lattice),
        ("FIELDPRESS_STORAGE", STORAGES[dtype]),
    )


def aligned(table: Tensor) -> Tensor:
    """The table, copied where it begins in the middle of 16 bytes."""
    return table.clone() if table.data_ptr() % ALIGNMENT else table


@functools.cache
def backend_on(device: torch.device) -> Backend:
    """The one backend of a CUDA device; ValueError with one sentence where it cannot be used."""
    return Backend(cuda.kernels_on(device, LIBRARY))
