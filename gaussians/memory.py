"""What freed memory does: glibc keeps it, unless it is told not to."""

from __future__ import annotations

import contextlib
import ctypes

from ..render.splat import forget_workspace

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # Options of glibc's mallopt.
FRUGAL = ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 4 << 20), (M_MMAP_THRESHOLD, 4 << 20))
LARGE = 96 << 20  # Bytes of floats from which memory matters more than the time that it costs.


def give_back(float_bytes: int = LARGE) -> None:
    """Return freed memory to the system, as large temporaries leave much behind.

    The rasteriser's waiting workspace too.

    Nothing is done for a model of less than LARGE bytes.
    """
    if float_bytes >= LARGE:
        forget_workspace()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def be_frugal(float_bytes: int) -> None:
    """Make glibc keep little of what the trials of a large model free, until the process ends.

    Large arrays get pages of their own, which go back at once, and all threads share one heap.
    Only a whole program may decide this.
    """
    if float_bytes >= LARGE:
        with contextlib.suppress(OSError, AttributeError):
            for option, value in FRUGAL:
                ctypes.CDLL("libc.so.6").mallopt(option, value)
