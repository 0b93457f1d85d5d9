"""The .fpz container: a JSON header and named, checksummed sections (docs/format.md)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ._native import crc32c

MAGIC = b"\x89FPZ"  # The high bit shows up transfers that are not 8-bit clean.
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_SIZE = (1 << 63) - 1
MAX_TABLE_BYTES = (1 << 32) - 1

# The numbers are the format: add, never change or reuse.
CODECS = {"raw": 0, "zlib": 1, "octree": 2, "ints": 3, "bits": 4}

_CODEC_NAMES = {number: codec for codec, number in CODECS.items()}
_FRONT = struct.Struct("<4sHHIII")  # magic, version, reserved, header, sections, table bytes
_CRC = struct.Struct("<I")
_VARINT_BYTES = 9  # 63 bits
_ENTRY_BYTES = 9  # the shortest entry of the table: 1-byte name, 1-byte sizes
_ZLIB_EXPANSION = 1032  # deflate: 258 bytes from two bits
_OVERHEAD = "header"  # what `sizes` calls all that is not payload


@dataclass(frozen=True)
class Section:
    """One named run of coded bytes.

    Attributes:
        name: unique in its file, 1 to 255 bytes of UTF-8, not "header".
        codec: one of CODECS.
        payload: the coded bytes.
        raw_size: bytes after decoding, as the file claims it; only "raw" and "zlib" bound it here.
    """

    name: str
    codec: str
    payload: bytes
    raw_size: int


@dataclass(frozen=True)
class Container:
    """What `read` found: the header, the whole sections in file order, whether some are missing."""

    header: dict[str, Any]
    sections: list[Section]
    truncated: bool


@dataclass(frozen=True)
class Entry:
    """What the table says of a section; the payload may lie anywhere."""

    name: str
    codec: str
    raw_size: int
    coded_size: int
    crc: int

    @staticmethod
    def of(section: Section) -> Entry:
        """The entry of a section at hand."""
        size, crc = len(section.payload), crc32c(section.payload)
        return Entry(section.name, section.codec, section.raw_size, size, crc)


def write(header: Mapping[str, Any], sections: Sequence[Section]) -> bytes:
    """The file of `header` and `sections`, in the order given (first what a viewer needs first).

    Equal arguments give equal bytes. Raises ValueError for a header that is not JSON or is over
    1 MiB, for a repeated or impossible section name, an unknown codec or an impossible raw_size.
    """
    parts = [head(header, [Entry.of(section) for section in sections])]
    return b"".join(parts + [section.payload for section in sections])


def head(header: Mapping[str, Any], entries: Sequence[Entry]) -> bytes:
    """All of a file that comes before its payloads, for writers that hold them one at a time.

    Raises ValueError as `write` does.
    """
    _check_entries(entries)
    text = _encode_header(header)
    table = b"".join(_encode_entry(entry) for entry in entries)
    if len(table) > MAX_TABLE_BYTES:
        _refuse("section table", f"at most {MAX_TABLE_BYTES} bytes", len(table))
    front = _FRONT.pack(MAGIC, VERSION, 0, len(text), len(entries), len(table)) + text
    return b"".join((front, _CRC.pack(crc32c(front)), table, _CRC.pack(crc32c(table))))


def locate(
    data: bytes | memoryview, *, name: str = "<bytes>"
) -> tuple[dict[str, Any], list[tuple[Entry, int]]]:
    """The header, and each section's entry with the offset of its payload in the file.

    `data` needs to hold no more than what comes before the payloads; a section may end beyond it.
    Raises ValueError for a damaged header or table.
    """
    header, entries, at = _read_front(memoryview(data).cast("B"), name)
    found = []
    for entry in entries:
        found.append((entry, at))
        at += entry.coded_size
    return header, found


def payload(entry: Entry, data: bytes, *, name: str = "<bytes>") -> bytes:
    """`data` if it is the payload that the table promises. Raises ValueError."""
    where = f"{name}: section {entry.name!a}"
    if len(data) != entry.coded_size:
        _refuse(where, f"{entry.coded_size} bytes", len(data))
    _check_crc(where, entry.crc, data)
    return data


def read(
    data: bytes | bytearray | memoryview, *, partial: bool = False, name: str = "<bytes>"
) -> Container:
    """The header and sections of a file, every checksum verified.

    `name` is what errors call the file. With `partial`, sections beyond the end of `data` are left
    out and `truncated` is set; header and table must be whole. Raises ValueError, in one line that
    names the section, for anything cut (without `partial`), damaged, repeated or unknown.
    """
    view = memoryview(data).cast("B")
    header, entries, at = _read_front(view, name)
    sections = []
    for entry in entries:
        where, left = f"{name}: section {entry.name!a}", len(view) - at
        if entry.coded_size > left:
            if partial:
                return Container(header, sections, truncated=True)
            _refuse(where, f"{entry.coded_size} bytes", left)
        coded = bytes(view[at : at + entry.coded_size])
        _check_crc(where, entry.crc, coded)
        sections.append(Section(entry.name, entry.codec, coded, entry.raw_size))
        at += entry.coded_size
    if at != len(view):
        _refuse(f"{name}: end of file", f"{at} bytes", len(view))
    return Container(header, sections, truncated=False)


def sizes(data: bytes | bytearray | memoryview, *, name: str = "<bytes>") -> dict[str, int]:
    """Coded bytes by section in file order, and under "header" all the rest; they sum to the file.

    Payloads are measured, not verified. Raises ValueError for a file that is cut or whose header or
    table is damaged.
    """
    view = memoryview(data).cast("B")
    _, entries, at = _read_front(view, name)
    found = {_OVERHEAD: at}
    for entry in entries:
        if entry.coded_size > len(view) - at:
            _refuse(f"{name}: section {entry.name!a}", f"{entry.coded_size} bytes", len(view) - at)
        found[entry.name] = entry.coded_size
        at += entry.coded_size
    if at != len(view):
        _refuse(f"{name}: end of file", f"{at} bytes", len(view))
    return found


def by_attribute(sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each kind of section, summed over blocks ("dc/0" and "dc/1" are both "dc")."""
    total: dict[str, int] = {}
    for name, size in sizes.items():
        attribute = name.partition("/")[0]
        total[attribute] = total.get(attribute, 0) + size
    return total


