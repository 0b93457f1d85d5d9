"""Colours of a large model in a mapped scratch file: what is not in use takes no memory.

Of a degree-3 Gaussian's 59 numbers 48 are colours, and what looks at all of them can do so strip
by strip: `let_go` after each returns the room. The geometry stays in memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .curve import along_curve

if TYPE_CHECKING:
    from .model import SplatModel

STRIP = 1 << 14  # Gaussians that are moved at once
_maps: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()


def shelf(count: int, bases: int) -> Tensor:
    """[count, bases, 3] float32 zeros in a scratch file that nobody else sees, or else in memory.

    The file's room is taken at once, as a page that finds none later would kill the process. It
    ends with the tensor.
    """
    size = 12 * count * bases
    try:
        with tempfile.TemporaryFile(prefix="fieldpress-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except (OSError, AttributeError, ValueError):  # No room, not on Linux, nothing to hold.
        return torch.zeros(count, bases, 3)
    found = torch.frombuffer(mapped, dtype=torch.float32).view(count, bases, 3)
    _maps[found.untyped_storage().data_ptr()] = mapped
    return found


def shelved(model: SplatModel, *, sort: bool = False) -> SplatModel:
    """The same with its colours on a shelf, which takes a copy of them.

    With `sort` near Gaussians come to stand together. A model whose colours are there already is
    given back as it is.
    """
    if on_shelf(model):
        return model
    colors = shelf(len(model), 1 + model.shN.shape[1])
    order = torch.arange(len(model))
    if sort:
        order = torch.from_numpy(np.argsort(along_curve(model.means), kind="stable"))
    for start in range(0, len(order), STRIP):
        rows, place = order[start : start + STRIP], slice(start, start + STRIP)
        colors[place, :1], colors[place, 1:] = model.sh0[rows], model.shN[rows]
        let_go(colors)
    if sort:
        names = ("means", "quats", "scales", "opacities")
        model = replace(model, **{name: getattr(model, name)[order] for name in names})
    return replace(model, sh0=colors[:, :1], shN=colors[:, 1:])


def on_shelf(model: SplatModel) -> bool:
    """Whether the colours of a model are on a shelf."""
    return model.sh0.untyped_storage().data_ptr() in _maps


def let_go(colors: Tensor) -> None:
    """Return the memory of colours on a shelf, which keeps them; nothing for other tensors."""
    mapped = _maps.get(colors.untyped_storage().data_ptr())
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)
