"""Integers to bytes and back, exactly: the typed face of the native coder.

Everything here is integer arithmetic, so that the same bytes give the same symbols on every
machine, compiler and thread count. The byte streams are specified in docs/format.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import _native

Int = NDArray[np.int32]
_NO_LIMITS = np.zeros(0, np.int32)


def _int32(x: NDArray) -> Int:
    return np.ascontiguousarray(x, np.int32)


def encode_ints(
    symbols: Int,
    scale: Int,
    context: NDArray[np.uint8],
    neighbors: Int,
    limits: Int | None = None,
) -> bytes:
    """Code an integer matrix row by row with context mixing.

    Args:
        symbols: [N, C], magnitudes below 2^24, small where the neighbours' are.
        scale: [N] in 1..2^24, what one symbol unit of a row is worth beside another row's.
        context: [N, 2], below 32, side information that the decoder has.
        neighbors: [N, k <= 8], earlier rows or -1.
        limits: [N] or None; channels from the limit on are zero and are not coded, the one
            before it is not zero.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    return _native.encode_ints(
        _int32(symbols), _int32(scale), np.ascontiguousarray(context, np.uint8), _int32(neighbors),
        _NO_LIMITS if limits is None else _int32(limits),
    )  # fmt: skip


def decode_ints(
    data: bytes,
    channels: int,
    scale: Int,
    context: NDArray[np.uint8],
    neighbors: Int,
    limits: Int | None = None,
) -> Int:
    """[N, C] int32: the inverse of `encode_ints`."""
    return _native.decode_ints(
        data, channels, _int32(scale), np.ascontiguousarray(context, np.uint8), _int32(neighbors),
        _NO_LIMITS if limits is None else _int32(limits),
    )  # fmt: skip


def quantise_predicted(
    wanted: Int,
    scale: Int,
    neighbors: Int,
    side: Int,
    weights: Int,
    fill: Int,
    round: int,
    bias: int,
) -> tuple[Int, Int]:
    """Symbols [N, C] of closed-loop linear prediction, and the values that a decoder restores.

    Args:
        wanted: [N, C] values, magnitudes up to 2^28.
        scale: [N] quantisation step of each row, in value units.
        neighbors: [N, k <= 8] earlier rows or -1.
        side: [N, S] values that the decoder has.
        weights: [C, k + P + S + 1] in 1/4096, for neighbours, the P channels before, `side`, 1.
        fill: [C] value of a neighbour that is not there.
        round: 1..64, the fraction of a step in 1/64 from which a magnitude goes up (32: nearest).
        bias: 0..31, how far in 1/64 of a step values are pulled back to the prediction.
    """
    return _native.quantise_predicted(
        _int32(wanted), _int32(scale), _int32(neighbors), _int32(side), _int32(weights),
        _int32(fill), round, bias,
    )  # fmt: skip


def reconstruct_predicted(
    symbols: Int, scale: Int, neighbors: Int, side: Int, weights: Int, fill: Int, bias: int
) -> Int:
    """[N, C] int32 values: the decoder's half of `quantise_predicted`."""
    return _native.reconstruct_predicted(
        _int32(symbols), _int32(scale), _int32(neighbors), _int32(side), _int32(weights),
        _int32(fill), bias,
    )  # fmt: skip


def encode_octree(codes: NDArray[np.uint64], depth: int) -> bytes:
    """Code sorted Morton codes [N] (repeats allowed) of `depth` <= 20 bits an axis."""
    return _native.encode_octree(np.ascontiguousarray(codes, np.uint64), depth)


def decode_octree(data: bytes, depth: int, count: int) -> NDArray[np.uint64]:
    """[count] sorted Morton codes; ValueError if the stream holds another number."""
    return _native.decode_octree(data, depth, count)


def causal_neighbors(codes: NDArray[np.uint64], depth: int, k: int) -> Int:
    """[N, k] for each sorted Morton code the nearest k before it, nearest first, else -1."""
    return _native.neighbors(np.ascontiguousarray(codes, np.uint64), depth, k)


def morton_codes(cells: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """[N] Morton codes of integer cells [N, 3] below 2^21; x is the lowest bit."""
    return _native.morton_codes(np.ascontiguousarray(cells, np.uint32))


def morton_cells(codes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """[N, 3] integer cells of Morton codes [N]."""
    return _native.morton_cells(np.ascontiguousarray(codes, np.uint64))


def pack_bits(values: NDArray[np.uint32], widths: NDArray[np.uint8]) -> bytes:
    """Concatenate the low `widths` bits (0..32) of each value, most significant bit first."""
    return _native.pack_bits(
        np.ascontiguousarray(values, np.uint32), np.ascontiguousarray(widths, np.uint8)
    )


def unpack_bits(data: bytes, widths: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """[N] values; ValueError unless `data` holds exactly the bits that the widths ask for."""
    return _native.unpack_bits(data, np.ascontiguousarray(widths, np.uint8))


def apply_basis(
    values: Int, basis: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float32]:
    """[N, E] float32 = offset [E] + values [N, D] times basis [D, E], bit-exact everywhere."""
    return _native.apply_basis(
        _int32(values),
        np.ascontiguousarray(basis, np.float64),
        np.ascontiguousarray(offset, np.float64),
    )


def apply_bytes(
    values: Int, basis: NDArray[np.int8], factor: float, out: NDArray[np.float32], first: int
) -> None:
    """Write `factor` times values [N, D] times basis [D, E] into out [N, F] from column `first` on.

    Bit-exact everywhere: the sum is one of integers, the product and the result are rounded once
    each, to double and to single precision.
    """
    _native.apply_bytes(
        _int32(values), np.ascontiguousarray(basis, np.int8), float(factor), out, first
    )


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    return _native.crc32c(data)
