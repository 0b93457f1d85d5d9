"""INRIA's PLY of trained Gaussians, read by column name and written in its usual order."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .compressed_ply import is_compressed, read_compressed
from .limits import Limits
from .model import SplatModel, check_room
from .ply_header import PlyHeader, open_bytes, parse_header

BLOCK_ROWS = 8192  # 2 MB of SH3 rows: column copies stay in the cache.
REST_COUNTS = (0, 9, 24, 45, 72)
# A 2-D Gaussian (Huang et al. 2024) has no third axis: one constant, so that it codes to nothing.
FLAT_SCALE = float(np.log(1e-6))
MIP_COMMENTS = ("splatrendermode: mip", "antialiased 1", "antialiased: 1")
LIMITS = Limits(finite=False)
COLUMNS = {
    "means": ("x", "y", "z"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
    "scales": ("scale_0", "scale_1", "scale_2"),
    "opacities": ("opacity",),
    "sh0": ("f_dc_0", "f_dc_1", "f_dc_2"),
}


def read_ply(source: str | Path | bytes | memoryview, *, name: str | None = None) -> SplatModel:
    """Read a PLY of 3-D or 2-D Gaussians, plain or PlayCanvas-compressed, from a path or bytes.

    Columns go by name, any order; others are ignored. The SH degree follows from the count of
    f_rest columns (0, 9, 24, 45, 72). 2-D Gaussians get scale_2 = ln(1e-6) and extra["flat"].
    Raises ValueError in one line naming the file (`name` for bytes) and what is wrong.
    """
    file, data = open_bytes(source, name)
    header = parse_header(data, file)
    if is_compressed(header):
        return read_compressed(header, data)
    n_rest = check_columns(header)
    header.check_size(len(data))
    vertex = header.element("vertex")
    check_room(vertex.count if vertex else 0, n_rest // 3, file)
    if header.mappable("vertex"):
        rows = header.rows("vertex", data)
    else:
        rows = _read_by_plyfile(header, data)
    return _gather(header, rows, n_rest, data.obj)


def write_ply(model: SplatModel) -> bytes:
    """The model in INRIA's layout: binary little-endian floats, zero normals, any SH degree."""
    return b"".join(ply_blocks(model))


def ply_blocks(model: SplatModel) -> Iterator[bytes]:
    """The bytes of `write_ply` piece by piece, so that a large model is never held twice."""
    yield ply_head(len(model), model.shN.shape[1], model.antialiased)
    yield from ply_rows(model)


def ply_head(count: int, rest: int, antialiased: bool) -> bytes:
    """The header for `count` rows of colours with so many coefficients beside DC."""
    names = ["x", "y", "z", "nx", "ny", "nz", *COLUMNS["sh0"]]
    names += [f"f_rest_{i}" for i in range(3 * rest)]
    names += ["opacity", *COLUMNS["scales"], *COLUMNS["quats"]]
    lines = ["ply", "format binary_little_endian 1.0"]
    if antialiased:
        lines.append("comment SplatRenderMode: mip")
    lines.append(f"element vertex {count}")
    lines += [f"property float {name}" for name in names]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def ply_rows(model: SplatModel) -> Iterator[bytes]:
    """The rows that follow the header."""
    rest = model.shN.shape[1]
    for start in range(0, len(model), BLOCK_ROWS):
        part = model[start : start + BLOCK_ROWS]
        stored = {key: value.detach().cpu().float() for key, value in part.tensors().items()}
        columns = [
            stored["means"],
            torch.zeros(len(part), 3),
            stored["sh0"][:, 0],
            stored["shN"].transpose(1, 2).reshape(len(part), 3 * rest),
            stored["opacities"][:, None],
            stored["scales"],
            stored["quats"],
        ]
        yield torch.cat(columns, dim=1).numpy().astype("<f4", copy=False).tobytes()


