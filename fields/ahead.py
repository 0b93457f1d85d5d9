"""A thread ahead: the next items of a decoder are made while the last one is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
DEPTH = 3  # Items at most that are made before they are asked for.


def ahead(items: Iterator[T], threads: int) -> Generator[T, None, None]:
    """The same items in the same order; with two threads or more, one of them makes some ahead.

    An error that making an item raises comes where the item would have.
    """
    if threads < 2:
        yield from items
        return
    with ThreadPoolExecutor(1) as maker:
        coming: deque[Future[T | None]] = deque()
        try:
            while True:
                while len(coming) < DEPTH:
                    coming.append(maker.submit(next, items, None))
                if (item := coming.popleft().result()) is None:
                    return
                yield item
        finally:
            for future in coming:
                future.cancel()
