"""Splats for a web page: quantised planes of bytes that a browser inflates and a GPU draws.

Values are rounded to fixed steps and put in Morton order; each byte of each value is a plane of
its own, stored as it is or as differences, whichever deflates better. `viewer/page/splats.js` is
the reader; docs/viewer.md describes the layout.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import SplatModel

STEPS = {  # Of means in contracted units; of log scales; quaternions; alpha; SH.
    "means": 2.0**-17, "scales": 0.02, "quats": 1 / 400, "opacities": 1 / 255, "sh0": 0.01,
    "shN": 0.025,
}  # fmt: skip
SCALE_RANGE = (-20.0, 10.0)  # Of log scales.
MAX_VALUE = (1 << 23) - 1  # Three bytes, one of them the sign.
MORTON_BITS = 10  # An axis; enough to bring neighbours together.
LEVEL = 7  # Of zlib; 9 takes six times as long for half a percent.

Whole = NDArray[np.int64]


def pack_web(model: SplatModel) -> tuple[dict[str, Any], bytes]:
    """Header and deflated planes of a model of N finite Gaussians (SH degree 4 is cut to 3).

    The header has the count, the degree, the steps, centre and radius of the contraction
    t = sign(x - c) ln(1 + |x - c| / r), and the planes in order: what they belong to, how many
    bytes a value has, and for each byte whether differences were stored.
    """
    bases = min(model.shN.shape[1], 15)
    means = model.means.double().numpy()
    center = np.median(means, axis=0) if len(means) else np.zeros(3)
    offset = means - center
    radius = float(max(np.median(np.abs(offset)) if len(means) else 1.0, 1e-12))
    contracted = np.sign(offset) * np.log1p(np.abs(offset) / radius)
    whole = {
        "means": _round(contracted, STEPS["means"]),
        "scales": _round(model.scales.double().numpy().clip(*SCALE_RANGE), STEPS["scales"]),
        "quats": _quaternions(model.quats.double().numpy()),
        "opacities": _round(model.opacities.double().sigmoid().numpy(), STEPS["opacities"])[
            :, None
        ],
        "sh0": _round(model.sh0[:, 0].double().numpy(), STEPS["sh0"]),
        "shN": _round(
            model.shN[:, :bases].double().numpy().reshape(len(means), 3 * bases), STEPS["shN"]
        ),
    }
    order = _morton_order(whole["means"])
    planes, layout = [], []
    for name, values in whole.items():
        for column in values[order].T:
            parts, entry = _planes(column)
            planes += parts
            layout.append([name, *entry])
    header = {
        "count": len(means),
        "sh_degree": {0: 0, 3: 1, 8: 2, 15: 3}[bases],
        "antialiased": model.antialiased,
        "center": center.tolist(),
        "radius": radius,
        "steps": STEPS,
        "planes": layout,
    }
    return header, zlib.compress(b"".join(planes), LEVEL)


def _round(values: NDArray[np.floating], step: float) -> Whole:
    return np.rint(values / step).clip(-MAX_VALUE, MAX_VALUE).astype(np.int64)


def _quaternions(quats: NDArray[np.floating]) -> Whole:
    """[N, 4]: which component is the largest, and the other three, of the positive one."""
    unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-30)
    largest = np.abs(unit).argmax(1)
    rows = np.arange(len(unit))
    unit = unit * np.where(unit[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    rest = _round(np.take_along_axis(unit, others, 1), STEPS["quats"])
    return np.concatenate([largest[:, None], rest], 1)


def _morton_order(cells: Whole) -> NDArray[np.int64]:
    if not len(cells):
        return np.zeros(0, np.int64)
    low = cells.min(0)
    shift = max(int(int((cells - low).max()).bit_length()) - MORTON_BITS, 0)
    coarse = (cells - low) >> shift
    code = np.zeros(len(cells), np.int64)
    for bit in range(MORTON_BITS):
        for axis in range(3):
            code |= ((coarse[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


def _planes(values: Whole) -> tuple[list[bytes], list[int]]:
    """Byte planes of [N] integers, zigzag, and the entry: 1 for differences, then their number."""
    steps = np.diff(values, prepend=0)
    plain, differences = (_bytes(_zigzag(one)) for one in (values, steps))
    sizes = [sum(len(zlib.compress(plane, 1)) for plane in one) for one in (plain, differences)]
    chosen = int(sizes[1] < sizes[0])
    planes = (plain, differences)[chosen]
    return planes, [chosen, len(planes)]


def _zigzag(values: Whole) -> Whole:
    return np.where(values < 0, -2 * values - 1, 2 * values)


def _bytes(values: Whole) -> list[bytes]:
    """One plane a byte of the largest value, low byte first."""
    count = max(1, -(-int(values.max(initial=0)).bit_length() // 8))
    return [((values >> (8 * i)) & 255).astype(np.uint8).tobytes() for i in range(count)]
