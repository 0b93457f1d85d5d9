"""Where an encoder's input waits: in memory, or in a scratch file so that trials have the room.

Both give the same values; what is read back is what was written, bit by bit.
"""

from __future__ import annotations

import copy
import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .model import SplatModel
from .shelf import STRIP, let_go, shelf

Floats = NDArray[np.float32]


class Stored(Protocol):
    """A model's N Gaussians that can be had in a given order of theirs, some at a time."""

    @property
    def sh_degree(self) -> int: ...

    @property
    def antialiased(self) -> bool: ...

    @property
    def float_bytes(self) -> int: ...

    @property
    def fresh(self) -> bool:
        """Whether `whole` gives tensors that nobody else holds."""
        ...

    def __len__(self) -> int: ...

    def rows(self, places: NDArray[np.integer]) -> Mapping[str, Floats]:
        """The Gaussians at places [n], rising, of the order: tensors by name, colours flat."""
        ...

    def whole(self) -> SplatModel:
        """All Gaussians as the caller ordered them; with colours on a shelf if they are fresh."""
        ...

    def recolored(self, ordered: SplatModel) -> Stored:
        """The same with the colours of N Gaussians that stand in the order."""
        ...


@dataclass(frozen=True)
class Resident:
    """A model in memory, not copied; `order` [N] names its Gaussian at each place."""

    model: SplatModel
    order: NDArray[np.integer]

    fresh = False

    @property
    def sh_degree(self) -> int:
        return self.model.sh_degree

    @property
    def antialiased(self) -> bool:
        return self.model.antialiased

    @property
    def float_bytes(self) -> int:
        return self.model.float_bytes

    def __len__(self) -> int:
        return len(self.model)

    def rows(self, places: NDArray[np.integer]) -> Mapping[str, Floats]:
        index = self.order[places]
        return {
            name: x.numpy()[index].reshape(len(index), math.prod(x.shape[1:]))
            for name, x in self.model.tensors().items()
            if name != "means"  # Its Morton codes stand for them.
        }

    def whole(self) -> SplatModel:
        return self.model

    def recolored(self, ordered: SplatModel) -> Resident:
        back = torch.from_numpy(np.argsort(self.order))
        model = replace(self.model, sh0=ordered.sh0[back], shN=ordered.shN[back])
        return Resident(model, self.order)


class Spilled:
    """The same in a scratch file that nobody else sees and that ends with this object.

    Rows of float32 in the order of coding, where neighbours are neighbours in the file. Raises
    OSError where the file cannot be written.
    """

    fresh = True

    def __init__(self, model: SplatModel, order: NDArray[np.integer]) -> None:
        self.sh_degree, self.antialiased = model.sh_degree, model.antialiased
        self.float_bytes, self._extra = model.float_bytes, model.extra
        self._order = order.astype(np.int32)
        self._columns: dict[str, slice] = {}
        at = 0
        for name, x in model.tensors().items():
            width = math.prod(x.shape[1:])
            self._columns[name] = slice(at, at + width)
            at += width
        self._width = at
        self._write(self._gathered(model))

    def _gathered(self, model: SplatModel) -> Iterator[Floats]:
        for index in self._strips():
            rows = np.empty((len(index), self._width), np.float32)
            for name, x in model.tensors().items():
                rows[:, self._columns[name]] = x.numpy()[index].reshape(len(index), -1)
            let_go(model.sh0)
            yield rows

    def _write(self, strips: Iterator[Floats]) -> None:
        """Put all rows into a new file of this object's own."""
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile(prefix="fieldpress-", buffering=0)  # noqa: SIM115
        try:
            for rows in strips:
                left = memoryview(rows.data).cast("B")
                while left:
                    left = left[self._file.write(left) :]
        except BaseException:
            self._file.close()
            raise

    def recolored(self, ordered: SplatModel) -> Spilled:
        def strips() -> Iterator[Floats]:
            for start in range(0, len(self), STRIP):
                part = slice(start, start + STRIP)
                rows = self._read(start, min(start + STRIP, len(self)))
                for name in ("sh0", "shN"):
                    rows[:, self._columns[name]] = ordered.tensors()[name][part].flatten(1).numpy()
                let_go(ordered.sh0)
                yield rows

        found = copy.copy(self)
        found._write(strips())
        return found

    def _strips(self) -> Iterator[NDArray[np.int32]]:
        for start in range(0, len(self._order), STRIP):
            yield self._order[start : start + STRIP]

    def __len__(self) -> int:
        return len(self._order)

    def _read(self, start: int, stop: int) -> Floats:
        rows = np.empty((stop - start, self._width), np.float32)
        left = memoryview(rows.data).cast("B")
        with self._lock:
            self._file.seek(4 * self._width * start)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise OSError("the scratch file of the compression was cut short")
                left = left[count:]
        return rows

    def rows(self, places: NDArray[np.integer]) -> Mapping[str, Floats]:
        if not len(places):
            return {
                n: np.zeros((0, c.stop - c.start), np.float32) for n, c in self._columns.items()
            }
        first = int(places[0])
        rows = self._read(first, int(places[-1]) + 1)
        if len(places) != len(rows):
            rows = rows[places - first]
        return {name: rows[:, columns] for name, columns in self._columns.items()}

    def whole(self) -> SplatModel:
        n, bases = len(self), (self.sh_degree + 1) ** 2
        shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": ()}
        out = {name: np.empty((n, *shape), np.float32) for name, shape in shapes.items()}
        colors = shelf(n, bases)
        tensors = {"sh0": colors[:, :1], "shN": colors[:, 1:]}
        out |= {name: x.numpy() for name, x in tensors.items()}
        start = 0
        for index in self._strips():
            rows = self._read(start, start + len(index))
            for name, x in out.items():
                x[index] = rows[:, self._columns[name]].reshape(len(index), *x.shape[1:])
            let_go(colors)
            start += len(index)
        tensors = {name: torch.from_numpy(x) for name, x in out.items()} | tensors
        return SplatModel(**tensors, antialiased=self.antialiased, extra=self._extra)
