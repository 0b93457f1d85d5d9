"""How much memory the reading of one file may take: claims are held to it before they count.

A whole program decides it (`--max-memory`, by the environment, so that its workers keep to it too);
by default it is what the machine has. Readers `check` what they are about to allocate because a
file says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 10**6
VARIABLE = "FIELDPRESS_MAX_MEMORY"  # In MB.
HUGE = 10**15  # A file may claim 10^400.
CGROUP = Path("/sys/fs/cgroup/memory.max")
_limit: int | None = None  # None: of the machine, asked for when it is first needed.


def limit() -> int:
    """Bytes that reading a file may take."""
    global _limit
    if _limit is None:
        given = os.environ.get(VARIABLE)
        _limit = parse(given) if given else _of_machine()
    return _limit


def parse(text: str) -> int:
    """Bytes of a number of MB. Raises ValueError."""
    try:
        size = int(MB * float(text))
    except (ValueError, OverflowError):
        size = 0
    if size < MB:
        raise ValueError(f"max-memory: expected a number of MB, at least 1, got {text!r:.40}")
    return size


def set_limit(most: int | None) -> None:
    """Set it for this process; None goes back to what was given or there is."""
    global _limit
    _limit = most


@contextmanager
def limited(most: int | None) -> Iterator[None]:
    """The limit within a block."""
    before = _limit
    set_limit(most)
    try:
        yield
    finally:
        set_limit(before)


def check(size: int, where: str) -> None:
    """Raise ValueError, one line that begins with `where`, for more bytes than there may be."""
    if size > limit():
        raise ValueError(
            f"{where}: needs {min(size, HUGE) / MB:,.0f} MB of memory, more than the limit of "
            f"{limit() / MB:,.0f} MB (--max-memory)"
        )


def _of_machine() -> int:
    """Memory of this machine, or of the group of processes that this one is in."""
    sizes = [1 << 62]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # Not Linux, or "max".
        sizes.append(int(CGROUP.read_text()))
    return min(size for size in sizes if size > 0)
