"""Who is connected to which protocol head: one identity to one of them, and so many at most.

All heads are on one event loop and share this; it outlives their restarts. That an identity has to give way
is said by a message (`client_services.GiveWay`), because the other head has to tell others of it first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final

from actors.metrics.hub_metrics import OFF, HubMetrics

GIVE_WAY_LIMIT_S: Final = 2.0  # a head answers at once; one that does not is starting again, without clients


class ConnectedClients:
    """The identities that are connected, and the numbers of which the later one is always the larger."""

    def __init__(self, most: int | None = None, metrics: HubMetrics = OFF) -> None:
        """Allow so many identities, None: any number."""
        self.metrics = metrics
        self._most = math.inf if most is None else most
        self._heads: dict[str, str] = {}  # identity → address of its head
        self._numbers: Iterator[int] | None = None

    @property
    def most(self) -> float:
        """How many identities may be connected."""
        return self._most

    @property
    def is_full(self) -> bool:
        """Whether no further identity may connect."""
        return len(self._heads) >= self._most

    def head_started(self, head: str, now_s: float) -> None:
        """A head has started, perhaps again: it has no clients.

        What belongs to numbers from before a restart of the process may still arrive, so they begin with the
        monotonic time. Not the time of day: when that was set back, nobody could publish until it has caught
        up.
        """
        if self._numbers is None:
            self._numbers = itertools.count(int(now_s * 1e6))
        for identity in [who for who, its in self._heads.items() if its == head]:
            self.went(identity, head)

    def next_number(self) -> int:
        """Return a number for a batch, an attachment or the epoch of a connection."""
        assert self._numbers is not None, "no head has started"
        return next(self._numbers)

    def head_of(self, identity: str) -> str:
        """Return the head to which an identity is connected, "" for none."""
        return self._heads.get(identity, "")

    def came(self, identity: str, head: str) -> None:
        """An identity is connected to this head now."""
        self._heads[identity] = head
        self.metrics.connected(identity, len(self._heads))

    def went(self, identity: str, head: str) -> None:
        """It is not connected to this head any more."""
        if self._heads.get(identity) == head:
            del self._heads[identity]
            self.metrics.disconnected(identity, len(self._heads))
