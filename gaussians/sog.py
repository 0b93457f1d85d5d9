"""SOG, PlayCanvas's textures of Gaussians: versions 1 and 2, bundled, loose or in levels."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from ..quant import budget
from .model import SplatModel, check_room
from .turn import joined
from .unpack import logit, restore_largest

META_LIMIT = 64 << 20
ENTRY_FLOOR, ENTRY_RATIO = 64 << 20, 100  # A deflated entry may claim this much, not more.
# Real textures take about 3 bytes a texel: far fewer is a bomb, except in tiny files.
TEXEL_FLOOR, TEXELS_PER_BYTE = 1 << 20, 64
# A texture of one colour (all opaque, say) is smaller still: positions are never all alike.
TEXELS_PER_MEANS_BYTE = 4
PALETTE_COLUMNS = 64
COEFFICIENTS = {1: 3, 2: 8, 3: 15}
MOST_REST = 15
TEXEL_BYTES = 4
ROTATION_TAG = 252
FLOAT32_LIMIT = 3.4e38

Fetch = Callable[[str], bytes]


def read_sog(source: str | Path | bytes, *, name: str | None = None) -> SplatModel:
    """Read SOG: a bundled file or its bytes, a folder, its meta.json or a lod-meta.json.

    Of levels of detail the finest whose files exist is read; extra["lod"] says which.
    Raises ValueError in one line naming the file and the section at fault.
    """
    if isinstance(source, bytes):
        return _read_bundle(io.BytesIO(source), len(source), name or "SOG")
    path, file = Path(source), name or str(source)
    if path.is_dir():
        path = next((p for n in ("meta.json", "lod-meta.json") if (p := path / n).exists()), path)
        if path.is_dir():
            raise ValueError(f"{file}: expected a folder with meta.json or lod-meta.json")
    if path.suffix != ".json":
        return _read_bundle(path, path.stat().st_size, file)
    meta = _parse_json(_read_loose(path.parent, file)(path.name), file)
    if "lodLevels" in meta:
        return _read_levels(meta, path.parent, file)
    return _decode(meta, _read_loose(path.parent, file), file)


def _read_bundle(source: io.BytesIO | Path, size: int, file: str) -> SplatModel:
    try:
        with zipfile.ZipFile(source) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            metas = [n for n in infos if PurePosixPath(n).name == "meta.json"]
            if not metas:
                raise ValueError(f"{file}: SOG archive has no meta.json")
            folder = min(metas, key=len).removesuffix("meta.json")

            def fetch(entry: str) -> bytes:
                info = infos.get(folder + entry)
                if info is None:
                    raise ValueError(f"{file}: SOG archive has no entry {entry!r:.80}")
                limit = max(ENTRY_FLOOR, ENTRY_RATIO * size)
                if info.file_size > limit:
                    raise ValueError(
                        f"{file}: SOG entry {entry}: expected at most {limit} bytes, "
                        f"claims {info.file_size}"
                    )
                budget.check(info.file_size, f"{file}: SOG entry {entry}")
                with archive.open(info) as stream:
                    return stream.read(info.file_size)

            return _decode(_parse_json(fetch("meta.json"), file), fetch, file)
    except (OSError, ValueError) as error:
        if str(error).startswith(file) or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file}: SOG archive not readable: {_one_line(error)}") from None
    except Exception as error:  # zipfile has a dozen ways to fail on hostile bytes.
        raise ValueError(f"{file}: SOG archive not readable: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_sog_files(meta: bytes, fetch: Fetch, name: str) -> SplatModel:
    """Read the meta.json of a folder whose other files `fetch` gets by their names.

    For folders that are not on a disk; of levels of detail, each has a meta.json of its own.
    """

    def within(entry: str) -> bytes:
        _check_inside(entry, name)
        return fetch(entry)

    found = _parse_json(meta, name)
    if "lodLevels" in found:
        raise ValueError(f"{name}: expected the meta.json of one level, got a list of levels")
    return _decode(found, within, name)


def _check_inside(entry: str, file: str) -> PurePosixPath:
    relative = PurePosixPath(entry)
    if relative.is_absolute() or ".." in relative.parts or "\\" in entry or "\0" in entry:
        raise ValueError(f"{file}: SOG names a file outside its folder: {entry!r:.80}")
    return relative


def _read_loose(folder: Path, file: str) -> Fetch:
    def fetch(entry: str) -> bytes:
        path = folder / _check_inside(entry, file)
        if not _is_file(path):
            raise ValueError(f"{file}: SOG file {entry!r:.80} is missing")
        return path.read_bytes()

    return fetch


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # A name that is too long, or holds a zero byte.
        return False


def _parse_json(data: bytes, file: str) -> dict[str, Any]:
    if len(data) > META_LIMIT:
        raise ValueError(f"{file}: SOG meta.json: expected at most {META_LIMIT} bytes")
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: SOG meta.json is not JSON: {_one_line(error)}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"{file}: SOG meta.json: expected an object")
    return meta


def _read_levels(meta: dict[str, Any], folder: Path, file: str) -> SplatModel:
    """The finest level of which any file exists, its files joined in the order of their numbers."""
    names = meta.get("filenames")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{file}: lod-meta.json: expected a list of filenames")
    fetch = _read_loose(folder, file)
    for level, numbers in sorted(_files_by_level(meta, len(names), file).items()):
        wanted = [names[i] for i in sorted(numbers)]
        present = [n for n in wanted if _is_file(folder / n)]
        if not present:
            continue
        parts = []
        for entry in present:
            part = _parse_json(fetch(entry), file)
            near = _read_loose((folder / entry).parent, f"{file}: {entry}")
            parts.append(_decode(part, near, f"{file}: {entry}"))
        extra = {"source_format": parts[0].extra["source_format"], "lod": level}
        extra["lod_files"] = " ".join(present)
        if len(present) < len(wanted):
            extra["lod_files_missing"] = len(wanted) - len(present)
        return joined(parts, extra)
    raise ValueError(f"{file}: lod-meta.json: none of its {len(names)} files exists")


def _files_by_level(meta: dict[str, Any], n_files: int, file: str) -> dict[int, set[int]]:
    levels: dict[int, set[int]] = {}
    stack = [meta.get("tree")]
    while stack:
        node = stack.pop()
        children = node.get("children", []) if isinstance(node, dict) else None
        lods = node.get("lods", {}) if isinstance(node, dict) else None
        if not isinstance(children, list) or not isinstance(lods, dict):
            raise ValueError(f"{file}: lod-meta.json: expected a tree of objects")
        stack += children
        for level, leaf in lods.items():
            number = leaf.get("file") if isinstance(leaf, dict) else None
            if not level.isdecimal() or type(number) is not int or not 0 <= number < n_files:
                raise ValueError(
                    f"{file}: lod-meta.json: expected a file number in 0..{n_files - 1}"
                )
            levels.setdefault(int(level), set()).add(number)
    return levels


def _decode(meta: Mapping[str, Any], fetch: Fetch, file: str) -> SplatModel:
    version = meta.get("version", 1)
    if version not in (1, 2):
        raise ValueError(f"{file}: SOG version: expected 1 or 2, got {version!r:.20}")
    shape = _section(meta, "means", file).get("shape")
    count = (
        meta.get("count") if version == 2 else shape[0] if isinstance(shape, list) and shape else 0
    )
    if type(count) is not int or count < 1:
        raise ValueError(f"{file}: SOG count: expected a positive integer, got {count!r:.20}")
    sh0 = _texture(meta, "sh0", 0, fetch, count, file)
    check_room(count, 0 if meta.get("shN") is None else MOST_REST, f"{file}: SOG")
    with np.errstate(all="ignore"):  # Absurd ranges give non-finite values: sanitize's task.
        colors, opacities = _decode_sh0(meta, sh0, version, file)
        model = SplatModel(
            means=torch.from_numpy(_decode_means(meta, fetch, count, file)),
            quats=torch.from_numpy(_decode_quats(meta, fetch, count, file)),
            scales=torch.from_numpy(_decode_scales(meta, fetch, count, version, file)),
            opacities=torch.from_numpy(opacities),
            sh0=torch.from_numpy(colors[:, None]),
            shN=torch.from_numpy(_decode_rest(meta, fetch, count, version, file)),
            antialiased=bool(meta.get("antialias")) or meta.get("model") == "antialiased",
            extra={"source_format": f"sog v{version}"},
        )
    return model


def _section(meta: Mapping[str, Any], section: str, file: str) -> dict[str, Any]:
    value = meta.get(section)
    if not isinstance(value, dict):
        raise ValueError(f"{file}: SOG meta.json: expected an object {section!r}")
    return value


def _floats(
    meta: Mapping[str, Any], section: str, key: str, n: int, file: str, dtype: type = np.float32
) -> np.ndarray:
    """[n] numbers of meta.json, within float32; one number may stand for a list of one."""
    value = _section(meta, section, file).get(key)
    values = value if isinstance(value, list) else [value]
    numbers = [v for v in values if isinstance(v, (int, float)) and abs(v) < FLOAT32_LIMIT]
    if len(values) != n or len(numbers) != n:
        raise ValueError(f"{file}: SOG {section}.{key}: expected {n} finite numbers")
    return np.array(numbers, dtype)


def _texture(
    meta: Mapping[str, Any], section: str, index: int, fetch: Fetch, count: int, file: str
) -> np.ndarray:
    """[count, 4] uint8: the first texels of one of a section's images."""
    pixels = _image(meta, section, index, fetch, file)
    flat = pixels.reshape(-1, 4)
    if len(flat) < count:
        raise ValueError(
            f"{file}: SOG {section} image: expected at least {count} texels, got {len(flat)}"
        )
    return flat[:count]


