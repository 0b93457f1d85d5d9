"""How often something may happen: so many at once, and so many a second after that."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

Clock = Callable[[], float]


class Bucket:
    """Holds `burst` drops and gets `rate` of them a second; every event takes one."""

    def __init__(self, rate: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._drops, self._when = burst, clock()

    def _fill(self) -> None:
        now = self._clock()
        self._drops = min(self._burst, self._drops + self._rate * (now - self._when))
        self._when = now

    @property
    def empty(self) -> bool:
        """Whether an event would be one too many."""
        self._fill()
        return self._drops < 1

    def take(self) -> bool:
        """Whether an event may be; it is counted if so."""
        if self.empty:
            return False
        self._drops -= 1
        return True


class Buckets:
    """One for each of the addresses seen last, `most` of them."""

    def __init__(self, rate: float, burst: float, most: int, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._known: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, address: str) -> Bucket:
        """That of an address, full for a new one."""
        bucket = self._known.pop(address, None)
        self._known[address] = bucket or Bucket(self._rate, self._burst, self._clock)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return self._known[address]
