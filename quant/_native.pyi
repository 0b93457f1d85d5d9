"""Stub of the compiled coder (quant/native/module.cpp); twins in `_reference*.py`."""

from numpy import float32, float64, int8, int32, uint8, uint32, uint64
from numpy.typing import NDArray

def encode_ints(
    symbols: NDArray[int32],
    scale: NDArray[int32],
    context: NDArray[uint8],
    neighbors: NDArray[int32],
    limits: NDArray[int32],
) -> bytes: ...
def decode_ints(
    data: bytes,
    channels: int,
    scale: NDArray[int32],
    context: NDArray[uint8],
    neighbors: NDArray[int32],
    limits: NDArray[int32],
) -> NDArray[int32]: ...
def quantise_predicted(
    wanted: NDArray[int32],
    scale: NDArray[int32],
    neighbors: NDArray[int32],
    side: NDArray[int32],
    weights: NDArray[int32],
    fill: NDArray[int32],
    round: int,
    bias: int,
) -> tuple[NDArray[int32], NDArray[int32]]: ...
def reconstruct_predicted(
    symbols: NDArray[int32],
    scale: NDArray[int32],
    neighbors: NDArray[int32],
    side: NDArray[int32],
    weights: NDArray[int32],
    fill: NDArray[int32],
    bias: int,
) -> NDArray[int32]: ...
def encode_octree(codes: NDArray[uint64], depth: int) -> bytes: ...
def decode_octree(data: bytes, depth: int, count: int) -> NDArray[uint64]: ...
def neighbors(codes: NDArray[uint64], depth: int, k: int) -> NDArray[int32]: ...
def pack_bits(values: NDArray[uint32], widths: NDArray[uint8]) -> bytes: ...
def unpack_bits(data: bytes, widths: NDArray[uint8]) -> NDArray[uint32]: ...
def morton_codes(cells: NDArray[uint32]) -> NDArray[uint64]: ...
def morton_cells(codes: NDArray[uint64]) -> NDArray[uint32]: ...
def apply_basis(
    values: NDArray[int32], basis: NDArray[float64], offset: NDArray[float64]
) -> NDArray[float32]: ...
def apply_bytes(
    values: NDArray[int32],
    basis: NDArray[int8],
    factor: float,
    out: NDArray[float32],
    first: int,
) -> None: ...
def exp(x: NDArray[float64]) -> NDArray[float64]: ...
def log(x: NDArray[float64]) -> NDArray[float64]: ...
def sincos(x: NDArray[float64]) -> NDArray[float64]: ...
def quaternions(square: NDArray[float64], roll: NDArray[float64]) -> NDArray[float64]: ...
def crc32c(data: bytes) -> int: ...
