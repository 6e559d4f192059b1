"""Clocks: the one that runs, and the one that tests and virtual time move."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where actors read the time. Never `time.time()` in an actor."""

    def now_s(self) -> float:
        """Seconds since 1970-01-01 UTC; may jump."""

    def monotonic_s(self) -> float:
        """Seconds that never go back; the same in all processes of this machine."""


class SystemClock:
    """The machine's clocks."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 1000.0

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now_s += seconds
        self._monotonic_s += seconds
