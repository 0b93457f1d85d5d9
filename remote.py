"""Files by URL: s3, gs, http and all else that fsspec knows, where it is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # Two letters at least: C:\\ is a drive.


def is_url(path: str | Path) -> bool:
    return URL.match(str(path)) is not None


def read(url: str) -> bytes:
    """The bytes at a URL. Raises FileNotFoundError or ValueError, one line."""
    system, place = _opened(url)
    try:
        return system.cat_file(place)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: no such file") from None
    except Exception as error:  # Every service has errors of its own.
        raise ValueError(f"{url}: not readable: {_reason(error)}") from None


def write(url: str, blocks: Iterable[bytes]) -> int:
    """Store blocks at a URL in one piece; the bytes written. Raises ValueError, one line."""
    system, place = _opened(url)
    data = b"".join(blocks)
    try:
        system.pipe_file(place, data)
    except Exception as error:
        raise ValueError(f"{url}: cannot write: {_reason(error)}") from None
    return len(data)


def exists(url: str) -> bool:
    """Whether there is something at a URL. Raises ValueError where one cannot know."""
    system, place = _opened(url)
    try:
        return system.exists(place)
    except Exception as error:
        raise ValueError(f"{url}: not readable: {_reason(error)}") from None


def matches(pattern: str) -> list[str]:
    """The URLs that a pattern with * matches, in order. Raises ValueError."""
    system, place = _opened(pattern)
    try:
        return sorted(system.unstrip_protocol(name) for name in system.glob(place))
    except Exception as error:
        raise ValueError(f"{pattern}: cannot list: {_reason(error)}") from None


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the place on it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ValueError(f"{url}: URLs need fsspec: pip install 'fieldpress[remote]'") from None
    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:  # An unknown protocol, or its package is missing.
        raise ValueError(f"{url}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