def _image(
    meta: Mapping[str, Any], section: str, index: int, fetch: Fetch, file: str
) -> np.ndarray:
    """[H, W, 4] uint8, decoded only after its size is known to be plausible."""
    names = _section(meta, section, file).get("files")
    if not isinstance(names, list) or len(names) <= index or not isinstance(names[index], str):
        raise ValueError(f"{file}: SOG {section}.files: expected the name of image {index}")
    data = fetch(names[index])
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(f"{file}: SOG needs Pillow: pip install 'fieldpress[images]'") from None
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as image:
            texels = image.width * image.height
            budget.check(2 * TEXEL_BYTES * texels, "its texels")
            if texels > _plausible_texels(len(data), meta, fetch):
                raise ValueError(f"{texels} texels from {len(data)} bytes")
            return np.asarray(image.convert("RGBA"))
    except Exception as error:  # An image decoder of others, fed with hostile bytes.
        raise ValueError(
            f"{file}: SOG image {names[index]!r:.80} not readable: {_one_line(error)}"
        ) from None


def _plausible_texels(size: int, meta: Mapping[str, Any], fetch: Fetch) -> int:
    """How many texels an image of `size` bytes may have, given what the positions take."""
    names = meta["means"].get("files")
    known = isinstance(names, list) and names and isinstance(names[0], str)
    means = len(fetch(names[0])) if known else 0
    return max(TEXEL_FLOOR, TEXELS_PER_BYTE * size, TEXELS_PER_MEANS_BYTE * means)


