"""What the store does now and then: delete what has expired, give free space back."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.storage import MessageStore
from messaging.clock import Clock
from messaging.upstream_queues import by_endpoint

log = logging.getLogger(__name__)

SWEEP_S: Final = 5.0  # how often expired messages are looked for …
BUSY_SWEEP_S: Final = 0.02  # … and how soon again while there is more to do: a slice takes 2 ms
SWEEP_ROWS: Final = 1000  # deleted in one go, so that no turn takes long


class Cleanup:
    """Does one slice of it at a time. A part of the store's actor, which calls it."""

    def __init__(self, every_s: float, metrics: HubMetrics = OFF) -> None:
        """Take how often what has expired is removed from the disk, and where to count it."""
        self._metrics = metrics
        self._every_s = every_s
        self._next_s = 0.0  # monotonic
        self._quiet = True

    def disturb(self) -> None:
        """Something was committed."""
        self._quiet = False

    def sweep(self, store: MessageStore, clock: Clock) -> tuple[Iterable[str], bool]:
        """Delete a slice of what has expired, or else give a slice of space back.

        Returns:
            The queues in which messages expired, and whether there is more to do.

        Raises:
            StoreError: The next sweep tries again.
        """
        quiet, self._quiet = self._quiet, True
        if clock.monotonic_s() >= self._next_s:
            now_s = clock.steady_s()
            due = store.due_headers(now_s, SWEEP_ROWS) if self._metrics.is_on else ()
            with store.transaction():
                expired = store.expire(now_s, SWEEP_ROWS)
            self._metrics.expired(due)
            for endpoint_id, count in by_endpoint(expired).items():
                log.info("%d messages for %s expired", count, endpoint_id)
            if expired:
                return expired, True
            # Half a sweep less, or the sweep that is due then might come a moment too early.
            self._next_s = clock.monotonic_s() + self._every_s - SWEEP_S / 2
        # Each slice costs two syncs: while there is traffic, one every few seconds has to do.
        return (), store.tidy() > 0 and quiet


def drop_oldest(store: MessageStore) -> dict[str, int]:
    """Give up a slice of what matters least, for want of space; return how many in which queue.

    Raises:
        StoreError: Nothing was given up.
    """
    with store.transaction():
        dropped = store.drop_oldest(SWEEP_ROWS)
    for endpoint_id, count in by_endpoint(dropped).items():
        log.warning("%d messages for %s dropped: no space, and newer ones came", count, endpoint_id)
    return dropped
