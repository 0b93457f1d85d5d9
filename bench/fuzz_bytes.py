"""Changes to bytes that a reader should survive: anywhere, or within, checksums right again.

Each takes bytes and a random.Random and gives other bytes; equal states give equal bytes. What can
make nothing of what it was given raises any error: the harness takes another.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from fieldpress.quant import container
from fieldpress.quant._native import crc32c

Mutate = Callable[[bytes, random.Random], bytes]

SIZES = (0, 1, 2, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 24, (1 << 31) - 1,
         1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
LEAVES = (0, 1, -1, 2, 3, 7, 255, 65535, 1 << 16, 1 << 31, (1 << 53) - 1, 1 << 70, 10**400, 0.5,
          1e300, -1e-300, 5e-324, None, True, "", "x", "../x", "/etc/passwd", "a\0b", "\ud800",
          "9" * 400, [], {}, [0] * 7, [[]], {"x": 0})  # fmt: skip
WORDS = (b"0", b"-1", b"1", b"7", b"4294967296", b"9" * 30, b"1e999", b"-0.0", b"nan", b"inf",
         b"x", b"", b"../x", b"/etc/passwd", b"\xff\xfe", b"\0", b"\n", b"*", b"&a", b"[", b"{",
         b"list", b"double", b"uchar", b"1_0", b"0x7f", b"1" * 5000)  # fmt: skip


def raw(data: bytes, rng: random.Random) -> bytes:
    """Some bits, bytes, numbers, runs and ends changed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 8))):
        if not out:
            break
        at, kind = rng.randrange(len(out)), rng.randrange(9)
        end = at + rng.choice((1, 2, 4, 8, rng.randint(1, 64)))
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            _overwrite(out, at, rng)
        elif kind == 2:  # Sizes stand near the beginning.
            _overwrite(out, rng.randrange(min(len(out), 64)), rng)
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at:end]
        elif kind == 5:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 6:
            out[at:end] = rng.randbytes(len(out[at:end]))
        elif kind == 7:
            out[at:at] = out[at:end] * rng.choice((1, 2, 100))
        else:
            other = rng.randrange(len(out))
            out[at:end] = out[other : other + end - at]
    return bytes(out)


def _overwrite(out: bytearray, at: int, rng: random.Random) -> None:
    """A number as large as a size can be, or a little more or less than it was."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "little", "big"))
    at = min(at, max(len(out) - width, 0))
    was = int.from_bytes(out[at : at + width], order)  # type: ignore[arg-type]
    new = rng.choice((*SIZES, was + 1, was - 1, 2 * was, was // 2, ~was))
    out[at : at + width] = (new % (1 << (8 * width))).to_bytes(width, order)  # type: ignore[arg-type]


def spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    cut = rng.randrange(len(data) + 1)
    return data[:cut] + other[min(cut, len(other)) if rng.random() < 0.5 else rng.randrange(
        len(other) + 1) :]  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with a leaf or a branch replaced, repeated or gone."""
    holder: Any = {"": copy.deepcopy(value)}
    top, key = holder, ""
    while isinstance(holder[key], (dict, list)) and holder[key]:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if rng.random() < 0.15:
            break
    kind = rng.randrange(8)
    if kind == 0 and holder is not top:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder[:] = holder[: key + 1] * rng.choice((2, 3, 1000 if len(holder) < 9 else 2))
    elif kind == 2 and isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e300:
        holder[key] = holder[key] * rng.choice((-1, 2, 0.5, 1000, 1e30)) + rng.choice((0, 1, -1))
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice(("x", *holder))] = holder[key]
    else:
        holder[key] = copy.deepcopy(rng.choice(LEAVES))
    return top[""]


def as_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON text with one to three values changed."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = changed(value, rng)
    return json.dumps(value).encode()