def _decode_means(meta: Mapping[str, Any], fetch: Fetch, count: int, file: str) -> np.ndarray:
    """16 bits a coordinate, split over two images, of sign(v) ln(1 + |v|)."""
    low = _texture(meta, "means", 0, fetch, count, file)[:, :3].astype(np.uint32)
    high = _texture(meta, "means", 1, fetch, count, file)[:, :3].astype(np.uint32)
    mins, maxs = (_floats(meta, "means", key, 3, file, np.float64) for key in ("mins", "maxs"))
    t = mins + (maxs - mins) * ((high << 8 | low) / 65535)
    return (np.sign(t) * np.expm1(np.abs(t))).astype(np.float32)


def _decode_quats(meta: Mapping[str, Any], fetch: Fetch, count: int, file: str) -> np.ndarray:
    """RGB holds three of wxyz; alpha says which one, the largest, was dropped."""
    texels = _texture(meta, "quats", 0, fetch, count, file)
    three = (texels[:, :3] / np.float32(255) - np.float32(0.5)) * np.float32(math.sqrt(2))
    tagged = texels[:, 3] >= ROTATION_TAG
    largest = np.where(tagged, texels[:, 3].astype(np.int64) - ROTATION_TAG, 0)
    quats = restore_largest(three.astype(np.float32), largest)
    quats[~tagged] = (1, 0, 0, 0)
    return quats


