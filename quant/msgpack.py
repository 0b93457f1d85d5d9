"""MessagePack as instant-ngp's snapshots use it: read whole, bytes where they lie."""

from __future__ import annotations

import struct
from typing import Any

MAX_VALUES = 1 << 22  # Each may become an object of 64 bytes.
MAX_DEPTH = 64
NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b",
           0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}  # fmt: skip
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
# First byte -> what follows its length, and the length's format.
SIZED = {0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
         0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I"),
         0xDC: ("list", ">H"), 0xDD: ("list", ">I"),
         0xDE: ("map", ">H"), 0xDF: ("map", ">I")}  # fmt: skip


def unpack(data: bytes) -> Any:
    """The one value that `data` holds: dictionaries, lists, strings, numbers, memoryviews of bytes.

    Nothing is allocated beyond what is there. Raises ValueError in one line for anything else,
    extension types and keys that are no strings included.
    """
    reader = _Reader(data)
    found = reader.value(0)
    if reader.at != len(data):
        raise ValueError(f"msgpack: expected its end at byte {reader.at} of {len(data)}")
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._values = 0
        self.at = 0

    def value(self, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError(f"msgpack: more than {MAX_VALUES} values, or {MAX_DEPTH} nested")
        kind = self._take(1)[0]
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 256
        if kind in CONSTANTS:
            return CONSTANTS[kind]
        if kind in NUMBERS:
            return self._number(NUMBERS[kind])
        if kind < 0xC0:  # Short ones carry their length in the first byte.
            what = "map" if kind < 0x90 else "list" if kind < 0xA0 else "text"
            return self._sized(what, kind & (0x1F if what == "text" else 0x0F), depth)
        if kind not in SIZED:
            raise ValueError(f"msgpack: byte {self.at - 1}: type {kind:#x} is not read")
        what, format_ = SIZED[kind]
        return self._sized(what, self._number(format_), depth)

    def _sized(self, what: str, count: int, depth: int) -> Any:
        if what == "bytes":
            return self._take(count)
        if what == "text":
            try:
                return str(self._take(count), "utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"msgpack: byte {self.at}: text is not UTF-8") from None
        if what == "list":
            return [self.value(depth + 1) for _ in range(count)]
        found = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise ValueError(f"msgpack: byte {self.at}: expected a string as key")
            found[key] = self.value(depth + 1)
        return found

    def _number(self, format_: str) -> Any:
        return struct.unpack(format_, self._take(struct.calcsize(format_)))[0]

    def _take(self, count: int) -> memoryview:
        part = self._data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError(f"msgpack: expected {count} bytes at {self.at}, got {len(part)}")
        self.at += count
        return part
