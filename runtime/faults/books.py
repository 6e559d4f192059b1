"""What arrived at one place: the books of a consumer's input, or of the cloud."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from typing import Final

from runtime.faults.stamps import Key

MOST_DETAILS: Final = 5


class Books:
    """Notes each message as it comes."""

    def __init__(self) -> None:
        self.arrived = 0  # with what came again
        self.first: dict[Key, int] = {}  # when each came first: as which of all
        self.again: dict[Key, list[tuple[int, int]]] = {}  # as which of all, over which connection, each time
        self.damaged = 0  # came with another content than was sent
        self.misordered: list[str] = []
        self.connection = 0
        self._marks: list[tuple[float, int]] = []  # when, by the wall clock, so many had arrived
        self._first_connection: dict[Key, int] = {}
        self._highest: dict[tuple[int, int], int] = {}

    def reconnected(self) -> None:
        """From now on it comes over another connection."""
        self.connection += 1

    def note(self, key: Key) -> None:
        """Take down one message."""
        self.arrived += 1
        if key in self.first:
            first = self.first[key], self._first_connection[key]
            self.again.setdefault(key, [first]).append((self.arrived, self.connection))
            return
        self.first[key], self._first_connection[key] = self.arrived, self.connection
        lane = key.publisher, key.output
        highest = self._highest.get(lane, 0)
        if key.sequence < highest:
            self.misordered.append(f"publisher {key.publisher}: {highest} came before {key.sequence}")
        self._highest[lane] = max(highest, key.sequence)

    def mark(self, at_s: float) -> None:
        """Note the time, in seconds since 1970, by which all that came is there."""
        self._marks.append((at_s, self.arrived))

    def arrived_by(self, at_s: float) -> int:
        """Return how many had arrived by a time that was marked, with what came again."""
        before = bisect.bisect_right(self._marks, at_s, key=lambda mark: mark[0])
        return self._marks[before - 1][1] if before else 0

    @property
    def arrived_again(self) -> int:
        """How many came that had come before."""
        return self.arrived - len(self.first)

    def unexplained(self, sent_again: Mapping[int, Mapping[int, int]], window: int) -> list[Key]:
        """Return what came again without a reason.

        Args:
            sent_again: How often each publisher sent each of its messages again: so many more may be stored.
            window: How far behind its last occurrence a message may be delivered again over another
                connection, once for each that is stored.
        """
        found = []
        for key, arrivals in self.again.items():
            stored, excuses = 1, sent_again.get(key.publisher, {}).get(key.sequence, 0)
            (last, connection), nth, before = arrivals[0], 1, None
            for at, now_connection in arrivals[1:]:
                if now_connection != connection:
                    connection, nth, before = now_connection, 0, last
                nth, last = nth + 1, at
                if nth <= stored and before is not None and at - before <= window:
                    continue
                stored += 1
                if stored - 1 > excuses:
                    found.append(key)
        return found

    def missing(self, owed: Iterable[Key]) -> list[Key]:
        """Return which of these never came."""
        return [key for key in owed if key not in self.first]


class LooseBooks(Books):
    """What may come again over a connection that lives: to the IoT Hub, whose connections nobody here sees.

    To a consumer, too, where the store itself fails: it has forgotten then what is on its way.
    """

    def note(self, key: Key) -> None:
        self.connection += 1
        super().note(key)


def told(keys: list[Key]) -> str:
    """Return the first of some messages, for people."""
    shown = ", ".join(f"{key.sequence} of publisher {key.publisher}" for key in keys[:MOST_DETAILS])
    return f"{shown}{' …' if len(keys) > MOST_DETAILS else ''}"
