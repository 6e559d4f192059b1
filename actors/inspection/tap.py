"""What one inspector gets to see of the envelopes of a process: which, and how many may wait for it.

The edge never waits for an inspector. What it does not fetch in time is left out, and counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

BUDGET_BYTES: Final = 4 * 1024 * 1024  # of frames that wait; one that begins below it may go over it
LARGEST_BYTES: Final = 1024 * 1024  # a frame over it is shown without its body
_OVERHEAD_BYTES: Final = 200  # of a small frame in memory, so that a million empty ones count as well


class TapFilter(Struct, frozen=True):
    """Patterns with `*`, `?` and `[…]`. Of each sort one has to fit; without any of a sort all fit."""

    to: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def fits(self, to: str, sender: str, kind: str) -> bool:
        """Tell whether an envelope is among those that are wanted."""
        return _fits(to, self.to) and _fits(sender, self.sender) and _fits(kind, self.kinds)


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


# One envelope as it was taken from the mailbox, or, without a frame, how many were missed in its place:
#   seconds since 1970-01-01 UTC
#   size of its frame in bytes; another number than len(frame) when the body is left out
#   the frame
# A plain tuple: one is made for each envelope that is tapped, and a NamedTuple takes six times as long.
Tapped = tuple[float, int, bytes]


class Tap:
    """What waits for one inspector. `put` from any thread, the rest from one.

    One that dozes keeps nothing and counts on: its inspector was stopped, and will want to know how many it
    missed.
    """

    def __init__(self, wanted: TapFilter, due_s: float) -> None:
        """Begin empty; `due_s` is when it ends without a sign of life, on the monotonic clock."""
        self.wanted = wanted
        self.due_s = due_s
        self.kinds: dict[str, None] = {}  # of what came, in order; a dict, for threads add to it at once
        self._lock = threading.Lock()
        self._waiting: deque[Tapped] = deque()
        self._bytes = 0
        self._missed = 0
        self.is_dozing = False

    def put(self, tapped: Tapped) -> None:
        """Keep an envelope for the inspector, or count it as missed."""
        with self._lock:
            if self._bytes >= BUDGET_BYTES or self.is_dozing:
                self._missed += 1
                return
            if self._missed:
                self._note_missed(tapped[0])
            self._waiting.append(tapped)
            self._bytes += len(tapped[2]) + _OVERHEAD_BYTES

    def take(self, most_bytes: int, now_s: float) -> tuple[Tapped, ...]:
        """Take out the oldest up to a sum of bytes, and one that goes over it; none for 0 bytes."""
        taken: list[Tapped] = []
        with self._lock:
            if self._missed and not self._waiting:
                self._note_missed(now_s)
            while self._waiting and most_bytes > 0:
                tapped = self._waiting.popleft()
                used = len(tapped[2]) + _OVERHEAD_BYTES
                self._bytes -= used
                most_bytes -= used
                taken.append(tapped)
        return tuple(taken)

    def doze(self) -> None:
        """Give the memory back and only count from now on; what waits counts as missed."""
        with self._lock:
            self.is_dozing = True
            self._missed += sum(1 if frame else missed for _, missed, frame in self._waiting)
            self._waiting.clear()
            self._bytes = 0

    def wake(self) -> None:
        """Keep again what comes."""
        self.is_dozing = False

    @property
    def missed(self) -> int:
        """How many were missed that `take` has not told of."""
        with self._lock:
            return self._missed + sum(missed for _, missed, frame in self._waiting if not frame)

    def _note_missed(self, at_s: float) -> None:
        self._waiting.append((at_s, self._missed, b""))
        self._bytes += _OVERHEAD_BYTES
        self._missed = 0
