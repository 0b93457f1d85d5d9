"""One thread ahead: the next item of a decoder is made while the last one is at work."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], threads: int) -> Generator[T, None, None]:
    """The same items in the same order; with two threads or more, each is made one ahead.

    An error that making an item raises comes where the item would have.
    """
    if threads < 2:
        yield from items
        return
    with ThreadPoolExecutor(1) as maker:
        coming: Future[T | None] = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item
