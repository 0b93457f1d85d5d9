"""Drawing on another device what lies on the CPU, for work that is mostly drawing."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MOST_COPIES = 8  # Tensors of a scene that are drawn from view after view.


@dataclass
class Elsewhere:
    """A device, and copies there of the tensors that were last drawn from it."""

    device: torch.device
    _copies: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = field(default_factory=dict)

    def copy_of(self, value: Tensor | None) -> Tensor | None:
        """The tensor there; the same copy again for as long as it is alive and unchanged."""
        if value is None or value.device == self.device:
            return value
        if value.requires_grad:
            return value.to(self.device)
        of, version, copy = self._copies.pop(id(value), (None, -1, value))
        if of is None or of() is not value or version != value._version:
            copy = value.to(self.device)
        if len(self._copies) == MOST_COPIES:
            self._copies.pop(next(iter(self._copies)))
        self._copies[id(value)] = (weakref.ref(value), value._version, copy)
        return copy

    def copies_of(self, values: Iterable[Tensor | None]) -> Any:
        """`copy_of` each."""
        return tuple(self.copy_of(value) for value in values)


_CURRENT: ContextVar[Elsewhere | None] = ContextVar("elsewhere", default=None)


@contextmanager
def drawing_on(device: torch.device) -> Iterator[None]:
    """Within this, CPU tensors are drawn and measured on the device; results come back.

    So are gradients. A call costs the way there of what was not there yet, and the way back.
    """
    token = _CURRENT.set(None if device.type == "cpu" else Elsewhere(device))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def elsewhere_for(value: Tensor) -> Elsewhere | None:
    """Where a scene is to be drawn, if that is not where its tensors lie."""
    found = _CURRENT.get()
    return found if found is not None and value.device.type == "cpu" else None
