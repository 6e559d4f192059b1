"""How long the handlers of one actor take: the last times, sampled, so that measuring costs next to nothing.

Each of the first messages is timed, later one in `EVERY`: two looks at the clock and one store cost 0.3 µs,
which is a tenth of what a small message costs in all. A prime, so that a rhythm in the messages does not
hide one kind of them.
"""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

KEPT: Final = 256  # times, of which percentiles are told
EVERY: Final = 17


class Percentiles(NamedTuple):
    """Of the last sampled handlings, in seconds."""

    p50_s: float
    p99_s: float


class HandlerTimes:
    """Written by the thread of the actor, read from any."""

    __slots__ = ("_times", "next_at")

    def __init__(self) -> None:
        self.next_at = 0  # the number of handled messages at which the next one is to be timed
        self._times: array[float] = array("f")  # the oldest are overwritten

    def add(self, handled: int, took_s: float) -> None:
        """Note how long the message with this number took."""
        times = self._times
        if handled < KEPT:
            times.append(took_s)
            self.next_at = handled + 1
        else:
            times[handled // EVERY % KEPT] = took_s
            self.next_at = handled + EVERY

    def percentiles(self) -> Percentiles | None:
        """Return median and 99th percentile; None before the first message."""
        times = sorted(self._times)
        if not times:
            return None
        return Percentiles(times[(len(times) - 1) // 2], times[(len(times) - 1) * 99 // 100])
