"""SPZ, Niantic's packed Gaussians: versions 1 to 4 in, versions 2 to 4 out."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .limits import BYTE_OPACITY, Limits
from .model import SplatModel, check_room
from .unpack import FRAMES, flip_axes, frame_signs, logit, restore_largest

MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")
HEADER_V4 = struct.Struct("<4sIIBBBBI12x")
MAX_COUNT = (1 << 31) - 1
# Real files inflate two- to sixfold; a claim beyond this is a bomb, except in small files.
RAW_FLOOR, RAW_RATIO = 64 << 20, 100
EXTENSION_LIMIT = 1 << 20
FLAG_ANTIALIASED, FLAG_EXTENSIONS = 1, 2
FRAME_EXTENSION = 0xADBE0003
DEFAULT_FRAME = "rub"
REST = {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}
COLOR_SCALE = 0.15
DEFAULT_FRACTION_BITS = 12
POSITION_BITS = 15  # At least so many steps across half the scene, however small it is.
SH_BITS = 5  # Of degree 1, and one less above: the reference's.
GZIP_LEVEL, ZSTD_LEVEL = 9, 12
WRITABLE = (2, 3, 4)
LARGEST_MEAN = float((1 << 23) - 1)  # Without any fractional bits.
LIMITS = Limits(
    ranges={
        "means": (-LARGEST_MEAN, LARGEST_MEAN),
        "scales": (-10.0, 255 / 16 - 10),
        "opacities": BYTE_OPACITY,
        "sh0": (-0.5 / COLOR_SCALE, 0.5 / COLOR_SCALE),
        "shN": (-1.0, 127 / 128),
    },
)


@dataclass(frozen=True)
class Layout:
    """What an SPZ header says, checked."""

    version: int
    count: int
    sh_degree: int
    fraction_bits: int
    flags: int

    def sizes(self) -> list[int]:
        """Bytes of positions, alphas, colors, scales, rotations and SH, in this order."""
        position = 6 if self.version == 1 else 9
        rotation = 4 if self.version >= 3 else 3
        rest = 3 * REST[self.sh_degree]
        return [self.count * width for width in (position, 1, 3, 3, rotation, rest)]


def read_spz(
    source: str | Path | bytes, *, frame: str | None = None, name: str | None = None
) -> SplatModel:
    """Read SPZ 1 to 4 from a path or bytes into our frame (RDF).

    `frame` says what axes the file is in (see `unpack.FRAMES`); without it, the file's own
    coordinate extension decides, else "rub" as documented. Some tools (spz's ply_to_spz, older
    splat-transform) store "rdf" without saying so. Version 4 needs zstandard.
    Raises ValueError in one line naming the file and what is wrong.
    """
    file = name or (str(source) if not isinstance(source, bytes) else "SPZ")
    if frame is not None:
        frame_signs(frame)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data.startswith(MAGIC):
        layout, arrays, extensions = _read_v4(data, file)
    elif data.startswith(b"\x1f\x8b"):
        layout, arrays, extensions = _read_gzip(data, file)
    else:
        raise ValueError(f"{file}: not an SPZ file: it begins with {data[:4]!r}")
    stored = frame or _stored_frame(extensions, file) or DEFAULT_FRAME
    model = _decode(layout, arrays, stored)
    return flip_axes(model, frame_signs(stored))


def _check_layout(fields: tuple[int, ...], file: str, compressed: int) -> Layout:
    version, count, degree, fraction_bits, flags = fields
    if degree not in REST:
        raise ValueError(f"{file}: SPZ SH degree: expected 0 to 4, got {degree}")
    if count > MAX_COUNT:
        raise ValueError(f"{file}: SPZ count: expected at most {MAX_COUNT}, got {count}")
    if fraction_bits > 30:
        raise ValueError(f"{file}: SPZ fractional bits: expected at most 30, got {fraction_bits}")
    layout = Layout(version, count, degree, fraction_bits, flags)
    limit = max(RAW_FLOOR, RAW_RATIO * compressed)
    if sum(layout.sizes()) > limit:
        raise ValueError(
            f"{file}: SPZ claims {count} Gaussians, {sum(layout.sizes())} bytes from {compressed}: "
            f"expected at most {limit}"
        )
    check_room(count, REST[degree], f"{file}: SPZ")
    return layout


def _read_gzip(data: bytes, file: str) -> tuple[Layout, list[bytes], bytes]:
    """Inflate step by step: the header first, then what it justifies and nothing more."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        head = inflater.decompress(data, HEADER.size)
        if len(head) < HEADER.size:
            raise ValueError(f"{file}: truncated SPZ: no header in {len(data)} bytes")
        magic, version, *fields, _ = HEADER.unpack(head)
        if magic != MAGIC:
            raise ValueError(f"{file}: gzip, but not SPZ: it holds {magic!r}")
        if version not in (1, 2, 3):
            raise ValueError(f"{file}: SPZ version: expected 1 to 3 in gzip, got {version}")
        layout = _check_layout((version, *fields), file, len(data))
        needed = sum(layout.sizes())
        body = inflater.decompress(inflater.unconsumed_tail, needed) if needed else b""
        tail = inflater.decompress(inflater.unconsumed_tail, EXTENSION_LIMIT)
        if len(body) == needed and not inflater.eof:  # The checksum may still be unread.
            inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"{file}: SPZ gzip stream is damaged: {error}") from None
    if len(body) < needed:
        raise ValueError(
            f"{file}: truncated SPZ: expected {needed} bytes inflated, got {len(body)}"
        )
    if not inflater.eof:
        raise ValueError(f"{file}: SPZ gzip stream does not end where it should")
    arrays, start = [], 0
    for size in layout.sizes():
        arrays.append(body[start : start + size])
        start += size
    return layout, arrays, tail if layout.flags & FLAG_EXTENSIONS else b""


