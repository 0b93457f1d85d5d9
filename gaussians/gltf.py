"""glTF and GLB with KHR_gaussian_splatting: float accessors of a point primitive."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray

from ..quant import budget
from .gltf_scene import Document, instances
from .limits import BYTE_OPACITY, Limits
from .model import SplatModel
from .pack import stored_values
from .spz import read_spz
from .turn import joined, moved
from .unpack import SH_C0, flip_axes, logit

EXTENSION = "KHR_gaussian_splatting"
SPZ_EXTENSION = "KHR_gaussian_splatting_compression_spz_2"  # A draft: read, not written.
MAGIC, JSON_CHUNK, BIN_CHUNK = b"glTF", b"JSON", b"BIN\0"
TO_RDF = (-1, -1, 1)  # glTF is LUF: x left, y up, z to the front.
REST = {0: 0, 1: 3, 2: 8, 3: 15}
FLOAT, ARRAY_BUFFER, POINTS = 5126, 34962, 0
BLOCK_ROWS = 1 << 16
# Nodes may show a mesh many times: what they make of a file is bounded by its size.
ROOM_FLOOR, ROOM_RATIO, MOST_PARTS = 64 << 20, 100, 10_000
LIMITS = Limits(sh_degree=3, ranges={"opacities": BYTE_OPACITY, "scales": (-87.0, 88.0)})


def read_gltf(source: str | Path | bytes, *, name: str | None = None) -> SplatModel:
    """Read all Gaussians of a .glb or .gltf, from a path or bytes, where its nodes place them.

    Raises ValueError in one line naming the file and what is wrong.
    """
    file = name or (str(source) if not isinstance(source, bytes) else "glTF")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    folder = None if isinstance(source, bytes) else Path(source).parent
    text, binary = _chunks(data, file) if data.startswith(MAGIC) else (data, None)
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: glTF JSON not readable: {reason:.120}") from None
    if not isinstance(root, dict):
        raise ValueError(f"{file}: glTF JSON: expected an object")
    document = Document(root, file, lambda index: _buffer(root, index, binary, folder, file))
    parts, taken, room = [], 0, max(ROOM_FLOOR, ROOM_RATIO * len(data))
    for mesh, place in instances(document):
        for primitive in document.objects(mesh, "primitives"):
            if (
                isinstance(primitive.get("extensions"), dict)
                and EXTENSION in primitive["extensions"]
            ):
                part = _primitive(document, primitive)
                room -= part.float_bytes
                taken += part.float_bytes
                budget.check(taken, f"{file}: glTF")
                if room < 0 or len(parts) >= MOST_PARTS:
                    raise ValueError(
                        f"{file}: glTF: its nodes repeat too much of {len(data)} bytes"
                    )
                parts.append(moved(part, *place, file))
    if not parts:
        raise ValueError(f"{file}: glTF: none of its nodes has a primitive of {EXTENSION}")
    return flip_axes(joined(parts, {"source_format": "gltf"}), TO_RDF)


def _chunks(data: bytes, file: str) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB."""
    version, length = struct.unpack_from("<II", data, 4) if len(data) >= 12 else (0, 0)
    if version != 2 or length > len(data):
        raise ValueError(
            f"{file}: GLB: expected version 2 and {len(data)} bytes, got {version} and {length}"
        )
    found, start = {}, 12
    while start + 8 <= length:
        size, kind = struct.unpack_from("<I4s", data, start)
        if start + 8 + size > length:
            raise ValueError(f"{file}: truncated GLB: chunk {kind!r} of {size} bytes at {start}")
        found.setdefault(kind, data[start + 8 : start + 8 + size])
        start += 8 + size
    if JSON_CHUNK not in found:
        raise ValueError(f"{file}: GLB has no JSON chunk")
    return found[JSON_CHUNK], found.get(BIN_CHUNK)


def _buffer(
    root: dict[str, Any], index: int, binary: bytes | None, folder: Path | None, file: str
) -> bytes:
    """A buffer's bytes: the GLB's own, those of a data URI, or a file beside the .gltf."""
    uri = root["buffers"][index].get("uri")
    if uri is None and index == 0 and binary is not None:
        return binary
    where = f"{file}: glTF buffer {index}"
    if not isinstance(uri, str):
        raise ValueError(f"{where}: expected a uri or a binary chunk")
    if uri.startswith("data:"):
        try:
            return base64.b64decode(uri.partition(",")[2], validate=True)
        except ValueError:
            raise ValueError(f"{where}: its data URI is not base64") from None
    relative = PurePosixPath(unquote(uri))
    bad = relative.is_absolute() or ".." in relative.parts or "\\" in uri or ":" in uri
    if bad or "\0" in str(relative):
        raise ValueError(f"{where}: names a file outside its folder: {uri!r:.80}")
    if folder is None or not (folder / relative).is_file():
        raise ValueError(f"{where}: file {uri!r:.80} is missing")
    return (folder / relative).read_bytes()


