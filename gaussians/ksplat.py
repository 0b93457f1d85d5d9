"""mkkellogg's .ksplat, version 0.1: sections of Gaussians in buckets, at levels 0 to 2."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .limits import BYTE_OPACITY, Limits, half_range
from .model import SplatModel, check_room
from .pack import stored_values
from .splat import rgba_bytes
from .turn import joined
from .unpack import SH_C0, logit

HEADER_BYTES, SECTION_BYTES = 4096, 1024
HEADER = struct.Struct("<BBxxIIIIH2x3f2f")
SECTION = struct.Struct("<IIIIfHxxIIIIH")
VERSION = (0, 1)
LEVELS = (0, 1, 2)
REST = {0: 0, 1: 3, 2: 8}
BLOCK, BUCKET, STEPS = 5.0, 256, 32767  # mkkellogg's: units a side, Gaussians, steps half a side.
SH_RANGE = 1.5  # What 0 in the header stands for.
F16_LEAST, F16_MOST = 2.0**-24, 65504.0
LIMITS = Limits(
    sh_degree=2,
    ranges={
        "sh0": (-0.5 / SH_C0, 0.5 / SH_C0),
        "opacities": BYTE_OPACITY,
        "scales": (float(np.log(F16_LEAST)), float(np.log(F16_MOST))),
        "shN": (-SH_RANGE, SH_RANGE),
    },
)


@dataclass(frozen=True)
class Section:
    """What a section's header says, checked, and where its data begin."""

    level: int
    count: int
    room: int
    bucket: int
    buckets: int
    block: float
    steps: int
    full: int
    partial: int
    sh_degree: int
    start: int

    @property
    def bucket_bytes(self) -> int:
        return 4 * self.partial + 12 * self.buckets

    @property
    def size(self) -> int:
        return self.bucket_bytes + self.room * record(self.level, self.sh_degree).itemsize


def record(level: int, sh_degree: int) -> np.dtype:
    """One Gaussian as stored."""
    number, place = ("<f4", "<f4") if level == 0 else ("<f2", "<u2")
    rest = 3 * REST[sh_degree]
    return np.dtype(
        [
            *(("means", place, 3), ("scales", number, 3), ("quats", number, 4)),
            *(("rgba", "u1", 4), ("shN", "u1" if level == 2 else number, rest)),
        ]
    )


def read_ksplat(data: bytes, *, name: str = "ksplat") -> SplatModel:
    """Read .ksplat bytes. Raises ValueError in one line naming the file and what is wrong."""
    if len(data) < HEADER_BYTES:
        raise ValueError(f"{name}: truncated .ksplat: expected a header of 4096 bytes")
    major, minor, most, n_sections, _, _, level, *_, low, high = HEADER.unpack_from(data)
    if (major, minor) != VERSION or level not in LEVELS:
        raise ValueError(
            f"{name}: .ksplat: expected version 0.1 and level 0 to 2, "
            f"got {major}.{minor} and {level}"
        )
    if not 0 < n_sections <= most or HEADER_BYTES + most * SECTION_BYTES > len(data):
        raise ValueError(
            f"{name}: .ksplat sections: expected 1 to {most} within {len(data)} bytes, "
            f"got {n_sections}"
        )
    low, high = low or -SH_RANGE, high or SH_RANGE
    start, parts, total = HEADER_BYTES + most * SECTION_BYTES, [], 0
    for index in range(n_sections):
        section = _section(data, level, index, start, name)
        total += section.count  # Joined, they get the highest degree among them.
        check_room(total, REST[section.sh_degree], f"{name}: .ksplat")
        start += section.size
        if section.count:
            parts.append(_decode(data, section, low, high, f"{name}: section {index}"))
    if not parts:
        raise ValueError(f"{name}: .ksplat: none of its {n_sections} sections has Gaussians")
    return joined(parts, {"source_format": f"ksplat level {level}"})


def _section(data: bytes, level: int, index: int, start: int, name: str) -> Section:
    fields = SECTION.unpack_from(data, HEADER_BYTES + index * SECTION_BYTES)
    count, room, bucket, buckets, block, per_bucket, steps, _, full, partial, degree = fields
    file = f"{name}: .ksplat section {index}"
    if degree not in REST:
        raise ValueError(f"{file}: SH degree: expected 0 to 2, got {degree}")
    steps = steps or (1 if level == 0 else STEPS)
    if level == 0:
        bucket = buckets = full = partial = 0
    section = Section(
        level, count, room, bucket, buckets, block, steps, full, partial, degree, start
    )
    if count > room or start + section.size > len(data):
        raise ValueError(
            f"{file}: expected at most {room} Gaussians and {len(data) - start} bytes, "
            f"got {count} and {section.size}"
        )
    if level and (full + partial > buckets or per_bucket != 12 or full * bucket > count):
        raise ValueError(
            f"{file}: expected {buckets} buckets of 12 bytes, got {full} full ones and {partial} "
            f"others of {per_bucket} for {count} Gaussians"
        )
    return section


