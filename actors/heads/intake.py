"""What clients of a head have sent for the router and the disk does not hold yet. Knows no protocol.

Something is acknowledged when the store says that it is on disk. Credit bounds how much waits for that:
beyond it, sockets are not read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final, Protocol

from msgspec import Struct, field

from actors.hub.router import Publish
from actors.kernel.base import EdgeActor

STORE_LIMIT_S: Final = 20.0  # what is not on disk by then counts as refused
# These bound memory; what bounds a commit is readers.py.
CLIENT_CREDIT_BYTES: Final = 4 * 1024 * 1024  # unanswered Publish bytes of one publisher …
HEAD_CREDIT_BYTES: Final = 16 * 1024 * 1024  # … and of all: beyond, sockets are not read
MOST_LATE: Final = 1024  # batches of publishers that are gone

CREDIT: Final = "credit"  # why a socket is not read: too much of what it brought is not on disk yet


class Batch(Struct):
    """What one read of the connection brought for the router, of one publisher."""

    headers: dict[bytes, int] = field(default_factory=dict)
    entries: list[tuple[int, bytes]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)  # what is to be acknowledged once this is on disk
    size_bytes: int = 0

    def add(self, header: bytes, body: bytes) -> None:
        """Add a message."""
        index = self.headers.setdefault(header, len(self.headers))
        self.entries.append((index, body))
        self.size_bytes += len(body) + len(header)

    def add_all(self, header: bytes, bodies: Sequence[bytes]) -> None:
        """Add messages with the same header."""
        index = self.headers.setdefault(header, len(self.headers))
        self.entries += zip(repeat(index), bodies)
        self.size_bytes += sum(map(len, bodies)) + len(bodies) * len(header)


class Unanswered(Struct):
    """A batch that is on its way to the disk, and what to acknowledge then."""

    answers: list[Any]
    size_bytes: int
    sent_at_s: float
    waits: int = 0  # for so many, who have not said yet that it is on disk

    @property
    def done(self) -> bool:
        """Whether it is on disk."""
        return not self.waits


class Publisher(Protocol):
    """Whose batches are stored in the order in which they came, or not at all."""

    client_id: str
    epoch: int
    next_index: int
    unanswered: deque[Unanswered]
    unanswered_bytes: int

    def acknowledge(self) -> None:
        """Acknowledge what `take_done` returns."""
        ...

    def hold(self, reason: str) -> None:
        """Do not read its connection."""
        ...

    def release(self, reason: str, now_s: float) -> None:
        """Read it again."""
        ...


def take_done(publisher: Publisher) -> list[Any]:
    """Return what may be acknowledged now, in the order in which it came."""
    answers: list[Any] = []
    unanswered = publisher.unanswered
    while unanswered and unanswered[0].done:
        first = unanswered.popleft()
        publisher.unanswered_bytes -= first.size_bytes
        answers.extend(first.answers)
        first.answers = []  # it may be remembered
    return answers


class Intake:
    """The batches on their way to the disk. A part of a head, which calls it for each."""

    def __init__(
        self, head: EdgeActor, router: str, next_id: Callable[[], int], most_unacknowledged: int | None = None
    ) -> None:
        """Take what is needed; a publisher may have so much to acknowledge on its way, None: any."""
        self._head = head
        self._router = router
        self._next_id = next_id
        self._most_unacknowledged = most_unacknowledged
        self._batches: dict[int, tuple[Any, Unanswered]] = {}  # by correlation id of the Publish
        self._late: dict[int, Unanswered] = {}  # the same for publishers that are gone, oldest first
        self._paused: set[Any] = set()  # for want of credit
        self.unanswered_bytes = 0

    def publish(self, publisher: Publisher, batch: Batch, *, also_waits: bool = False) -> Unanswered:
        """Send what one read brought to the router; without messages in it, acknowledge it in its turn.

        With `also_waits`, it is acknowledged only after `stored_elsewhere`, too.
        """
        now_s = self._head.clock.monotonic_s()
        unanswered = Unanswered(batch.answers, batch.size_bytes, now_s, bool(batch.entries) + also_waits)
        publisher.unanswered.append(unanswered)
        if not batch.entries:
            self._acknowledge(publisher)
            return unanswered
        publisher.unanswered_bytes += batch.size_bytes
        self.unanswered_bytes += batch.size_bytes
        batch_id = self._next_id()
        self._batches[batch_id] = (publisher, unanswered)
        publish = Publish(
            publisher.client_id,
            publisher.epoch,
            publisher.next_index,
            tuple(batch.headers),
            tuple(batch.entries),
        )
        publisher.next_index += 1
        self._head.context.send(
            self._router, publish, correlation_id=batch_id, deadline_s=now_s + STORE_LIMIT_S
        )
        over = publisher.unanswered_bytes > CLIENT_CREDIT_BYTES or self.unanswered_bytes > HEAD_CREDIT_BYTES
        if (over or self._has_too_many(publisher)) and publisher not in self._paused:
            self._paused.add(publisher)
            publisher.hold(CREDIT)
        return unanswered

    def stored(self, batch_ids: tuple[int, ...]) -> list[Any]:
        """These batches are on disk; return whose they were."""
        publishers: dict[Any, None] = {}
        for batch_id in batch_ids:
            found = self._batches.pop(batch_id, None)
            if found is not None:
                publisher, unanswered = found
                unanswered.waits -= 1
                publishers[publisher] = None
            elif (late := self._late.pop(batch_id, None)) is not None:
                late.waits -= 1
        for publisher in publishers:
            self._acknowledge(publisher)
        self._resume_readers()
        return list(publishers)

    def stored_elsewhere(self, publisher: Publisher, unanswered: Unanswered) -> None:
        """That part of a batch is on disk which went another way than to the router."""
        unanswered.waits -= 1
        self._acknowledge(publisher)
        self._resume_readers()

    def failed(self, batch_id: int) -> Any:
        """Forget a batch that was not stored; return its publisher, None for one that is gone."""
        self._late.pop(batch_id, None)
        found = self._batches.pop(batch_id, None)
        return found[0] if found is not None else None

    def forget(self, publisher: Publisher) -> None:
        """It is gone: nothing of it will be acknowledged any more, though it may be stored."""
        for batch_id in [k for k, (owner, _) in self._batches.items() if owner is publisher]:
            self._late[batch_id] = self._batches.pop(batch_id)[1]
        while len(self._late) > MOST_LATE:
            del self._late[next(iter(self._late))]
        self.unanswered_bytes -= publisher.unanswered_bytes
        publisher.unanswered.clear()
        publisher.unanswered_bytes = 0
        if publisher in self._paused:
            self._paused.discard(publisher)
            publisher.release(CREDIT, self._head.clock.monotonic_s())
        self._resume_readers()

    def _acknowledge(self, publisher: Publisher) -> None:
        before = publisher.unanswered_bytes
        publisher.acknowledge()
        self.unanswered_bytes -= before - publisher.unanswered_bytes

    def _resume_readers(self) -> None:
        if not self._paused or self.unanswered_bytes > HEAD_CREDIT_BYTES // 2:
            return
        for publisher in list(self._paused):
            if publisher.unanswered_bytes <= CLIENT_CREDIT_BYTES // 2 and not self._has_too_many(publisher):
                self._paused.discard(publisher)
                publisher.release(CREDIT, self._head.clock.monotonic_s())

    def _has_too_many(self, publisher: Publisher) -> bool:
        most = self._most_unacknowledged
        return most is not None and sum(len(one.answers) for one in publisher.unanswered) > most
