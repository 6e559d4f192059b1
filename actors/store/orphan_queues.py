"""The queues that no route leads to any more: what waits in them is given up, slice by slice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Final

from actors.hub.c2d_queues import is_c2d_queue
from actors.ports.storage import MessageStore
from messaging.upstream_queues import by_endpoint, endpoint_of

log = logging.getLogger(__name__)

SLICE_MESSAGES: Final = 1000  # given up in one go, so that no turn takes long …
SLICE_QUEUES: Final = 100  # … out of so many queues at most


class OrphanQueues:
    """Knows which queues are being given up. A part of the store's actor, which calls it."""

    def __init__(self) -> None:
        self._left: list[str] = []  # the next one last
        self._dropped: Counter[str] = Counter()  # so far, by endpoint

    def __bool__(self) -> bool:
        return bool(self._left)

    def endpoint_ids(self) -> Iterable[str]:
        """Return the queues that are being given up."""
        return self._left

    def choose(self, existing: Iterable[str], kept: Iterable[str]) -> None:
        """Give up all but those that routes lead to, and those that no route ever leads to."""
        wanted = set(kept)
        chosen = [name for name in existing if endpoint_of(name) not in wanted and not is_c2d_queue(name)]
        self._left = sorted(chosen, key=endpoint_of)
        self._dropped.clear()

    def drop_slice(self, store: MessageStore) -> None:
        """Give up the next messages.

        Raises:
            StoreError: Nothing was given up.
        """
        room = SLICE_MESSAGES
        counts: Counter[str] = Counter()
        emptied = 0
        with store.transaction():
            for endpoint_id in self._left[: -SLICE_QUEUES - 1 : -1]:
                counts[endpoint_id] = store.drop_queue(endpoint_id, "removed", room)
                room -= counts[endpoint_id]
                if not room:
                    break
                emptied += 1
        self._dropped.update(by_endpoint(counts))
        for _ in range(emptied):
            endpoint_id = endpoint_of(self._left.pop())
            if self._left and endpoint_of(self._left[-1]) == endpoint_id:
                continue
            if total := self._dropped.pop(endpoint_id, 0):
                log.warning("%d messages for %s dropped: no route leads there any more", total, endpoint_id)
