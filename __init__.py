"""fieldpress: captured scenes made many times smaller, with proof of what was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import load, save

__version__ = "0.1.0"
__all__ = ["__version__", "load", "save"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `fieldpress --help` does not wait for torch.
    if name in ("load", "save"):
        from . import models

        return getattr(models, name)
    raise AttributeError(f"module 'fieldpress' has no attribute {name!r}")
