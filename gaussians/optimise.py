"""A better SOG or SPZ for the same bytes, by what views of the scene show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aim:
    target_bytes: int | None = None
    seed: int = 0


def optimised(model: Any, kind: str, aim: Aim, scene: Any, progress: Any) -> Any:
    raise ValueError("not yet")
