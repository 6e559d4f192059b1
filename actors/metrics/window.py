"""What a summary remembers: count and sum for good, and a bounded sample of the last while for quantiles."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Final

QUANTILES: Final = (0.1, 0.5, 0.9, 0.99)
SLICES: Final = 5  # of the window; the oldest is forgotten as a whole
SLICE_SAMPLES: Final = 32  # beyond, every second one goes, and every second one comes in


class _Slice:
    """Observations of one part of the window, evenly thinned out."""

    __slots__ = ("count", "number", "samples", "stride", "wait")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0  # observations, also those of which no sample was kept
        self.samples = array("d")
        self.stride = 1
        self.wait = 0  # so many samples are left out until the next one is kept

    def add(self, value: float, count: int) -> None:
        self.count += count
        if self.wait:
            self.wait -= 1
            return
        if len(self.samples) == SLICE_SAMPLES:
            self.samples = self.samples[::2]
            self.stride *= 2
        self.samples.append(value)
        self.wait = self.stride - 1


class Window:
    """One series of a summary. Takes at most 2 KB, however much is observed.

    One thread at a time observes; any may ask meanwhile: what it looks at is copied first, each part in one
    step of the interpreter.
    """

    __slots__ = ("_newest", "_slice_s", "_slices", "count", "sum")

    def __init__(self, max_age_s: float) -> None:
        self.count = 0
        self.sum = 0.0
        self._slice_s = max_age_s / SLICES
        self._slices: deque[_Slice] = deque(maxlen=SLICES + 1)
        self._newest = _Slice(-1)  # none yet

    def observe(self, value: float, count: int, total: float, now_s: float) -> None:
        """Take `count` observations that sum up to `total`, of which `value` is a typical one."""
        self.count += count
        self.sum += total
        number = int(now_s // self._slice_s)
        newest = self._newest
        if newest.number != number:
            newest = self._newest = _Slice(number)
            self._slices.append(newest)
        newest.add(value, count)

    def quantiles(self, now_s: float) -> tuple[float, ...]:
        """Return the values of QUANTILES over the window; NaN when nothing was observed in it."""
        oldest = int(now_s // self._slice_s) - SLICES
        parts = [
            (samples, part.count / len(samples))
            for part in list(self._slices)
            if part.number >= oldest and (samples := part.samples.tolist())
        ]
        if not parts:
            return (math.nan,) * len(QUANTILES)
        if all(weight == parts[0][1] for _, weight in parts):
            return _of_equal_weight(sorted(chain.from_iterable(samples for samples, _ in parts)))
        return _of(sorted((value, weight) for samples, weight in parts for value in samples))


def _of_equal_weight(values: Sequence[float]) -> tuple[float, ...]:
    """Return the quantiles of sorted values. Mostly it is like this, and five times as fast."""
    last = len(values) - 1
    return tuple(
        values[min(last, max(0, math.ceil(quantile * len(values) - 1e-9) - 1))] for quantile in QUANTILES
    )


def _of(weighed: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Return the quantiles of sorted values with their weights."""
    whole = sum(weight for _, weight in weighed)
    found = []
    position, reached = 0, weighed[0][1]
    for quantile in QUANTILES:
        while reached < quantile * whole - 1e-9 and position < len(weighed) - 1:
            position += 1
            reached += weighed[position][1]
        found.append(weighed[position][0])
    return tuple(found)
