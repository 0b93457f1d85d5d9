"""A latent field's decoder and codes as parts of a .fpz file (docs/format.md, section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..quant.container import Section
from . import tables, vq
from .vq_nerf import MAX_CODES, MAX_GROUPS, MAX_LATENTS, MAX_RATIO, VqNerfField

MAX_LAYERS, MAX_CHANNELS = 8, 3 * MAX_RATIO**2


def layout(model: VqNerfField, steps: Sequence[float], code_step: float) -> dict[str, Any]:
    """What decoding needs: keys of a file's layout."""
    return {
        "decoder": [len(weight) for weight in model.decoder],
        "decoder_steps": list(steps),
        "codes": list(model.codes.shape),
        "code_steps": [code_step],
    }


def write(model: VqNerfField, steps: Sequence[float], code_step: float) -> list[Section]:
    """The sections decoder/0, decoder/1, ... and codes."""
    codes = tables.quantise(model.codes.flatten(0, 1), code_step)
    kernels = [weight.reshape(-1, vq.TAPS) for weight in model.decoder]
    matrices = tables.write_matrices("decoder", kernels, steps)
    return [*matrices, tables.write_matrix("codes", codes)]


def rounded(model: VqNerfField, steps: Sequence[float], code_step: float) -> VqNerfField:
    """The model that decoding gives, its field left alone."""
    codes = tables.rounded([model.codes.flatten(0, 1)], [code_step])[0]
    decoder = tables.rounded(model.decoder, steps)
    return replace(model, decoder=decoder, codes=codes.reshape(model.codes.shape))


def read(values: dict[str, Any], sections: dict[str, Section], name: str) -> dict[str, Any]:
    """Decoder, codes and ratio. Raises ValueError naming the file and the key or section."""
    try:
        shape = tables.whole_numbers(values, "codes")
        limits = (MAX_GROUPS, MAX_CODES, MAX_LATENTS)
        if len(shape) != 3 or not all(1 <= n <= m for n, m in zip(shape, limits, strict=True)):
            raise ValueError(f"codes: expected 3 numbers of 1 to {limits}, got {shape}")
        layers = tables.whole_numbers(values, "decoder")
        good = 1 <= len(layers) <= MAX_LAYERS and all(1 <= n <= MAX_CHANNELS for n in layers)
        if not good:
            raise ValueError(
                f"decoder: expected 1 to {MAX_LAYERS} numbers of 1 to {MAX_CHANNELS}, "
                f"got {layers[:10]}"
            )
        steps = tables.positive(values, "decoder_steps", len(layers))
        (code_step,) = tables.positive(values, "code_steps", 1)
        ratio = values.get("ratio")
        if type(ratio) is not int:
            raise ValueError(f"ratio: expected a whole number, got {ratio!r:.40}")
    except ValueError as error:
        raise ValueError(f"{name}: header: {error}") from None
    groups, count, size = shape
    tables.check_expansion(4 * _numbers(shape, layers), _bytes(sections), name)
    widths = [3 + groups * size, *layers]
    decoder = tuple(
        tables.read_matrix(sections, f"decoder/{i}", (into * out, vq.TAPS), step, name).reshape(
            out, -1
        )
        for i, ((into, out), step) in enumerate(zip(pairwise(widths), steps, strict=True))
    )
    codes = tables.read_matrix(sections, "codes", (groups * count, size), code_step, name)
    return {"decoder": decoder, "codes": codes.reshape(shape), "ratio": ratio}


def _numbers(shape: list[int], layers: list[int]) -> int:
    widths = [3 + shape[0] * shape[2], *layers]
    kernels = sum(vq.TAPS * a * b for a, b in pairwise(widths))
    return kernels + shape[0] * shape[1] * shape[2]


def _bytes(sections: dict[str, Section]) -> int:
    return sum(len(section.payload) for section in sections.values())


def steps_of(decoder: Sequence[Tensor], codes: Tensor) -> tuple[tuple[float, ...], float]:
    """Steps of a quarter of each matrix' deviation, from which a search sets out."""
    found = [0.25 * float(weight.std().clamp_min(1e-6)) for weight in (*decoder, codes)]
    return tuple(found[:-1]), found[-1]
