"""PlayCanvas compressed PLY: 16 bytes a Gaussian, bounds for every 256 of them."""

from __future__ import annotations

import numpy as np
import torch

from .model import SplatModel, check_room
from .ply_header import PlyHeader
from .unpack import SH_C0, logit, restore_largest

CHUNK_ROWS = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
REST_COUNTS = (0, 9, 24, 45)
MOST_REST = REST_COUNTS[-1]


def is_compressed(header: PlyHeader) -> bool:
    """Whether a PLY is of this kind: by its `chunk` element and packed columns, not its name."""
    vertex = header.element("vertex")
    return header.element("chunk") is not None and bool(
        vertex and "packed_position" in vertex.codes()
    )


def read_compressed(header: PlyHeader, data: memoryview) -> SplatModel:
    """Decode a compressed PLY (12 or 18 bounds a chunk, SH optional) of known header.

    Raises ValueError naming the file and the element that is missing, short or ill typed.
    """
    from .ply import MIP_COMMENTS  # That module imports this one.

    header.check_size(len(data))
    if not all(e.all_scalar for e in header.elements) or not header.byte_order:
        raise ValueError(f"{header.file}: compressed PLY: expected binary scalar properties only")
    _check_columns(header)
    vertex = header.element("vertex")
    check_room(vertex.count if vertex else 0, MOST_REST // 3, header.file)
    chunk = header.rows("chunk", data)
    packed = {name: header.rows("vertex", data)[name].astype(np.uint32) for name in PACKED}
    n = len(packed["packed_position"])
    if len(chunk) * CHUNK_ROWS < n:
        chunks = -(-n // CHUNK_ROWS)
        raise ValueError(
            f"{header.file}: compressed PLY: expected {chunks} chunks, got {len(chunk)}"
        )
    with np.errstate(all="ignore"):  # Non-finite bounds give non-finite values: sanitize's task.
        means = _lerp(chunk, _unpack_11_10_11(packed["packed_position"]), ("x", "y", "z"))
        scale_names = ("scale_x", "scale_y", "scale_z")
        scales = _lerp(chunk, _unpack_11_10_11(packed["packed_scale"]), scale_names)
        color = packed["packed_color"]
        rgb = np.stack([(color >> shift) & 255 for shift in (24, 16, 8)], axis=1) / np.float32(255)
        if "min_r" in (chunk.dtype.names or ()):  # Older files store the colour itself.
            rgb = _lerp(chunk, rgb, ("r", "g", "b"))
        sh0 = (rgb - np.float32(0.5)) / np.float32(SH_C0)
    return SplatModel(
        means=torch.from_numpy(means),
        quats=torch.from_numpy(_unpack_rotation(packed["packed_rotation"])),
        scales=torch.from_numpy(scales),
        opacities=torch.from_numpy(logit((color & 255) / 255)),
        sh0=torch.from_numpy(sh0[:, None, :].astype(np.float32)),
        shN=torch.from_numpy(_rest(header, data, n)),
        antialiased=any(comment.lower() in MIP_COMMENTS for comment in header.comments),
        extra={"source_format": "compressed ply"},
    )


def _check_columns(header: PlyHeader) -> None:
    vertex, chunk = header.element("vertex"), header.element("chunk")
    assert vertex is not None  # is_compressed has seen both.
    assert chunk is not None
    for name in PACKED:
        code = vertex.codes().get(name)
        if code not in ("u4", "i4"):
            raise ValueError(f"{header.file}: compressed PLY: expected uint {name}, got {code}")
    groups = [("x", "y", "z"), ("scale_x", "scale_y", "scale_z")]
    if "min_r" in chunk.codes():
        groups.append(("r", "g", "b"))
    for name in (f"{end}_{axis}" for group in groups for end in ("min", "max") for axis in group):
        code = chunk.codes().get(name)
        if code is None or not code.startswith("f"):
            raise ValueError(f"{header.file}: compressed PLY: expected float {name} a chunk")


def _unpack_11_10_11(packed: np.ndarray) -> np.ndarray:
    """[N] uint32 to [N, 3] float32 in [0, 1]."""
    parts = [(packed >> 21) / 2047, ((packed >> 11) & 1023) / 1023, (packed & 2047) / 2047]
    return np.stack(parts, axis=1).astype(np.float32)


def _lerp(chunk: np.ndarray, t: np.ndarray, axes: tuple[str, str, str]) -> np.ndarray:
    """[N, 3] between the bounds of each Gaussian's chunk."""
    low = np.stack([chunk[f"min_{axis}"] for axis in axes], axis=1).astype(np.float32)
    high = np.stack([chunk[f"max_{axis}"] for axis in axes], axis=1).astype(np.float32)
    low, high = (np.repeat(bound, CHUNK_ROWS, axis=0)[: len(t)] for bound in (low, high))
    return low * (1 - t) + high * t


def _unpack_rotation(packed: np.ndarray) -> np.ndarray:
    """Two bits say which of wxyz is the largest; ten bits each for the others, ascending."""
    three = np.stack([(packed >> shift) & 1023 for shift in (20, 10, 0)], axis=1)
    values = (three / 1023 - 0.5) * np.sqrt(2)
    return restore_largest(values.astype(np.float32), (packed >> 30).astype(np.int64))


def _rest(header: PlyHeader, data: memoryview, n: int) -> np.ndarray:
    """[N, K-1, 3] SH coefficients from the optional `sh` element (uchar, channel-major)."""
    element = header.element("sh")
    if element is None:
        return np.zeros((n, 0, 3), np.float32)
    names = [f"f_rest_{i}" for i in range(len(element.properties))]
    if len(names) not in REST_COUNTS or set(names) != set(element.codes()):
        raise ValueError(
            f"{header.file}: compressed PLY: expected 0, 9, 24 or 45 f_rest columns in element sh"
        )
    if element.count != n or set(element.codes().values()) - {"u1"}:
        raise ValueError(f"{header.file}: compressed PLY: expected {n} uchar rows in element sh")
    rows = header.rows("sh", data)
    levels = (np.arange(256) + 0.5) / 256  # Both ends are exact: 0 is -4, 255 is +4.
    levels[0], levels[255] = 0, 1
    values = ((levels - 0.5) * 8).astype(np.float32)
    rest = np.empty((n, len(names) // 3, 3), np.float32)
    for i, name in enumerate(names):
        channel, k = divmod(i, rest.shape[1])
        rest[:, k, channel] = values[rows[name]]
    return rest
