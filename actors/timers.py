"""What one actor has to hear later. Times are monotonic, in seconds."""

from __future__ import annotations

import heapq
import itertools


class Timers:
    """Messages with the time when they are due. Used in one thread."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, object]] = []  # a heap
        self._cancelled: set[int] = set()
        self._ids = itertools.count(1)

    def add(self, due_s: float, message: object) -> int:
        """Keep a message until it is due; returns an id for `cancel`."""
        timer_id = next(self._ids)
        heapq.heappush(self._waiting, (due_s, timer_id, message))
        return timer_id

    def cancel(self, timer_id: int) -> None:
        """Forget a message; one that was taken already is no error."""
        if any(waiting == timer_id for _, waiting, _ in self._waiting):
            self._cancelled.add(timer_id)

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self._cancelled.clear()

    def next_due_s(self) -> float | None:
        """Return when the next message is due, or None."""
        while self._waiting and self._waiting[0][1] in self._cancelled:
            self._cancelled.discard(heapq.heappop(self._waiting)[1])
        return self._waiting[0][0] if self._waiting else None

    def take(self, now_s: float) -> object | None:
        """Return the message that was due first, and forget it; None when none is due yet."""
        due_s = self.next_due_s()
        return None if due_s is None or due_s > now_s else heapq.heappop(self._waiting)[2]