def _decode(data: bytes, section: Section, low: float, high: float, file: str) -> SplatModel:
    form = record(section.level, section.sh_degree)
    start = section.start + section.bucket_bytes
    rows = np.frombuffer(data, form, section.count, start)
    with np.errstate(all="ignore"):  # Absurd numbers are sanitize's task.
        means = rows["means"].astype(np.float32)
        if section.level:
            centers = _centers(data, section, file)
            means = (means - section.steps) * (0.5 * section.block / section.steps) + centers
        scales = np.log(rows["scales"].astype(np.float32))
        rest = rows["shN"].astype(np.float32)
        if section.level == 2:
            rest = rest / 255 * np.float32(high - low) + np.float32(low)
        quats = rows["quats"].astype(np.float32)
        quats[~quats.any(1)] = (1, 0, 0, 0)
    colors = (rows["rgba"][:, :3] / np.float32(255) - np.float32(0.5)) / np.float32(SH_C0)
    return SplatModel(
        means=torch.from_numpy(np.ascontiguousarray(means.astype(np.float32))),
        quats=torch.from_numpy(quats),
        scales=torch.from_numpy(scales),
        opacities=torch.from_numpy(logit(rows["rgba"][:, 3] / 255)),
        sh0=torch.from_numpy(colors[:, None].astype(np.float32)),
        shN=torch.from_numpy(_from_blocks(rest.astype(np.float32))),
    )