def check_columns(header: PlyHeader) -> int:
    """The count of f_rest columns; ValueError when the file does not hold Gaussians."""
    vertex = header.element("vertex")
    codes = vertex.codes() if vertex else {}
    needed = [c for group in COLUMNS.values() for c in group if c != "scale_2"]
    missing = [c for c in needed if c not in codes]
    if missing and {"x", "y", "z"} <= set(codes) and "opacity" not in codes:
        raise ValueError(
            f"{header.file}: a point cloud, not Gaussians: it lacks {', '.join(missing)}"
        )
    if missing:
        raise ValueError(f"{header.file}: PLY lacks vertex properties {', '.join(missing)}")
    n_rest = sum(c.startswith("f_rest_") for c in codes)
    rest = [f"f_rest_{i}" for i in range(n_rest)]
    if n_rest not in REST_COUNTS or any(c not in codes for c in rest):
        raise ValueError(
            f"{header.file}: expected f_rest_0.. in number 0, 9, 24, 45 or 72, got {n_rest}"
        )
    assert vertex is not None
    for prop in vertex.properties:
        wanted = prop.name in needed or prop.name in rest or prop.name == "scale_2"
        if wanted and (prop.length_code or not prop.code.startswith("f")):
            kind = "a list" if prop.length_code else prop.code
            raise ValueError(f"{header.file}: expected a float property {prop.name}, got {kind}")
    return n_rest


def _gather(header: PlyHeader, rows: np.ndarray, n_rest: int, file: object) -> SplatModel:
    """Copy the named columns, block by block: each column alone would walk the file 59 times.

    Pages of a memory-mapped `file` are let go behind the block, else they stay in memory too.
    """
    n, flat = len(rows), "scale_2" not in (rows.dtype.names or ())
    shapes = {
        "means": (n, 3),
        "quats": (n, 4),
        "scales": (n, 3),
        "opacities": (n, 1),
    }
    out = {key: np.empty(shape, np.float32) for key, shape in shapes.items()}
    colors = np.empty((n, 1 + n_rest // 3, 3), np.float32)
    out["sh0"] = colors[:, 0]
    rest = [f"f_rest_{i}" for i in range(n_rest)]
    with np.errstate(over="ignore"):  # A double beyond float32 becomes inf: sanitize's task.
        for start in range(0, n, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            part = rows[block]
            for key, names in COLUMNS.items():
                known = names[:2] if flat and key == "scales" else names
                _copy(part, known, out[key][block])
            if flat:
                out["scales"][block, 2] = FLAT_SCALE
            if n_rest:  # Channel after channel in the file.
                by_channel = colors[block, 1:].transpose(0, 2, 1)
                for channel in range(3):
                    k = n_rest // 3
                    _copy(part, rest[channel * k : (channel + 1) * k], by_channel[:, channel])
            if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                file.madvise(mmap.MADV_DONTNEED, 0, header.offset + start * rows.itemsize)
    extra = {"source_format": "ply", **({"flat": True} if flat else {})}
    return SplatModel(
        means=torch.from_numpy(out["means"]),
        quats=torch.from_numpy(out["quats"]),
        scales=torch.from_numpy(out["scales"]),
        opacities=torch.from_numpy(out["opacities"][:, 0]),
        sh0=torch.from_numpy(colors)[:, :1],
        shN=torch.from_numpy(colors)[:, 1:],
        antialiased=any(comment.lower() in MIP_COMMENTS for comment in header.comments),
        extra=extra,
    )


def _copy(rows: np.ndarray, names: Sequence[str], out: np.ndarray) -> None:
    """Copy columns to out [rows, names]: at once, where they lie side by side and are alike."""
    table: Any = rows.dtype.fields
    fields = [table[name] for name in names]
    code, first = fields[0][:2]
    size = code.itemsize
    if all((kind, at) == (code, first + i * size) for i, (kind, at, *_) in enumerate(fields)):
        row = (len(rows), len(names)), (rows.dtype.itemsize, size)
        out[:, : len(names)] = np.lib.stride_tricks.as_strided(rows[names[0]], *row)
        return
    for j, name in enumerate(names):
        out[:, j] = rows[name]


def _read_by_plyfile(header: PlyHeader, data: memoryview) -> np.ndarray:
    """The vertex rows of an ascii file, or of one with lists before its vertices."""
    import plyfile

    try:
        elements = plyfile.PlyData.read(io.BytesIO(data))
        return elements["vertex"].data
    except Exception as error:  # A parser of others, fed with hostile bytes.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{header.file}: PLY not readable: {reason or type(error).__name__}"
        ) from None
