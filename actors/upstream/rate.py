"""How fast messages go to the cloud, and when something is tried again. Pure.

Source: routing.md sections 6.1, 6.3; the numbers are our own
"""

from __future__ import annotations

from typing import Final

from actors.store.redelivery import wait_s
from actors.upstream.connection import Fault

FIRST_IN_FLIGHT: Final = 16  # messages of one source on their way before it is known how fast they go
# What takes longer waits in front of a line that is full: more at once would not help. A message may be on
# its way for two round trips, one of them behind the batch before it.
SLOW_S: Final = 2.5
SLOWEST_BYTES_PER_S: Final = 2000.0  # a line that moves less counts as broken; 25 kbit/s are 3000

# First and longest wait, in seconds, after a fault of each kind. What cannot be reached is probed besides,
# so its waits only keep apart the attempts that failed although the probe got through.
_WAITS: Final = {
    Fault.UNREACHABLE: (0.5, 60.0),
    Fault.TIMEOUT: (0.5, 60.0),
    Fault.UNTRUSTED: (1.0, 30.0),
    Fault.CLOCK: (1.0, 30.0),
    Fault.UNAUTHORIZED: (1.0, 60.0),
    Fault.THROTTLED: (1.0, 60.0),
    Fault.QUOTA: (30.0, 600.0),
    Fault.TOO_LARGE: (1.0, 60.0),
    Fault.REFUSED: (1.0, 60.0),
}
_PROBED: Final = frozenset({Fault.UNREACHABLE, Fault.TIMEOUT})
_FOR_ONE_REQUEST: Final = frozenset({Fault.TOO_LARGE, Fault.REFUSED})


def is_probed(kind: Fault) -> bool:
    """Say whether a probe tells when to try again; everything else is an answer of the cloud."""
    return kind in _PROBED


def way_out(kind: Fault) -> str:
    """Return what a line of the log says after a reason for which the cloud is away, with its separator."""
    if not is_probed(kind):
        return ""
    return "; it is tried again, what is for the cloud waits on disk (`edge-actors upstream status`)"


def is_final(kind: Fault) -> bool:
    """Say whether this concerns one request alone, which will never be taken."""
    return kind in _FOR_ONE_REQUEST


def retry_s(kind: Fault, failures: int, draw: float) -> float:
    """Return how long to wait after a fault.

    Doubles, and is spread over the upper half, so that identities that were refused together do not come
    back together. The first loss of a connection is followed up at once.

    Args:
        failures: In a row, this one included; 1 or more.
        draw: By chance, from 0 to 1.
    """
    first_s, longest_s = _WAITS[kind]
    if kind in _PROBED:
        if failures == 1:
            return 0.0
        failures -= 1
    return wait_s(failures - 1, first_s, longest_s) * (0.5 + 0.5 * draw)


def patience_s(limit_s: float, in_flight_bytes: int) -> float:
    """Return how long nothing may move before a connection counts as hanging."""
    return limit_s + in_flight_bytes / SLOWEST_BYTES_PER_S


class Window:
    """How many messages of one source may be on their way at once.

    Grows with each message that arrives in good time, shrinks by half when they take long: so a slow line
    has seconds of messages in front of it and not minutes, which would time out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = min(FIRST_IN_FLIGHT, most)
        self._shrunk_s = float("-inf")

    def arrived(self, sent_s: float, now_s: float) -> None:
        """Take note of a message that arrived; times are monotonic."""
        if now_s - sent_s <= SLOW_S:
            self.limit = min(self.limit + 1, self._most)
        elif sent_s >= self._shrunk_s:  # those sent before say nothing about the window of now
            self._shrunk_s = now_s
            self.limit = max(1, self.limit // 2)

    def start_over(self, alone: bool = False) -> None:
        """Begin again, with one message when it has to be seen what becomes of that one."""
        self.limit = 1 if alone else min(FIRST_IN_FLIGHT, self._most)
        self._shrunk_s = float("-inf")


class Bucket:
    """At most so many messages a second, evenly: a tenth of a second's may go at once."""

    def __init__(self, per_s: float | None) -> None:
        """Take the rate; None: as fast as they go."""
        self._per_s = per_s
        self._most = max(1.0, per_s / 10) if per_s else 0.0
        self._left = self._most
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Say whether one more may go now, monotonic; if so, it counts as gone."""
        if self._per_s is None:
            return True
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1.0 - 1e-9:
            return False
        self._left -= 1.0
        return True

    def wait_s(self) -> float:
        """Return how long after a refusal the next one may go."""
        return 0.0 if self._per_s is None else max(0.0, (1.0 - self._left) / self._per_s)
