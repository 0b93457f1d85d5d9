"""Write PlayCanvas compressed PLY: 16 bytes a Gaussian, one byte an SH coefficient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compressed_ply import CHUNK_ROWS, PACKED
from .limits import BYTE_OPACITY, Limits
from .model import SplatModel
from .pack import alpha_bytes, drop_one, morton_order, stored_values
from .unpack import SH_C0

SCALE_LIMIT = 20.0  # Of the logarithm, either way: one absurd Gaussian would spoil its chunk.
LIMITS = Limits(
    sh_degree=3,
    ranges={
        "scales": (-SCALE_LIMIT, SCALE_LIMIT),
        "opacities": BYTE_OPACITY,
        "shN": (-4.0, 4.0),
    },
)
CELLS = 1 << 21
STRIP = 1 << 16
BOUNDS = (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))


def write_compressed(model: SplatModel, *, sort: bool | None = None) -> bytes:
    """The model as compressed PLY, chunks of 256 Gaussians along a Morton curve.

    `sort` says whether to put them in that order; by default unless the model was read from such a
    file: cut into the same chunks again, it loses nothing more. The format rounds positions, scales
    and colours between the bounds of their chunk, SH to steps of 1/32 within -4 to 4, and clips
    logarithms of scales to -20 to 20. Raises ValueError for SH degree 4 and non-finite values.
    """
    values = stored_values(model, "compressed PLY")
    if model.extra.get("source_format") != "compressed ply" if sort is None else sort:
        order = _curve_order(values["means"])
        values = {name: value[order] for name, value in values.items()}
    rgb = np.float32(0.5) + np.float32(SH_C0) * values["sh0"][:, 0]
    tables = [values["means"], values["scales"].clip(-SCALE_LIMIT, SCALE_LIMIT), rgb]
    low, high = (_chunk_bounds(tables, pick) for pick in (np.minimum, np.maximum))
    chunk = np.concatenate([x for pair in zip(low, high, strict=True) for x in pair], axis=1)
    means, scales, color = (_between(*parts) for parts in zip(tables, low, high, strict=True))
    three, largest = drop_one(values["quats"], 1023)
    vertex = np.stack(
        [
            _packed(means * (2047, 1023, 2047), (11, 10, 11)),
            _packed(np.column_stack([largest, three]), (2, 10, 10, 10)),
            _packed(scales * (2047, 1023, 2047), (11, 10, 11)),
            _packed(np.column_stack([255 * color, alpha_bytes(values["opacities"])]), (8,) * 4),
        ],
        axis=1,
    )
    rest = _rest_bytes(values["shN"])
    head = _header(len(model), rest.shape[1], model.antialiased)
    return head + chunk.astype("<f4").tobytes() + vertex.astype("<u4").tobytes() + rest.tobytes()


def _header(n: int, n_rest: int, antialiased: bool) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0"]
    if antialiased:
        lines.append("comment SplatRenderMode: mip")
    lines.append(f"element chunk {-(-n // CHUNK_ROWS)}")
    names = [f"{end}_{axis}" for axes in BOUNDS for end in ("min", "max") for axis in axes]
    lines += [f"property float {name}" for name in names]
    lines.append(f"element vertex {n}")
    lines += [f"property uint {name}" for name in PACKED]
    if n_rest:
        lines.append(f"element sh {n}")
        lines += [f"property uchar f_rest_{i}" for i in range(n_rest)]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def _curve_order(means: NDArray[np.float32]) -> NDArray[np.int64]:
    """Along the Morton curve of contracted positions: an outlier makes no cell coarse but its own.

    The contraction is sign(d) ln(1 + |d| / r) around the median, r the median of the largest |d|.
    """
    if not len(means):
        return np.zeros(0, np.int64)
    offset = means - np.median(means, axis=0).astype(np.float64)
    radius = float(np.median(np.abs(offset).max(1))) or 1.0
    flat = np.sign(offset) * np.log1p(np.abs(offset) / radius)
    low = flat.min(0)
    span = float((flat.max(0) - low).max()) or 1.0
    cells = np.minimum((flat - low) * (CELLS / span), CELLS - 1)
    return morton_order(cells.astype(np.uint32))


def _chunk_bounds(tables: list[NDArray[np.float32]], pick: np.ufunc) -> list[NDArray[np.float32]]:
    """The least or largest values of each chunk, for every table [N, 3]."""
    starts = np.arange(0, len(tables[0]), CHUNK_ROWS)
    return [pick.reduceat(table, starts, axis=0) if len(starts) else table for table in tables]


def _between(
    values: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Where values [N, 3] lie between the bounds of their chunk: 0 to 1, 0 where these agree."""
    span = high.astype(np.float64) - low
    rows = np.arange(len(values)) // CHUNK_ROWS
    return (values - low.astype(np.float64)[rows]) / np.where(span > 0, span, 1)[rows]


def _packed(fields: NDArray, bits: tuple[int, ...]) -> NDArray[np.uint32]:
    """[N] of fields [N, k], each rounded, the first one in the highest bits."""
    packed = np.zeros(len(fields), np.uint32)
    for column, width in zip(fields.T, bits, strict=True):
        packed = packed << np.uint32(width) | np.floor(column + 0.5).astype(np.uint32)
    return packed


def _rest_bytes(rest: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[N, 3K] channel-major: the nearest of the 256 values that the reader has."""
    n, k, _ = rest.shape
    out = np.empty((n, 3 * k), np.uint8)
    for start in range(0, n if k else 0, STRIP):
        x = 256 * (rest[start : start + STRIP].astype(np.float64) / 8 + 0.5)
        steps = np.floor(x.clip(1, 254.5))  # b stands for b + 1/2, but 0 for 0 and 255 for 256.
        steps[x < 0.75], steps[x > 255.25] = 0, 255
        out[start : start + STRIP] = steps.transpose(0, 2, 1).reshape(len(x), 3 * k)
    return out
