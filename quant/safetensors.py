"""The safetensors container: a JSON header of names, types and shapes, then the plain bytes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Container, Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

HEADER_LIMIT = 100_000_000  # The reference's.
TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in TYPES.items()}
BLOCK_BYTES = 1 << 22


def read_tensors(data: bytes, *, name: str = "safetensors") -> tuple[dict[str, NDArray], dict]:
    """Arrays by name, which share the bytes of `data`, and the file's metadata of strings.

    BF16 becomes float32. Raises ValueError in one line naming the file and the tensor at fault.
    """
    header, start = _header(data, name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{name}: safetensors __metadata__: expected an object of strings")
    return {key: _tensor(data, start, key, entry, name) for key, entry in header.items()}, metadata


def _header(data: bytes, name: str) -> tuple[dict, int]:
    size = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    if not 2 <= size <= min(HEADER_LIMIT, len(data) - 8):
        raise ValueError(
            f"{name}: not safetensors, or cut short: a header of {size} in {len(data)} bytes"
        )
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: safetensors header is not JSON: {reason:.120}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{name}: safetensors header: expected an object")
    return header, 8 + size


def _tensor(data: bytes, start: int, key: str, entry: Any, name: str) -> NDArray:
    where = f"{name}: safetensors {key!r:.60}"
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (fields.get(k) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(kind, str) or (kind not in TYPES and kind != "BF16"):
        raise ValueError(f"{where}: expected a dtype such as F32, got {kind!r:.40}")
    if not (_naturals(shape, range(9)) and _naturals(offsets, (2,))):
        raise ValueError(f"{where}: expected a shape and two offsets, got {shape!r:.60}")
    dtype = np.dtype("<u2" if kind == "BF16" else TYPES[kind])
    count, (low, high) = math.prod(shape), offsets
    if high - low != count * dtype.itemsize or start + high > len(data):
        raise ValueError(
            f"{where}: expected {count * dtype.itemsize} bytes within {len(data) - start}, "
            f"got {low} to {high}"
        )
    flat = np.frombuffer(data, dtype, count, start + low) if count else np.zeros(0, dtype)
    if kind == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.reshape(shape)


def _naturals(value: Any, lengths: Container[int]) -> TypeGuard[list[int]]:
    numbers = isinstance(value, list) and len(value) in lengths
    return numbers and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def tensor_blocks(
    arrays: Mapping[str, NDArray], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """The file's bytes in pieces: float, integer or bool arrays by name, and strings.

    The header is padded to 8 bytes, as the reference does, so that readers may map the arrays.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, array in arrays.items():
        dtype = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
        start, end = end, end + array.nbytes
        header[key] = {
            "dtype": NAMES[dtype], "shape": list(array.shape), "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        rows = max(1, BLOCK_BYTES * max(1, len(array)) // max(1, array.nbytes)) if array.ndim else 1
        for start in range(0, max(1, len(array)) if array.ndim else 1, rows):
            part = array[start : start + rows] if array.ndim else array
            yield np.ascontiguousarray(part, array.dtype.newbyteorder("<")).tobytes()
