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

    def steady_s(self) -> float:
        """Seconds since 1970-01-01 UTC as they were when this process began, and what has passed since.

        Does not jump when somebody sets the clock: for how long things are kept.
        """


class SystemClock:
    """The machine's clocks."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def steady_s(self) -> float:
        return time.monotonic() + self._ahead_s


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 1000.0
        self._ahead_s = now_s - self._monotonic_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def steady_s(self) -> float:
        return self._monotonic_s + self._ahead_s

    def set(self, now_s: float) -> None:
        """Let the clock jump, as when somebody sets it."""
        self._now_s = now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds
        self._monotonic_s += seconds
