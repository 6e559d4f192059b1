"""What arrived at one place: the books of a consumer's input, or of the cloud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from runtime.faults.stamps import Key

MOST_DETAILS: Final = 5


class Books:
    """Notes each message as it comes."""

    def __init__(self) -> None:
        self.arrived = 0  # with what came again
        self.first: dict[Key, int] = {}  # when each came first: as which of all
        self.again: list[tuple[Key, int]] = []  # what came again, and how far behind
        self.misordered: list[str] = []
        self.connection = 0
        self._last: dict[Key, tuple[int, int]] = {}  # when it came last, on which connection
        self._highest: dict[tuple[int, int], int] = {}

    def reconnected(self) -> None:
        """From now on it comes over another connection."""
        self.connection += 1

    def note(self, key: Key) -> None:
        """Take down one message."""
        self.arrived += 1
        before = self._last.get(key)
        self._last[key] = self.arrived, self.connection
        if before is not None:
            at, connection = before
            # On the same connection nobody may deliver twice, so it is as far away as can be.
            distance = self.arrived - at if connection != self.connection else 1 << 40
            self.again.append((key, distance))
            return
        self.first[key] = self.arrived
        lane = key.publisher, key.output
        highest = self._highest.get(lane, 0)
        if key.sequence < highest:
            self.misordered.append(f"publisher {key.publisher}: {highest} came before {key.sequence}")
        self._highest[lane] = max(highest, key.sequence)

    def unexplained(self, sent_again: Mapping[int, Mapping[int, int]], window: int) -> list[Key]:
        """Return what came again without a reason.

        Args:
            sent_again: How often each publisher sent each of its messages again.
            window: How far behind its last occurrence a message may be delivered again.
        """
        excused: Counter[Key] = Counter()
        found = []
        for key, distance in self.again:
            if distance <= window:
                continue
            excused[key] += 1
            if excused[key] > sent_again.get(key.publisher, {}).get(key.sequence, 0):
                found.append(key)
        return found

    def missing(self, owed: Iterable[Key]) -> list[Key]:
        """Return which of these never came."""
        return [key for key in owed if key not in self.first]


class CloudBooks(Books):
    """What reached the IoT Hub. It has no connections that anybody here could see: all may come again."""

    def note(self, key: Key) -> None:
        self.connection += 1
        super().note(key)


def told(keys: list[Key]) -> str:
    """Return the first of some messages, for people."""
    shown = ", ".join(f"{key.sequence} of publisher {key.publisher}" for key in keys[:MOST_DETAILS])
    return f"{shown}{' …' if len(keys) > MOST_DETAILS else ''}"
