"""The state of an unfinished fit on disk: whole or not at all, and nothing executable in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def save_checkpoint(path: str | Path, state: dict[str, Any], about: dict[str, Any]) -> None:
    """Write tensors and numbers, by a temporary file beside `path` that takes its name at last.

    `about` says what the state belongs to; `load_checkpoint` wants the same again.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "about": about, "state": state}, file)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ValueError(f"{path}: cannot write: {error.strerror}") from None
        raise


def load_checkpoint(path: str | Path, about: dict[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint of the same job.

    Raises ValueError, one line: no such file, not a checkpoint, or one of another job, naming
    the first thing that differs.
    """
    path = Path(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        form, other, state = found["format"], found["about"], found["state"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint to resume from") from None
    except Exception:
        raise ValueError(f"{path}: not a checkpoint of fieldpress, or damaged") from None
    if form != FORMAT:
        raise ValueError(f"{path}: expected checkpoint format {FORMAT}, got {form}")
    for key, value in about.items():
        if other.get(key) != value:
            raise ValueError(
                f"{path}: this checkpoint is of another fit: {key} was {other.get(key)!r}, "
                f"now {value!r}"
            )
    return state
