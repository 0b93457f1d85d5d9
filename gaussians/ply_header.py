"""PLY headers: elements and properties by name, and a size check before anything is allocated."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEADER_LIMIT = 1 << 20  # A splat header is a few kB; a longer one is not a header.
SCALAR_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "half": "f2", "float16": "f2", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class Property:
    """One column: its name, numpy's code of its type, and of its length when it is a list."""

    name: str
    code: str
    length_code: str = ""


@dataclass(frozen=True)
class Element:
    """One table of a PLY file: `count` rows of `properties`."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def all_scalar(self) -> bool:
        return not any(p.length_code for p in self.properties)

    @property
    def row_bytes(self) -> int:
        """Bytes of one binary row; with list properties, of the shortest possible row."""
        return sum(np.dtype(p.length_code or p.code).itemsize for p in self.properties)

    def codes(self) -> dict[str, str]:
        return {p.name: p.code for p in self.properties}


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY file says of itself; `offset` is where its data begin."""

    file: str
    byte_order: str
    comments: tuple[str, ...]
    elements: tuple[Element, ...]
    offset: int

    def element(self, name: str) -> Element | None:
        return next((e for e in self.elements if e.name == name), None)

    def mappable(self, name: str) -> bool:
        """Whether the element's rows lie at a computable place, one fixed size each."""
        if not self.byte_order:
            return False
        for element in self.elements:
            if not element.all_scalar:
                return False
            if element.name == name:
                return True
        return False

    def check_size(self, actual: int) -> None:
        """Raise ValueError when the file is shorter than its header claims."""
        if self.byte_order:
            rows = sum(e.count * e.row_bytes for e in self.elements)
        else:  # One digit and one separator a value; the last separator may be missing.
            rows = sum(e.count * 2 * len(e.properties) for e in self.elements)
            rows -= 1 if rows else 0
        exact = self.byte_order and all(e.all_scalar for e in self.elements)
        if self.offset + rows > actual:
            raise ValueError(
                f"{self.file}: truncated PLY: expected {'' if exact else 'at least '}"
                f"{self.offset + rows} bytes, got {actual}"
            )

    def rows(self, name: str, data: memoryview) -> np.ndarray:
        """The element as a structured array that shares the bytes of `data` (no copy)."""
        offset = self.offset
        for element in self.elements:
            if element.name == name:
                break
            offset += element.count * element.row_bytes
        else:
            raise ValueError(f"{self.file}: PLY has no element {name!r}")
        dtype = np.dtype([(p.name, self.byte_order + p.code) for p in element.properties])
        return np.frombuffer(data, dtype, count=element.count, offset=offset)


def open_bytes(source: str | Path | bytes | memoryview, name: str | None) -> tuple[str, memoryview]:
    """A name for messages and a view of the bytes; a path is memory-mapped, not read."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return name or "PLY", memoryview(source)
    with Path(source).open("rb") as file:
        if file.seek(0, 2) == 0:  # An empty file cannot be mapped.
            return name or str(source), memoryview(b"")
        return name or str(source), memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def parse_header(data: memoryview, file: str) -> PlyHeader:
    """Read a PLY header. Raises ValueError naming the file and the line at fault."""
    head = bytes(data[:HEADER_LIMIT])
    if not head.startswith(b"ply"):
        raise ValueError(f"{file}: not a PLY file: expected 'ply' first, got {head[:4]!r}")
    end = head.find(b"\nend_header")
    newline = head.find(b"\n", end + 1)
    if end < 0 or newline < 0:
        raise ValueError(f"{file}: PLY header has no end_header line")
    byte_order: str | None = None
    comments: list[str] = []
    elements: list[tuple[str, int, list[Property]]] = []
    for number, raw in enumerate(head[:end].decode("ascii", "replace").split("\n")[1:], start=2):
        line = raw.strip()
        words = line.split()
        try:
            if not words or words[0] in ("comment", "obj_info"):
                comments.append(line.partition(" ")[2])
            elif words[0] == "format":
                byte_order = BYTE_ORDERS[words[1]]
            elif words[0] == "element":
                elements.append((words[1], _count(words[2]), []))
            elif words[0] == "property":
                elements[-1][2].append(_property(words))
            else:
                raise KeyError(words[0])
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                f"{file}: PLY header line {number} not understood: {line!r:.80}"
            ) from None
    if byte_order is None:
        raise ValueError(f"{file}: PLY header has no format line")
    table = tuple(Element(name, count, tuple(props)) for name, count, props in elements)
    _check_unique([e.name for e in table], file, "element")
    for element in table:
        _check_unique([p.name for p in element.properties], file, f"{element.name} property")
    return PlyHeader(file, byte_order, tuple(comments), table, newline + 1)


def _check_unique(names: list[str], file: str, what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{file}: PLY header names {what} {name!r:.40} twice")


def _count(word: str) -> int:
    count = int(word)
    if count < 0:
        raise ValueError(word)
    return count


def _property(words: list[str]) -> Property:
    if words[1] == "list":
        return Property(words[4], SCALAR_TYPES[words[3]], SCALAR_TYPES[words[2]])
    return Property(words[2], SCALAR_TYPES[words[1]])
