"""Who may have a connection to the cloud when there are more who want one than there may be. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from actors.upstream.source import HOLDS_PLACE, Phase, Source

TURN_S: Final = 30.0  # so long a connection is kept for whoever has a use for it, though others wait


class Places:
    """The connections there may be at the same time, besides the hub's own, and who waits for one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queue: deque[Source] = deque()

    def free(self, sources: Iterable[Source]) -> int:
        """Return how many more connections there may be; `sources` are all but the hub's own."""
        return self._most - sum(source.phase in HOLDS_PLACE for source in sources)

    def wait(self, source: Source) -> None:
        """Stand in line."""
        if source not in self._queue:
            self._queue.append(source)

    def next(self) -> Source | None:
        """Return who has waited longest; it is not in line any more."""
        while self._queue:
            source = self._queue.popleft()
            if source.phase is Phase.QUEUED:
                return source
        return None

    def to_leave(self, sources: Iterable[Source], now_s: float) -> list[Source]:
        """Return whose connections have to be closed for those in line, the least useful first.

        Those without any use go at once; the others when they had their turn: those who only listen before
        those who send, and the one that was of use longest ago.
        """
        missing = sum(source.phase is Phase.QUEUED for source in self._queue)
        connected = [source for source in sources if source.phase is Phase.OPEN]
        missing -= sum(source.is_leaving for source in connected)
        ready = [
            source
            for source in connected
            if not source.is_leaving and (not source.wants_connection or now_s - source.opened_s >= TURN_S)
        ]
        ready.sort(key=lambda source: (source.wants_connection, source.is_busy, source.used_s))
        return ready[: max(0, missing)]