def _primitive(document: Document, primitive: dict[str, Any]) -> SplatModel:
    """The Gaussians of a primitive in glTF's axes."""
    extension = primitive["extensions"][EXTENSION]
    nested = extension.get("extensions") if isinstance(extension, dict) else None
    if isinstance(nested, dict) and isinstance(nested.get(SPZ_EXTENSION), dict):
        view = document.view(nested[SPZ_EXTENSION].get("bufferView"))
        return flip_axes(read_spz(view, name=f"{document.file}: {SPZ_EXTENSION}"), TO_RDF)
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict):
        raise ValueError(f"{document.file}: glTF primitive: expected an object of attributes")
    means = document.accessor(attributes.get("POSITION"), "VEC3", None, "POSITION")
    n = len(means)

    def read(semantic: str, kind: str) -> NDArray[np.float32]:
        key = f"{EXTENSION}:{semantic}"
        return document.accessor(attributes.get(key), kind, n, semantic)

    scales, quats = read("SCALE", "VEC3"), read("ROTATION", "VEC4")[:, [3, 0, 1, 2]]
    degree = max(d for d in REST if d == 0 or f"{EXTENSION}:SH_DEGREE_{d}_COEF_0" in attributes)
    names = [f"SH_DEGREE_{d}_COEF_{i}" for d in range(degree + 1) for i in range(2 * d + 1)]
    if f"{EXTENSION}:{names[0]}" in attributes:
        colors = np.stack([read(key, "VEC3") for key in names], axis=1)
    else:  # A primitive may have plain colours alone.
        plain = document.accessor(attributes.get("COLOR_0"), None, n, "COLOR_0")[:, :3]
        colors = ((plain - np.float32(0.5)) / np.float32(SH_C0))[:, None]
    with np.errstate(all="ignore"):  # A scale of 0 or less is sanitize's task.
        logs, opacities = np.log(scales), logit(read("OPACITY", "SCALAR")[:, 0])
    colors = torch.from_numpy(np.ascontiguousarray(colors, np.float32))
    return SplatModel(
        means=torch.from_numpy(np.ascontiguousarray(means)),
        quats=torch.from_numpy(np.ascontiguousarray(quats)),
        scales=torch.from_numpy(logs),
        opacities=torch.from_numpy(opacities),
        sh0=colors[:, :1],
        shN=colors[:, 1:],
    )


def glb_blocks(model: SplatModel) -> Iterator[bytes]:
    """The model as a binary glTF in pieces: float attributes of one point primitive.

    Rotations are written at unit length, scales linear, in glTF's axes (LUF). Raises ValueError for
    SH degree 4 and for values that are not finite.
    """
    root, body = _document(model)
    text = json.dumps(root, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    size = root["buffers"][0]["byteLength"]
    yield struct.pack("<4sII", MAGIC, 2, 12 + 8 + len(text) + 8 + size)
    yield struct.pack("<I4s", len(text), JSON_CHUNK) + text
    yield struct.pack("<I4s", size, BIN_CHUNK)
    yield from body


def gltf_blocks(model: SplatModel) -> Iterator[bytes]:
    """The same as glTF in JSON, the numbers in a data URI: for people who want to look inside."""
    root, body = _document(model)
    data = base64.b64encode(b"".join(body)).decode()
    root["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{data}"
    yield json.dumps(root, separators=(",", ":")).encode()


def _document(model: SplatModel) -> tuple[dict[str, Any], Iterator[bytes]]:
    values = stored_values(flip_axes(model, TO_RDF), "glTF")
    n = len(model)
    if not n:
        raise ValueError("glTF count: expected at least 1 Gaussian, got 0")
    columns: dict[str, tuple[str, int]] = {
        "POSITION": ("means", 3),
        f"{EXTENSION}:ROTATION": ("quats", 4),
        f"{EXTENSION}:SCALE": ("scales", 3),
        f"{EXTENSION}:OPACITY": ("opacities", 1),
    }
    for d in range(model.sh_degree + 1):
        columns |= {f"{EXTENSION}:SH_DEGREE_{d}_COEF_{i}": (f"{d * d + i}", 3)
                    for i in range(2 * d + 1)}  # fmt: skip
    views, accessors, start = [], [], 0
    for width in (width for _, width in columns.values()):
        size = 4 * n * width
        views.append({"buffer": 0, "byteOffset": start, "byteLength": size, "target": ARRAY_BUFFER})
        kind = "SCALAR" if width == 1 else f"VEC{width}"
        accessors.append(
            {"bufferView": len(accessors), "componentType": FLOAT, "count": n, "type": kind}
        )
        start += size
    accessors[0] |= {
        f"{side}": getattr(values["means"], side)(0).tolist() for side in ("min", "max")
    }
    extension = {
        "kernel": "ellipse", "colorSpace": "srgb_rec709_display",
        "projection": "perspective", "sortingMethod": "cameraDistance",
    }  # fmt: skip
    primitive = {
        "mode": POINTS,
        "attributes": {key: index for index, key in enumerate(columns)},
        "extensions": {EXTENSION: extension},
    }
    root = {
        "asset": {"version": "2.0", "generator": "fieldpress"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    }
    return root, _body(values, [source for source, _ in columns.values()], n)


def _body(values: dict[str, NDArray[np.float32]], sources: list[str], n: int) -> Iterator[bytes]:
    for source in sources:
        for start in range(0, n, BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            yield _column(values, source, part).astype("<f4").tobytes()


def _column(values: dict[str, NDArray[np.float32]], source: str, part: slice) -> NDArray:
    if source.isdecimal():  # The number of an SH coefficient.
        index = int(source)
        return values["shN"][part, index - 1] if index else values["sh0"][part, 0]
    column = values[source][part].astype(np.float64)
    if source == "quats":
        norm = np.linalg.norm(column, axis=1, keepdims=True)
        unit = np.where(norm > 0, column / np.where(norm > 0, norm, 1), [1.0, 0, 0, 0])
        return unit[:, [1, 2, 3, 0]]
    if source == "scales":
        return np.exp(column)
    if source == "opacities":
        with np.errstate(over="ignore"):  # A logit of -1000 is an opacity of exactly 0.
            return 1 / (1 + np.exp(-column))
    return column