def _decode_scales(
    meta: Mapping[str, Any], fetch: Fetch, count: int, version: int, file: str
) -> np.ndarray:
    texels = _texture(meta, "scales", 0, fetch, count, file)[:, :3]
    if version == 2:
        return _floats(meta, "scales", "codebook", 256, file)[texels]
    mins, maxs = (_floats(meta, "scales", key, 3, file) for key in ("mins", "maxs"))
    return mins + (maxs - mins) * (texels / np.float32(255))


def _decode_sh0(
    meta: Mapping[str, Any], texels: np.ndarray, version: int, file: str
) -> tuple[np.ndarray, np.ndarray]:
    """DC coefficients [N, 3] and opacity logits [N]: version 1 stored the logit itself."""
    if version == 2:
        codebook = _floats(meta, "sh0", "codebook", 256, file)
        return codebook[texels[:, :3]], logit(texels[:, 3] / 255)
    mins, maxs = (_floats(meta, "sh0", key, 4, file) for key in ("mins", "maxs"))
    values = mins + (maxs - mins) * (texels / np.float32(255))
    return values[:, :3], np.ascontiguousarray(values[:, 3])


def _decode_rest(
    meta: Mapping[str, Any], fetch: Fetch, count: int, version: int, file: str
) -> np.ndarray:
    """[N, K-1, 3] from a palette image of 64 entries a row and an image of 16-bit labels."""
    if meta.get("shN") is None:
        return np.zeros((count, 0, 3), np.float32)
    section = _section(meta, "shN", file)
    image = _image(meta, "shN", 0, fetch, file)
    rest, odd = divmod(image.shape[1], PALETTE_COLUMNS)
    bands = section.get("bands", {v: k for k, v in COEFFICIENTS.items()}.get(rest))
    if type(bands) is not int or odd or COEFFICIENTS.get(bands) != rest:
        raise ValueError(
            f"{file}: SOG shN: expected 1 to 3 bands and centroids 192, 512 or 960 texels wide, "
            f"got {bands!r:.20} and {image.shape[1]}"
        )
    room = PALETTE_COLUMNS * image.shape[0]
    entries = section.get("count", room)
    if type(entries) is not int or not 0 < entries <= room:
        raise ValueError(f"{file}: SOG shN.count: expected 1 to {room}, got {entries!r:.20}")
    texels = _texture(meta, "shN", 1, fetch, count, file)
    labels = texels[:, 0].astype(np.int64) | texels[:, 1].astype(np.int64) << 8
    if labels.max() >= entries:
        raise ValueError(f"{file}: SOG shN label {labels.max()} beyond the palette of {entries}")
    if version == 2:
        values = _floats(meta, "shN", "codebook", 256, file)
    else:
        low, high = (_floats(meta, "shN", key, 1, file)[0] for key in ("mins", "maxs"))
        values = (low + (high - low) * (np.arange(256) / 255)).astype(np.float32)
    palette = values[image.reshape(room, rest, 4)[:entries, :, :3]]
    return palette[labels]
