"""What one actor has to hear later. Times are monotonic, in seconds."""

from __future__ import annotations

import heapq
import itertools
import math


class Timers:
    """Messages with the time when they are due. Used in one thread."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, object]] = []  # a heap
        self._cancelled: set[int] = set()
        self._ids = itertools.count(1)
        self.earliest_s = math.inf  # what `next_due_s` returns, for a look with each turn of an actor

    def add(self, due_s: float, message: object) -> int:
        """Keep a message until it is due; returns an id for `cancel`."""
        timer_id = next(self._ids)
        heapq.heappush(self._waiting, (due_s, timer_id, message))
        self.earliest_s = min(self.earliest_s, due_s)
        return timer_id

    def cancel(self, timer_id: int) -> None:
        """Forget a message; one that was taken already is no error."""
        if any(waiting == timer_id for _, waiting, _ in self._waiting):
            self._cancelled.add(timer_id)
            self.next_due_s()

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self._cancelled.clear()
        self.earliest_s = math.inf

    def next_due_s(self) -> float | None:
        """Return when the next message is due, or None."""
        while self._waiting and self._waiting[0][1] in self._cancelled:
            self._cancelled.discard(heapq.heappop(self._waiting)[1])
        self.earliest_s = self._waiting[0][0] if self._waiting else math.inf
        return self._waiting[0][0] if self._waiting else None

    def take(self, now_s: float) -> object | None:
        """Return the message that was due first, and forget it; None when none is due yet."""
        due_s = self.next_due_s()
        if due_s is None or due_s > now_s:
            return None
        message = heapq.heappop(self._waiting)[2]
        self.next_due_s()
        return message
