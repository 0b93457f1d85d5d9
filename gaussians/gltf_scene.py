"""The parts of a glTF document that hold Gaussians, every index and size checked: Khronos 2.0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
MOST_NODES, MOST_DEPTH = 100_000, 100

Place = tuple[NDArray[np.float64], NDArray[np.float64]]  # Linear part [3, 3] and shift [3].


@dataclass(frozen=True)
class Document:
    """A parsed glTF file.

    Attributes:
        root: its JSON object.
        file: what messages call it.
        buffer: the bytes of a buffer by its index, which exists.
    """

    root: dict[str, Any]
    file: str
    buffer: Callable[[int], bytes]

    def objects(self, holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
        """A list of objects, empty where there is none."""
        value = holder.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise ValueError(f"{self.file}: glTF {key}: expected a list of objects")
        return value

    def item(self, key: str, index: Any) -> dict[str, Any]:
        """The object of a top-level list that an index names."""
        items = self.objects(self.root, key)
        if type(index) is not int or not 0 <= index < len(items):
            raise ValueError(
                f"{self.file}: glTF {key}: expected an index below {len(items)}, got {index!r:.40}"
            )
        return items[index]

    def natural(self, holder: dict[str, Any], key: str, default: int | None = None) -> int:
        value = holder.get(key, default)
        if type(value) is not int or not 0 <= value < 1 << 48:
            raise ValueError(f"{self.file}: glTF {key}: expected a size, got {value!r:.40}")
        return value

    def view(self, index: Any) -> bytes:
        """The bytes of a buffer view."""
        view = self.item("bufferViews", index)
        buffer_index = self.natural(view, "buffer")
        self.item("buffers", buffer_index)
        data = self.buffer(buffer_index)
        start, size = self.natural(view, "byteOffset", 0), self.natural(view, "byteLength")
        if start + size > len(data):
            raise ValueError(
                f"{self.file}: glTF buffer view {index}: expected {start + size} bytes, "
                f"got {len(data)}"
            )
        return data[start : start + size]

    def accessor(
        self, index: Any, kind: str | None, count: int | None, what: str
    ) -> NDArray[np.float32]:
        """[count, width] of an accessor; integers are normalised where it says so."""
        where = f"{self.file}: glTF {what}"
        if index is None:
            raise ValueError(f"{where}: the primitive has no such attribute")
        accessor = self.item("accessors", index)
        width = WIDTHS.get(str(accessor.get("type")), 0)
        code = TYPES.get(accessor.get("componentType", 0) if _plain(accessor) else 0)
        got = self.natural(accessor, "count")
        if (
            not width
            or code is None
            or kind not in (None, accessor["type"])
            or "sparse" in accessor
        ):
            raise ValueError(
                f"{where}: expected a dense {kind or 'vector'} of numbers, "
                f"got {accessor.get('type')!r:.20} of {accessor.get('componentType')!r:.20}"
            )
        if not got or count not in (None, got):
            raise ValueError(f"{where}: expected {count or 'some'} values, got {got}")
        dtype = np.dtype(code)
        data = self.view(accessor.get("bufferView"))
        start = self.natural(accessor, "byteOffset", 0)
        stride = self._stride(accessor["bufferView"], width * dtype.itemsize)
        if start + (got - 1) * stride + width * dtype.itemsize > len(data):
            raise ValueError(
                f"{where}: expected {got} values {stride} bytes apart, got {len(data)} bytes"
            )
        values = np.ndarray((got, width), dtype, data, start, (stride, dtype.itemsize))
        scale = np.iinfo(dtype).max if accessor.get("normalized") and dtype.kind in "iu" else 1
        with np.errstate(invalid="ignore"):  # A signalling NaN is one.
            found = values.astype(np.float32) / np.float32(scale)
        return np.maximum(found, -1) if scale != 1 else found

    def _stride(self, view: int, least: int) -> int:
        stride = self.natural(self.item("bufferViews", view), "byteStride", 0) or least
        if not least <= stride <= 1 << 16:
            raise ValueError(
                f"{self.file}: glTF byteStride: expected {least} or more, got {stride}"
            )
        return stride


def _plain(accessor: dict[str, Any]) -> bool:
    return type(accessor.get("componentType")) is int


def instances(document: Document) -> Iterator[tuple[dict[str, Any], Place]]:
    """Each mesh of the scene that the file shows, and where its nodes put it."""
    scenes = document.objects(document.root, "scenes")
    if scenes:
        scene = document.item("scenes", document.root.get("scene", 0))
        roots = scene.get("nodes", [])
    else:
        roots = list(range(len(document.objects(document.root, "nodes"))))
    stack = [(index, (np.eye(3), np.zeros(3)), 0) for index in _indices(roots, document)]
    visited = 0
    while stack:
        index, (linear, shift), depth = stack.pop()
        node = document.item("nodes", index)
        visited += 1
        if visited > MOST_NODES or depth > MOST_DEPTH:
            raise ValueError(f"{document.file}: glTF nodes: expected a tree of some size")
        own, offset = _transform(node, document.file)
        place = linear @ own, linear @ offset + shift
        if "mesh" in node:
            yield document.item("meshes", node["mesh"]), place
        children = _indices(node.get("children", []), document)
        stack += [(child, place, depth + 1) for child in reversed(children)]


def _indices(value: Any, document: Document) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"{document.file}: glTF nodes: expected a list of indices")
    return value


def _transform(node: dict[str, Any], file: str) -> Place:
    """The linear part and the shift of a node."""
    if "matrix" in node:
        matrix = _numbers(node["matrix"], 16, file).reshape(4, 4).T  # Column-major.
        return matrix[:3, :3], matrix[:3, 3]
    x, y, z, w = _numbers(node.get("rotation", [0, 0, 0, 1]), 4, file)
    scale = _numbers(node.get("scale", [1, 1, 1]), 3, file)
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return rotation * scale, _numbers(node.get("translation", [0, 0, 0]), 3, file)


def _numbers(value: Any, n: int, file: str) -> NDArray[np.float64]:
    good = isinstance(value, list) and len(value) == n
    if not good or not all(type(v) in (int, float) and abs(v) < 1e18 for v in value):
        raise ValueError(f"{file}: glTF node: expected {n} numbers, got {value!r:.60}")
    return np.array(value, np.float64)
