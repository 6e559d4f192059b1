"""The endpoints of the store that clients of a head take messages from. Knows no protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from actors.heads.readers import ENOUGH_BYTES
from actors.hub import c2d_queues
from actors.kernel.base import EdgeActor
from actors.store.messages import Attach, Delivered, Detach, Expired, Ready, Undeliverable
from actors.store.stored import Run

log = logging.getLogger(__name__)

# A consumer answers some commits later, and keeps up with what comes in by as many times the bytes of one.
WINDOW_BYTES: Final = 4 * ENOUGH_BYTES
C2D_WINDOW_MESSAGES: Final = 1  # hub-protocols.md section 1.14

Range = tuple[int, int]  # first and last position, both included
Runs = tuple[tuple[int, tuple[bytes, ...], tuple[tuple[int, bytes], ...]], ...]  # as in Ready
Taker = TypeVar("Taker")


class AttachedEndpoints(Generic[Taker]):
    """Who takes what. A part of a head; a taker is whatever its messages are handed to."""

    def __init__(self, head: EdgeActor, store: str, next_id: Callable[[], int], window_messages: int) -> None:
        """Take what is needed; `window_messages` is for inputs of modules."""
        self._head = head
        self._store = store
        self._next_id = next_id
        self._window_messages = window_messages
        self._takers: dict[str, tuple[int, Taker]] = {}  # by endpoint, with the number of the attachment
        # By endpoint: what its taker had when the store restarted. That sends it once more, or never again.
        self._had: dict[str, set[int]] = {}

    def endpoint_ids(self) -> tuple[str, ...]:
        """Return the endpoints that somebody takes messages from."""
        return tuple(sorted(self._takers))

    def of(self, taker: Taker) -> list[str]:
        """Return the endpoints that this taker has."""
        return [endpoint_id for endpoint_id, (_, its) in self._takers.items() if its is taker]

    def taker_of(self, endpoint_id: str) -> Taker | None:
        """Return who takes the messages of an endpoint."""
        return self._takers.get(endpoint_id, (0, None))[1]

    def taker_for(self, message: Ready) -> Taker | None:
        """Return to whom these messages go; None: to whoever attaches next, by the store."""
        attachment, taker = self._takers.get(message.endpoint_id, (0, None))
        return taker if attachment == message.attachment else None

    def attach(self, endpoint_id: str, taker: Taker) -> None:
        """Have the messages of an endpoint sent to this taker, from the first that was not delivered."""
        attachment = self._next_id()
        self._takers[endpoint_id] = (attachment, taker)
        self._had.pop(endpoint_id, None)
        one_by_one = c2d_queues.is_c2d_queue(endpoint_id)
        messages = C2D_WINDOW_MESSAGES if one_by_one else self._window_messages
        self._head.tell(self._store, Attach(endpoint_id, attachment, messages, WINDOW_BYTES))

    def attach_again(self, endpoint_id: str, had: Iterable[int]) -> None:
        """The store has restarted, and forgotten who takes what; the taker had what is at these positions."""
        self.attach(endpoint_id, self._takers[endpoint_id][1])
        self._had[endpoint_id] = set(had)

    def detach(self, endpoint_id: str) -> None:
        """Have them sent no more; what was not delivered goes to whoever attaches next."""
        del self._takers[endpoint_id]
        self._had.pop(endpoint_id, None)
        self._head.tell(self._store, Detach(endpoint_id))

    def all(self) -> list[tuple[str, Taker]]:
        """Return every endpoint with its taker."""
        return [(endpoint_id, taker) for endpoint_id, (_, taker) in self._takers.items()]

    def delivered(self, endpoint_id: str, ranges: Iterable[Range]) -> Delivered:
        """Return what tells the store that these have arrived; it may be told later."""
        return Delivered(endpoint_id, self._attachment(endpoint_id), tuple(ranges))

    def tell_delivered(self, by_endpoint: dict[str, list[Range]]) -> None:
        """A client has these messages."""
        for endpoint_id, ranges in by_endpoint.items():
            self._head.tell(self._store, self.delivered(endpoint_id, ranges))

    def tell_undeliverable(self, endpoint_id: str, ranges: Iterable[Range]) -> None:
        """A client can never take these messages."""
        attachment = self._attachment(endpoint_id)
        self._head.tell(self._store, Undeliverable(endpoint_id, attachment, tuple(ranges)))

    def without_had(self, message: Ready) -> tuple[Runs, list[int]]:
        """Return the runs without what the taker had when the store restarted, and where that stands."""
        had = self._had.get(message.endpoint_id)
        if not had:
            return message.runs, []
        runs: list[Run] = []
        again: list[int] = []
        for run in (Run(*one) for one in message.runs):
            begin = run.first_position
            found = sorted(had.intersection(range(begin, run.last_position + 1)))
            for position in (*found, run.last_position + 1):
                part = run.cut(begin, position - 1)
                if part is not None:
                    runs.append(part)
                begin = position + 1
            again += found
        had.difference_update(again)
        return tuple(runs), again  # type: ignore[arg-type]

    def in_time(self, endpoint_id: str, runs: Runs) -> Runs:
        """Return the runs without what the cloud wants delivered by a time that has passed.

        They may have waited in the store's memory, where nothing expires, for one before to be acknowledged.
        """
        return self._kept(endpoint_id, runs) if c2d_queues.is_c2d_queue(endpoint_id) else runs

    def is_in_time(self, endpoint_id: str, position: int, header: bytes, body: bytes) -> bool:
        """Say whether one message that has waited may still be delivered."""
        if not c2d_queues.is_c2d_queue(endpoint_id):
            return True
        return bool(self._kept(endpoint_id, ((position, (header,), ((0, body),)),)))

    def _kept(self, endpoint_id: str, runs: Runs) -> Runs:
        kept, late = c2d_queues.in_time(runs, self._head.clock.now_s())
        if late:
            log.info("%s: %d messages have expired", endpoint_id, len(late))
            attachment = self._attachment(endpoint_id)
            self._head.tell(self._store, Expired(endpoint_id, attachment, late))
        return kept

    def _attachment(self, endpoint_id: str) -> int:
        return self._takers.get(endpoint_id, (0,))[0]  # 0: detached in the same read