def _read_v4(data: bytes, file: str) -> tuple[Layout, list[bytes], bytes]:
    """A plain header, extension records, a table of contents and one zstd stream an array."""
    if len(data) < HEADER_V4.size:
        raise ValueError(f"{file}: truncated SPZ: expected 32 bytes of header, got {len(data)}")
    _, version, count, degree, fraction_bits, flags, n_streams, toc = HEADER_V4.unpack_from(data)
    if version != 4:
        raise ValueError(f"{file}: SPZ version: expected 4 outside gzip, got {version}")
    layout = _check_layout((version, count, degree, fraction_bits, flags), file, len(data))
    sizes = [size for size in layout.sizes() if size]
    start = toc + 16 * n_streams
    if n_streams != len(sizes) or toc < HEADER_V4.size or start > len(data):
        raise ValueError(
            f"{file}: SPZ table of contents: expected {len(sizes)} streams within "
            f"{len(data)} bytes, got {n_streams} at {toc}"
        )
    table = struct.unpack_from(f"<{2 * n_streams}Q", data, toc)
    if start + sum(table[::2]) != len(data):
        raise ValueError(
            f"{file}: truncated or padded SPZ: expected {start + sum(table[::2])} bytes, "
            f"got {len(data)}"
        )
    if list(table[1::2]) != sizes:
        raise ValueError(f"{file}: SPZ stream sizes: expected {sizes}, got {list(table[1::2])}")
    arrays = []
    for packed, raw in zip(table[::2], sizes, strict=True):
        arrays.append(_unzstd(data[start : start + packed], raw, file))
        start += packed
    by_size = iter(arrays)
    whole = [next(by_size) if size else b"" for size in layout.sizes()]
    return layout, whole, data[HEADER_V4.size : toc] if flags & FLAG_EXTENSIONS else b""


def _zstandard(what: str) -> Any:
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            f"{what} version 4 needs zstandard: pip install 'fieldpress[spz4]'"
        ) from None
    return zstandard


def _unzstd(data: bytes, raw: int, file: str) -> bytes:
    zstandard = _zstandard(f"{file}: SPZ")
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            out = reader.read(raw + 1)  # One more shows a stream that goes on.
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"{file}: SPZ zstd stream is damaged: {error}") from None
    if len(out) != raw:
        raise ValueError(f"{file}: SPZ zstd stream: expected {raw} bytes, got {len(out)}")
    return out


def _stored_frame(extensions: bytes, file: str) -> str | None:
    """The coordinate extension's frame in letters, or None when the file has none."""
    start = 0
    while start + 8 <= len(extensions):
        kind, size = struct.unpack_from("<II", extensions, start)
        payload = extensions[start + 8 : start + 8 + size]
        if len(payload) < size:
            raise ValueError(
                f"{file}: SPZ extension {kind:#x}: expected {size} bytes, got {len(payload)}"
            )
        if kind == FRAME_EXTENSION and size >= 4:
            value = struct.unpack_from("<I", payload)[0]
            if not 1 <= value <= len(FRAMES):
                raise ValueError(
                    f"{file}: SPZ coordinate system {value} is not supported (expected 1 to 8); "
                    "say which axes it is in (rub or rdf)"
                )
            return FRAMES[value - 1]
        start += 8 + size
    return None