def _centers(data: bytes, section: Section, file: str) -> NDArray[np.float32]:
    """[count, 3] of each Gaussian's bucket: full ones first, then those of given sizes."""
    sizes = np.frombuffer(data, "<u4", section.partial, section.start).astype(np.int64)
    whole = section.full * section.bucket
    if whole + int(sizes.sum()) < section.count:
        raise ValueError(
            f"{file}: its buckets hold {whole + int(sizes.sum())} of {section.count} Gaussians"
        )
    where = section.start + 4 * section.partial
    centers = np.frombuffer(data, "<f4", 3 * section.buckets, where).reshape(-1, 3)
    ends = np.cumsum(sizes) + whole
    index = np.arange(section.count)
    bucket = section.full + np.searchsorted(ends, index, side="right")
    if section.full:
        bucket = np.where(index < whole, index // section.bucket, bucket)
    return centers[bucket]


def _from_blocks(rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 3K] as stored, channel after channel within each degree, to [N, K, 3]."""
    n = len(rest)
    degrees = [rest[:, :9].reshape(n, 3, -1), rest[:, 9:].reshape(n, 3, -1)]
    return np.ascontiguousarray(np.concatenate(degrees, axis=2).transpose(0, 2, 1))


def _to_blocks(rest: NDArray[np.float32]) -> NDArray[np.float32]:
    n, by_channel = len(rest), rest.transpose(0, 2, 1)
    degrees = [by_channel[:, :, :3].reshape(n, -1), by_channel[:, :, 3:].reshape(n, -1)]
    return np.concatenate(degrees, axis=1)


def write_ksplat(model: SplatModel, *, level: int = 1) -> Iterator[bytes]:
    """The model as one section: floats (level 0), 16-bit numbers (1), or those and 8-bit SH (2).

    Above level 0 Gaussians are grouped by cells of 5 units a side, or of the scene's size where
    that is less, and positions have 65,535 steps a side. SH of degree 3 are left out, at level 2
    others reach as far as they do, to 1.5 at most. Raises ValueError for a level that there is not
    and for values that are not finite.
    """
    if level not in LEVELS:
        raise ValueError(f".ksplat level: expected 0, 1 or 2, got {level}")
    if not len(model):
        raise ValueError(".ksplat count: expected at least 1 Gaussian, got 0")
    model = LIMITS.cut(model)
    values = stored_values(model, ".ksplat")
    reach = half_range(model.shN, SH_RANGE)
    buckets = _Buckets.of(values["means"]) if level else _Buckets.none(len(model))
    form = record(level, model.sh_degree)
    count, n = len(model), len(buckets.centers)
    head = HEADER.pack(*VERSION, 1, 1, count, count, level, 0, 0, 0, -reach, reach)
    yield head.ljust(HEADER_BYTES, b"\0")
    size = 4 * len(buckets.partial) + 12 * n + count * form.itemsize
    fields = (BUCKET, n, buckets.block, 12, STEPS) if level else (0, 0, 0.0, 0, 0)
    partial = len(buckets.partial)
    yield SECTION.pack(
        count, count, *fields, size, n - partial if level else 0, partial, model.sh_degree
    ).ljust(SECTION_BYTES, b"\0")
    yield buckets.partial.astype("<u4").tobytes()
    yield buckets.centers.astype("<f4").tobytes()
    for start in range(0, count, 1 << 16):
        part = buckets.order[start : start + (1 << 16)]
        centers = buckets.centers[buckets.owner[start : start + (1 << 16)]] if level else None
        yield _records(form, level, {k: v[part] for k, v in values.items()}, centers, buckets.block,
                       reach)  # fmt: skip


def _records(
    form: np.dtype,
    level: int,
    values: dict[str, NDArray[np.float32]],
    centers: NDArray[np.float32] | None,
    block: float,
    reach: float,
) -> bytes:
    rows = np.empty(len(values["means"]), form)
    means = values["means"].astype(np.float64)
    if centers is not None:
        means = np.rint((means - centers) * (STEPS / (0.5 * block))) + STEPS
        means = means.clip(0, 2 * STEPS + 1)
    rows["means"] = means
    scales = np.exp(values["scales"].astype(np.float64))
    rows["scales"] = scales.clip(F16_LEAST, F16_MOST) if level else scales
    quats = values["quats"].astype(np.float64)
    norm = np.linalg.norm(quats, axis=1, keepdims=True)
    rows["quats"] = np.where(norm > 0, quats / np.where(norm > 0, norm, 1), [1.0, 0, 0, 0])
    rows["rgba"] = rgba_bytes(values["sh0"][:, 0], values["opacities"])
    rest = _to_blocks(values["shN"])
    if level == 2:
        rest = np.rint((rest.astype(np.float64) / reach + 1) * 127.5).clip(0, 255)
    elif level == 1:
        rest = rest.clip(-F16_MOST, F16_MOST)
    rows["shN"] = rest
    return rows.tobytes()


@dataclass(frozen=True)
class _Buckets:
    """An order of Gaussians by cell, full buckets first.

    Attributes:
        order: [N] Gaussians; owner: [N] the bucket of each in this order.
        centers: [B, 3] float32; partial: sizes of the last of them, which are not full.
    """

    order: NDArray[np.int64]
    owner: NDArray[np.int64]
    centers: NDArray[np.float32]
    partial: NDArray[np.int64]
    block: float

    @staticmethod
    def none(count: int) -> _Buckets:
        nothing = np.zeros(0, np.int64)
        return _Buckets(np.arange(count), nothing, np.zeros((0, 3), np.float32), nothing, BLOCK)

    @staticmethod
    def of(means: NDArray[np.float32]) -> _Buckets:
        low = means.min(0).astype(np.float64)
        extent = float((means.max(0) - low).max())
        # A little wider than the scene: its far end is no cell of its own.
        block = float(np.float32(min(BLOCK, 1.001 * extent) or BLOCK))
        cells = np.floor((means - low) / block)
        unique, inverse = np.unique(cells, axis=0, return_inverse=True)
        order = np.argsort(inverse.reshape(-1), kind="stable")
        sizes = np.bincount(inverse.reshape(-1), minlength=len(unique))
        rank = np.arange(len(means)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        cell = np.repeat(np.arange(len(unique)), sizes)
        full = rank < (sizes // BUCKET * BUCKET)[cell]
        order = np.concatenate([order[full], order[~full]])
        cells_full, left = np.repeat(np.arange(len(unique)), sizes // BUCKET), sizes % BUCKET
        owners = np.concatenate([cells_full, np.flatnonzero(left)])
        filled = np.concatenate([np.full(len(cells_full), BUCKET), left[left > 0]])
        centers = (low + (unique[owners] + 0.5) * block).astype(np.float32)
        owner = np.repeat(np.arange(len(owners)), filled)
        return _Buckets(order, owner, centers, left[left > 0], block)