def kind_of(data: bytes | bytearray | memoryview, *, name: str = "<bytes>") -> str:
    """What a file says it holds, its header key "kind"; "" for none. Raises ValueError."""
    return str(_read_front(memoryview(data).cast("B"), name)[0].get("kind", ""))


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    raise ValueError(f"{where}: expected {expected}, got {got}")


def _check_crc(where: str, expected: int, data: bytes) -> None:
    got = crc32c(data)
    if got != expected:
        _refuse(where, f"checksum {expected:08x}", f"{got:08x}")


def _check_unique(where: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _refuse(f"{where}section {name!a}", "one section of this name", "two")
        seen.add(name)


def _check_claims(where: str, name: str, codec: str, raw_size: int, coded_size: int) -> None:
    """Refuse a reserved name and a raw size that the coded bytes cannot hold."""
    if name == _OVERHEAD:
        _refuse(where, "another name", "the reserved one")
    if codec == "raw" and raw_size != coded_size:
        _refuse(where, f"raw size {coded_size}", raw_size)
    if codec == "zlib" and raw_size > _ZLIB_EXPANSION * coded_size:
        _refuse(where, f"raw size <= {_ZLIB_EXPANSION * coded_size}", raw_size)


# Writing


def _check_entries(entries: Sequence[Entry]) -> None:
    _check_unique("", (entry.name for entry in entries))
    for entry in entries:
        where = f"section {entry.name!a}"
        if entry.codec not in CODECS:
            _refuse(where, f"a codec of {', '.join(CODECS)}", repr(entry.codec))
        if not 0 <= entry.raw_size <= MAX_SIZE:
            _refuse(where, f"raw size in 0..{MAX_SIZE}", entry.raw_size)
        _check_claims(where, entry.name, entry.codec, entry.raw_size, entry.coded_size)


def _encode_header(header: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(
            dict(header),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"header: expected JSON values, got {reason}") from None
    if len(text) > MAX_HEADER_BYTES:
        _refuse("header", f"at most {MAX_HEADER_BYTES} bytes", len(text))
    return text


def _encode_entry(entry: Entry) -> bytes:
    try:
        name = entry.name.encode()
    except UnicodeEncodeError:
        _refuse(f"section {entry.name!a}", "a name in UTF-8", "a lone surrogate")
    if not 1 <= len(name) <= 255:
        _refuse(f"section {entry.name!a}", "a name of 1..255 bytes", len(name))
    return b"".join(
        (
            bytes((len(name),)),
            name,
            bytes((CODECS[entry.codec],)),
            _encode_varint(entry.raw_size),
            _encode_varint(entry.coded_size),
            _CRC.pack(entry.crc),
        )
    )


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# Reading


def _read_front(view: memoryview, name: str) -> tuple[dict[str, Any], list[Entry], int]:
    """The header, the section table and the offset of the first payload."""
    where = f"{name}: header"
    if len(view) < _FRONT.size:
        _refuse(where, f"at least {_FRONT.size} bytes", len(view))
    magic, version, reserved, text_size, count, table_size = _FRONT.unpack_from(view)
    if magic != MAGIC:
        _refuse(where, f"magic {MAGIC.hex(' ')}", magic.hex(" "))
    if (version, reserved) != (VERSION, 0):
        _refuse(where, f"version {VERSION}", version if not reserved else f"flags {reserved:#x}")
    if text_size > MAX_HEADER_BYTES:
        _refuse(where, f"at most {MAX_HEADER_BYTES} bytes", text_size)
    front, at = _take_checked(view, 0, _FRONT.size + text_size, where)
    header = _decode_header(front[_FRONT.size :], where)
    where = f"{name}: section table"
    if count * _ENTRY_BYTES > table_size:
        _refuse(where, f"at least {_ENTRY_BYTES} bytes for each of {count} sections", table_size)
    table, at = _take_checked(view, at, table_size, where)
    return header, _decode_table(table, count, name), at


def _take_checked(view: memoryview, at: int, size: int, where: str) -> tuple[bytes, int]:
    """`size` bytes from offset `at` whose CRC follows them, and the offset behind both."""
    end = at + size
    if end + _CRC.size > len(view):
        _refuse(where, f"{size + _CRC.size} bytes", len(view) - at)
    data = bytes(view[at:end])
    _check_crc(where, _CRC.unpack_from(view, end)[0], data)
    return data, end + _CRC.size


def _decode_header(text: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(
            text.decode(),
            object_pairs_hook=_unique_pairs,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}: expected JSON, got {reason}") from None
    if not isinstance(header, dict):
        _refuse(where, "a JSON object", type(header).__name__)
    return header


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated key")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}")
    return value


def _decode_table(table: bytes, count: int, name: str) -> list[Entry]:
    entries = []
    at = 0
    for index in range(count):
        entry, at = _decode_entry(table, at, f"{name}: section table entry {index}", name)
        entries.append(entry)
    if at != len(table):
        _refuse(f"{name}: section table", f"{at} bytes", len(table))
    _check_unique(f"{name}: ", (entry.name for entry in entries))
    return entries


def _decode_entry(table: bytes, at: int, where: str, name: str) -> tuple[Entry, int]:
    length = table[at] if at < len(table) else 0
    raw_name = table[at + 1 : at + 1 + length]
    at += 1 + length
    if not length or at >= len(table):
        _refuse(where, "a name and a codec", "the end of the table" if length else "no name")
    try:
        section = raw_name.decode()
    except UnicodeDecodeError:
        _refuse(where, "a name in UTF-8", raw_name[:20].hex(" "))
    where = f"{name}: section {section!a}"
    codec = _CODEC_NAMES.get(table[at])
    if codec is None:
        _refuse(where, f"a codec in 0..{max(_CODEC_NAMES)}", table[at])
    raw_size, at = _decode_varint(table, at + 1, where)
    coded_size, at = _decode_varint(table, at, where)
    _check_claims(where, section, codec, raw_size, coded_size)
    if at + _CRC.size > len(table):
        _refuse(where, "a checksum", "the end of the table")
    (crc,) = _CRC.unpack_from(table, at)
    return Entry(section, codec, raw_size, coded_size, crc), at + _CRC.size


def _decode_varint(table: bytes, at: int, where: str) -> tuple[int, int]:
    """A size in groups of seven bits, low ones first; the shortest spelling only."""
    value = 0
    for position, byte in enumerate(table[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            if byte == 0 and position > 0:
                _refuse(where, "a size in its shortest form", table[at : at + position + 1].hex())
            return value, at + position + 1
    _refuse(where, f"a size of at most {_VARINT_BYTES} bytes", table[at : at + 10].hex())
