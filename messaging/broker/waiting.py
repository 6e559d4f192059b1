"""What waits to be sent to one client, in order: parts of runs, so that hundreds of messages cost as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from messaging.broker.delivery import Outgoing, Run

Part = tuple[Run, int, int]  # a run, the first of its messages, the one behind the last


class Waiting:
    """A queue of messages."""

    __slots__ = ("_parts", "count")

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Outgoing]:
        for run, start, stop in self._parts:
            yield from run.outs[start:stop]

    def add(self, run: Run, start: int, stop: int) -> None:
        """Put messages behind all others."""
        parts = self._parts
        self.count += stop - start
        if parts:
            last, first, end = parts[-1]
            if last is run and end == start:
                parts[-1] = run, first, stop
                return
        parts.append((run, start, stop))

    def take(self, most: int) -> Part:
        """Take out the first ones, `most` at most, of one run. There is one at least."""
        parts = self._parts
        run, start, stop = parts[0]
        if stop - start > most:
            stop = start + most
            parts[0] = run, stop, parts[0][2]
        else:
            parts.popleft()
        self.count -= stop - start
        return run, start, stop

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()
        self.count = 0