def _decode(layout: Layout, arrays: list[bytes], frame: str) -> SplatModel:
    n, version = layout.count, layout.version
    positions, alphas, colors, scales, rotations, rest = (
        np.frombuffer(array, np.uint8) for array in arrays
    )
    sh = (rest.reshape(n, REST[layout.sh_degree], 3).astype(np.float32) - 128) / 128
    sh0 = (colors.reshape(n, 1, 3) / np.float32(255) - np.float32(0.5)) / np.float32(COLOR_SCALE)
    if version == 1:
        means = positions.view("<f2").astype(np.float32).reshape(n, 3)
    else:
        means = _unpack_positions(positions, layout.fraction_bits)
    unpack = _unpack_smallest_three if version >= 3 else _unpack_xyz
    return SplatModel(
        means=torch.from_numpy(means),
        quats=torch.from_numpy(unpack(rotations)),
        scales=torch.from_numpy(scales.reshape(n, 3).astype(np.float32) / 16 - 10),
        opacities=torch.from_numpy(logit(alphas / 255)),
        sh0=torch.from_numpy(sh0),
        shN=torch.from_numpy(sh),
        antialiased=bool(layout.flags & FLAG_ANTIALIASED),
        extra={"source_format": f"spz v{version}", "source_frame": frame},
    )


def _unpack_positions(data: np.ndarray, fraction_bits: int) -> np.ndarray:
    """24-bit two's complement to [N, 3] float32."""
    triples = data.reshape(-1, 3).astype(np.int32)
    fixed = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
    fixed -= (fixed >> 23) << 24
    return (fixed / (1 << fraction_bits)).astype(np.float32).reshape(-1, 3)


def _unpack_xyz(data: np.ndarray) -> np.ndarray:
    """Versions 1 and 2: three bytes xyz, w positive by the norm. Returns wxyz."""
    xyz = data.reshape(-1, 3).astype(np.float32) / np.float32(127.5) - 1
    return restore_largest(xyz, np.zeros(len(xyz), np.int64))


def _unpack_smallest_three(data: np.ndarray) -> np.ndarray:
    """Versions 3 and 4: which of xyzw is largest, and sign and 9 bits for each other."""
    packed = data.view("<u4")
    fields = np.stack([(packed >> shift) & 1023 for shift in (20, 10, 0)], axis=1).astype(np.int64)
    magnitude = (fields & 511) / (511 * np.sqrt(2))
    three = np.where(fields & 512, -magnitude, magnitude).astype(np.float32)
    xyzw = restore_largest(three, (packed >> 30).astype(np.int64))
    return np.ascontiguousarray(xyzw[:, [3, 0, 1, 2]])


def write_spz(
    model: SplatModel, version: int = 3, frame: str = DEFAULT_FRAME, sh_bits: int = SH_BITS
) -> bytes:
    """The model as SPZ version 2, 3 or 4, its axes in `frame` ("rub" as documented).

    Other axes are said in the file's coordinate extension, which not every reader knows. Positions
    get 12 fractional bits, fewer where the scene is larger than 2048 units, more where it is
    smaller than 8. SH of degree 1 get `sh_bits` (1 to 8), those above one less, but at least 1.
    Version 4 needs zstandard. What is out of range goes to its end, see LIMITS. Raises ValueError
    for values that are not finite and for a version or bits that there are not.
    """
    if version not in WRITABLE or sh_bits not in range(1, 9):
        raise ValueError(
            f"SPZ: expected version 2 to 4 and sh_bits 1..8, got {version} and {sh_bits}"
        )
    stored = flip_axes(model, frame_signs(frame))
    values = {k: v.detach().cpu().float().numpy() for k, v in stored.tensors().items()}
    for key, value in values.items():
        if key != "opacities" and not np.isfinite(value).all():
            raise ValueError(f"SPZ {key}: expected finite values; sanitize the model first")
    if not 0 < len(model) <= MAX_COUNT:
        raise ValueError(f"SPZ count: expected 1 to {MAX_COUNT}, got {len(model)}")
    fraction_bits = _fraction_bits(float(np.abs(values["means"]).max()))
    extension = b"" if frame == DEFAULT_FRAME else _frame_extension(frame)
    flags = (FLAG_ANTIALIASED if model.antialiased else 0) | (FLAG_EXTENSIONS if extension else 0)
    fields = (MAGIC, version, len(model), model.sh_degree, fraction_bits, flags)
    arrays = [a.tobytes() for a in _encoded(values, version, fraction_bits, sh_bits)]
    if version == 4:
        return _write_v4(fields, extension, [array for array in arrays if array])
    whole = HEADER.pack(*fields, 0) + b"".join(arrays) + extension
    return gzip.compress(whole, GZIP_LEVEL, mtime=0)