def as_words(data: bytes, rng: random.Random) -> bytes:
    """A text with words of some lines replaced, lines doubled, swapped or gone."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        words = lines[at].split(b" ")
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        kind = rng.randrange(8)
        if kind == 0:
            lines[at : at + 1] = [lines[at]] * 2
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines.insert(rng.randrange(len(lines)), lines[at])
        else:
            lines[at] = b" ".join(words)
    return b"\n".join(lines)


# Containers of others


def in_gzip(data: bytes, rng: random.Random) -> bytes:
    return gzip.compress(raw(gzip.decompress(data), rng), 1, mtime=0)


def in_zip(data: bytes, rng: random.Random) -> bytes:
    """Entries changed, exchanged, renamed, added or gone; the archive itself is a good one."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(rng.choice((1, 1, 2))):
        files = in_folder(files, rng)
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as target:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if rng.random() < 0.02:
                info.external_attr = 0o120777 << 16  # A symbolic link.
            target.writestr(info, content)
    return out.getvalue()


def in_folder(files: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """One file of several changed by what it is, exchanged, renamed or gone."""
    files = dict(files)
    texts = [name for name in files if not name.endswith((".png", ".webp"))]
    name = rng.choice(texts if texts and rng.random() < 0.8 else list(files))
    other, kind = rng.choice(list(files)), rng.randrange(20)
    if kind == 0:
        files[name], files[other] = files[other], files[name]
    elif kind == 1:
        files[rng.choice(("../" + name, "/" + name, "x", name.upper()))] = files.pop(name)
    elif kind == 2:
        del files[name]
    else:
        files[name] = by_suffix(name)(files[name], rng)
    return files


def by_suffix(name: str) -> Mutate:
    """What changes such a file within; anywhere, now and then."""
    within = {"json": as_json, "txt": as_words, "yaml": as_words, "toml": as_words,
              "png": in_png, "npy": in_npy, "gz": in_gzip, "ply": in_ply}  # fmt: skip
    found = within.get(name.rpartition(".")[2], raw)
    return lambda data, rng: (found if rng.random() < 0.8 else raw)(data, rng)


def in_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks changed, their checksums right."""
    out, at, chunks = bytearray(data[:8]), 8, []
    while at + 12 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = rng.randrange(len(chunks))
    for number, (kind, body) in enumerate(chunks):
        if number == which:
            if kind == b"IDAT" and rng.random() < 0.5:
                body = zlib.compress(raw(zlib.decompress(body), rng), 1)
            else:
                body = raw(body, rng)
        out += struct.pack(">I", len(body)) + kind + body
        out += struct.pack(">I", zlib.crc32(kind + body))
    return bytes(out)


def in_npy(data: bytes, rng: random.Random) -> bytes:
    """The header's text or the numbers."""
    size = struct.unpack_from("<H", data, 8)[0]
    text, body = data[10 : 10 + size], data[10 + size :]
    if rng.random() < 0.5:
        text = as_words(text, rng) if rng.random() < 0.5 else raw(text, rng)
    else:
        body = raw(body, rng)
    return data[:8] + struct.pack("<H", min(len(text), 65535)) + text + body


def in_ply(data: bytes, rng: random.Random) -> bytes:
    """Lines of a PLY header."""
    head, end, body = data.partition(b"end_header\n")
    return as_words(head, rng) + end + body


def in_glb(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack_from("<I", data, 12)[0]
    text, rest = as_json(data[20 : 20 + size], rng), data[20 + size :]
    if rng.random() < 0.2:
        rest = raw(rest, rng)
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
    return head + struct.pack("<I4s", len(text), b"JSON") + text + rest


def in_safetensors(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack_from("<Q", data)[0]
    text = as_json(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def in_spz4(data: bytes, rng: random.Random) -> bytes:
    """The arrays of version 4 inflated, changed, deflated again, the table right or nearly so."""
    import zstandard

    count, toc = struct.unpack_from("<BI", data, 15)
    table = struct.unpack_from(f"<{2 * count}Q", data, toc)
    at, parts, which = toc + 16 * count, [], rng.randrange(count)
    for number, packed in enumerate(table[::2]):
        part = zstandard.ZstdDecompressor().decompress(data[at : at + packed])
        parts.append(raw(part, rng) if number == which else part)
        at += packed
    packed = [zstandard.ZstdCompressor(level=1).compress(part) for part in parts]
    raw_sizes = [len(part) for part in parts] if rng.random() < 0.5 else table[1::2]
    sizes = [n for pair in zip(map(len, packed), raw_sizes, strict=True) for n in pair]
    head = raw(data[:toc], rng)[:toc].ljust(toc, b"\0") if rng.random() < 0.3 else data[:toc]
    return head + struct.pack(f"<{2 * count}Q", *sizes) + b"".join(packed)


# Our own container


def in_fpz(data: bytes, rng: random.Random) -> bytes:
    """Header values, sections and claims changed; every checksum right, also of files within."""
    found = container.read(data)
    header, sections = dict(found.header), list(found.sections)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.4 or not sections:
            key = rng.choice(("layout", "layout", *header))
            header = {**header, key: changed(header.get(key), rng)}
            continue
        at = rng.randrange(len(sections))
        if rng.random() < 0.1:
            other = rng.randrange(len(sections))
            sections[at], sections[other] = sections[other], sections[at]
        else:
            names = [section.name for section in sections]
            sections[at] = _section(sections[at], names, rng)
    return sealed(header, sections)


def _section(section: container.Section, names: list[str], rng: random.Random) -> container.Section:
    name, codec = section.name, section.codec
    payload, size, kind = section.payload, section.raw_size, rng.randrange(10)
    if kind == 0:
        size = rng.choice((0, 1, size + 4, size - 4, 8 * size, 1 << 30, 1 << 40, (1 << 63) - 1))
    elif kind == 1:
        codec = rng.choice(list(container.CODECS))
    elif kind == 2:
        name = rng.choice([*names, "ac/9", "x", "header"])
    elif kind == 3:
        payload = rng.randbytes(len(payload))
    elif payload.startswith(container.MAGIC):  # A stream of a tile.
        payload = in_fpz(payload, rng)
    elif codec == "zlib" and kind < 8:
        payload = zlib.compress(raw(zlib.decompress(payload), rng), 1)
    else:
        payload = raw(payload, rng)
    if codec == "raw" and rng.random() < 0.9:  # What is plain is known to be as long as it is.
        size = len(payload)
    return container.Section(name, codec, payload, max(size, 0))


def sealed(header: dict[str, Any], sections: list[container.Section]) -> bytes:
    """A file that says so, also what `container.write` would refuse to."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    table = b"".join(container._encode_entry(container.Entry.of(s)) for s in sections)
    front = container._FRONT.pack(
        container.MAGIC, container.VERSION, 0, len(text), len(sections), len(table)
    )
    body = b"".join(section.payload for section in sections)
    return _checked(front + text) + _checked(table) + body


def _checked(data: bytes) -> bytes:
    return data + struct.pack("<I", crc32c(data))


def in_fpz_front(data: bytes, rng: random.Random) -> bytes:
    """Bytes of the header's text or of the section table, their checksums right."""
    front = container._FRONT
    *start, text_size, count, table_size = front.unpack_from(data)
    at = front.size + text_size
    text, table = data[front.size : at], data[at + 4 : at + 4 + table_size]
    rest = data[at + 8 + table_size :]
    if rng.random() < 0.4:
        text = as_words(text, rng) if rng.random() < 0.3 else raw(text, rng)
    else:
        table = raw(table, rng)
    if rng.random() < 0.1:
        count = rng.choice((0, count + 1, max(count - 1, 0), 1 << 20, (1 << 32) - 1))
    head = front.pack(*start, len(text), count, len(table)) + text
    return _checked(head) + _checked(table) + rest