def _write_v4(fields: tuple, extension: bytes, arrays: list[bytes]) -> bytes:
    packer = _zstandard("SPZ").ZstdCompressor(level=ZSTD_LEVEL)
    packed = [packer.compress(array) for array in arrays]
    table = b"".join(
        struct.pack("<QQ", len(p), len(a)) for p, a in zip(packed, arrays, strict=True)
    )
    head = HEADER_V4.pack(*fields, len(arrays), HEADER_V4.size + len(extension))
    return head + extension + table + b"".join(packed)


def _frame_extension(frame: str) -> bytes:
    return struct.pack("<III", FRAME_EXTENSION, 4, FRAMES.index(frame) + 1)


def _encoded(
    values: dict[str, np.ndarray], version: int, fraction_bits: int, sh_bits: int
) -> list[np.ndarray]:
    """Positions, alphas, colors, scales, rotations and SH as bytes."""
    most = (1 << 23) - 1
    fixed = np.rint(values["means"].astype(np.float64) * (1 << fraction_bits)).clip(-most, most)
    with np.errstate(over="ignore"):  # A logit of -1000 is an opacity of exactly 0.
        alphas = 1 / (1 + np.exp(-values["opacities"].astype(np.float64)))
    pack = _pack_smallest_three if version >= 3 else _pack_xyz
    return [
        np.ascontiguousarray(fixed.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3]),
        _to_byte(255 * np.nan_to_num(alphas)),
        _to_byte(255 * (COLOR_SCALE * values["sh0"].astype(np.float64) + 0.5)),
        _to_byte((values["scales"].astype(np.float64) + 10) * 16),
        pack(values["quats"]),
        _quantize_rest(values["shN"], sh_bits),
    ]


def _fraction_bits(largest: float) -> int:
    fit = 30
    while fit >= 0 and round(largest * (1 << fit)) > (1 << 23) - 1:
        fit -= 1
    if fit < 0:
        return 0
    wanted = POSITION_BITS - int(np.floor(np.log2(largest))) if largest else 0
    return min(fit, max(wanted, DEFAULT_FRACTION_BITS))


def _to_byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _unit(quats: np.ndarray) -> np.ndarray:
    """[N, 4] xyzw of length 1, in double precision; the identity for those of none."""
    xyzw = quats[:, [1, 2, 3, 0]].astype(np.float64)
    norm = np.linalg.norm(xyzw, axis=1, keepdims=True)
    return np.where(norm > 0, xyzw / np.where(norm > 0, norm, 1), [0, 0, 0, 1])


def _pack_xyz(quats: np.ndarray) -> np.ndarray:
    """Version 2: x, y and z of the rotation whose w is positive."""
    xyzw = _unit(quats)
    return _to_byte(127.5 * np.where(xyzw[:, 3:] < 0, -xyzw, xyzw)[:, :3] + 127.5)


def _pack_smallest_three(quats: np.ndarray) -> np.ndarray:
    xyzw = _unit(quats)
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw *= np.where(np.take_along_axis(xyzw, largest[:, None], 1) < 0, -1, 1)
    packed = largest.astype(np.uint32)
    for i in range(4):
        steps = np.minimum(np.floor(511 * np.sqrt(2) * np.abs(xyzw[:, i]) + 0.5), 511)
        field = (xyzw[:, i] < 0).astype(np.uint32) << 9 | steps.astype(np.uint32)
        packed = np.where(largest == i, packed, packed << 10 | field)
    return packed.astype("<u4")


def _quantize_rest(rest: np.ndarray, sh_bits: int = SH_BITS) -> np.ndarray:
    """Bytes of SH on a coarse lattice, which is what makes them small (not the container)."""
    step = np.full((rest.shape[1], 1), 1 << (8 - max(sh_bits - 1, 1)))
    step[:3] = 1 << (8 - sh_bits)
    centred = np.rint(np.clip(rest.astype(np.float64), -2, 2) * 128).astype(np.int64) + 128
    return np.clip((centred + step // 2) // step * step, 0, 255).astype(np.uint8)
