"""The way of recent messages through the hub, for `edge-actors trace`: kept cheaply, searched when asked.

Only messages with a message id (`$.mid`) can be found again, so only batches with one are kept; all others
cost one look at each distinct header. What is kept are references to headers that the batch has anyway, never
a body. Router and store keep their own part, each bounded in bytes; nothing survives the hub process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from msgspec import Struct

from actors.ports.storage import MessageStore
from actors.store.stored import Match, Run, Segment, position_of
from messaging import system_properties as names
from messaging.errors import EnvelopeError
from messaging.kinds import message
from messaging.message import decode_header
from messaging.upstream_queues import endpoint_of

KEPT_BYTES: Final = 8 * 1024 * 1024  # by each part
_HEADER_OVERHEAD_BYTES: Final = 200  # what a kept header weighs besides its bytes, roughly
_KEPT_EVENTS: Final = 2000  # for each endpoint: deliveries and acknowledgements, each of many messages
_KEPT_ENDPOINTS: Final = 1000  # of each device that gets messages from the cloud there is one

# The name as a header has it, see `encode_header`: a text of nine bytes.
_MARK: Final = b"\xa9" + names.MESSAGE_ID.encode()


Batch = TypeVar("Batch")


@message
class TraceRouting:
    """Tell how messages with this id were routed. Answered with Hops."""

    message_id: str


@message
class TraceStorage:
    """Tell when messages with this id were stored and delivered. Answered with Hops."""

    message_id: str


@message
class Hops:
    """Hops in order of time, as plain values: `at_s`, `hop`, and what belongs to that hop.

    received: from, source; routed: route, endpoint, priority; unrouted: nothing; stored: endpoint, priority;
    sent, delivered, poison, waiting, gone (expired or dropped): endpoint.
    """

    hops: tuple[dict[str, Any], ...]
    since_s: float  # the oldest message that is remembered; 0: none is
    messages: int  # how many are


# In this order where times are equal: clocks need not tell two hops apart.
_STAGES: Final = (
    *("received", "routed", "unrouted", "stored"),
    *("sent", "delivered", "poison", "waiting", "gone"),
)


def in_order(hops: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return hops in order of time."""
    return sorted(hops, key=lambda hop: (hop["at_s"], _STAGES.index(hop["hop"])))


def has_message_id(header: bytes) -> bool:
    """Say whether the message has an id. Now and then, by an application property, true for one without."""
    return _MARK in header


def _has_this_id(header: bytes, message_id: str, encoded: bytes) -> bool:
    if encoded not in header:
        return False
    try:
        return decode_header(header, b"").system_properties.get(names.MESSAGE_ID) == message_id
    except EnvelopeError:
        return False


class _Ring(Generic[Batch]):
    """Batches, the oldest forgotten when their headers weigh too much."""

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self._batches: deque[tuple[float, int, int, Batch]] = deque()
        self._size_bytes = 0
        self._messages = 0

    def add(self, at_s: float, headers: Iterable[bytes], batch: Batch) -> None:
        count = size_bytes = 0
        for header in headers:
            count += 1
            size_bytes += len(header) + _HEADER_OVERHEAD_BYTES
        batches = self._batches
        batches.append((at_s, count, size_bytes, batch))
        self._size_bytes += size_bytes
        self._messages += count
        while self._size_bytes > self._kept_bytes and len(batches) > 1:
            _, count, size_bytes, _ = batches.popleft()
            self._size_bytes -= size_bytes
            self._messages -= count

    def __iter__(self) -> Iterator[tuple[float, Batch]]:
        return ((at_s, batch) for at_s, _, _, batch in self._batches)

    def hops(self, found: Iterable[dict[str, Any]]) -> Hops:
        since_s = self._batches[0][0] if self._batches else 0.0
        return Hops(tuple(in_order(found)), since_s, self._messages)


class Way(NamedTuple):
    """Where the router sends a message, and by which routes."""

    matches: tuple[tuple[str, int, float | None], ...]
    routes: tuple[str, ...]  # for each match the route that made it
    has_id: bool


class _Routed(Struct, frozen=True):
    received_at_s: float
    identity: str
    ways: Sequence[tuple[bytes, Way]]


class RoutingTrail:
    """The router's part."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._ring: _Ring[_Routed] = _Ring(kept_bytes)

    def routed(
        self, received_at_s: float, now_s: float, identity: str, ways: Sequence[tuple[bytes, Way]]
    ) -> None:
        """Keep the messages of a batch that have an id."""
        self._ring.add(now_s, (header for header, _ in ways), _Routed(received_at_s, identity, ways))

    def find(self, message_id: str) -> Hops:
        """Return how messages with this id were routed."""
        return self._ring.hops(self._find(message_id))

    def _find(self, message_id: str) -> Iterator[dict[str, Any]]:
        encoded = message_id.encode(errors="replace")
        for at_s, batch in self._ring:
            for header, way in batch.ways:
                if not _has_this_id(header, message_id, encoded):
                    continue
                source = decode_header(header, b"").source
                yield {
                    "at_s": batch.received_at_s,
                    "hop": "received",
                    "from": batch.identity,
                    "source": source,
                }
                if not way.matches:
                    yield {"at_s": at_s, "hop": "unrouted"}
                for (endpoint_id, priority, _), route in zip(way.matches, way.routes, strict=True):
                    yield {
                        "at_s": at_s,
                        "hop": "routed",
                        "route": route,
                        "endpoint": endpoint_of(endpoint_id),
                        "priority": priority,
                    }


class _Stored(Struct, frozen=True):
    first_seq: int
    matches: Sequence[Match]
    headers: Sequence[bytes]
    indices: Sequence[int]  # for each message which header it has


class StorageTrail:
    """The store's part."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._ring: _Ring[_Stored] = _Ring(kept_bytes)
        # Of endpoints that a message with an id was stored for: (time, hop, ranges of positions).
        self._events: dict[str, deque[tuple[float, str, Sequence[tuple[int, int]]]]] = {}

    def stored(self, now_s: float, first_seq: int, segments: Iterable[Segment]) -> None:
        """Keep the segments that have a message with an id. They were stored from `first_seq` on."""
        seq = first_seq
        for segment in segments:
            matches, headers, entries = segment
            if matches and any(map(has_message_id, headers)):
                self._ring.add(
                    now_s, headers, _Stored(seq, matches, headers, [index for index, _ in entries])
                )
                for endpoint_id in [endpoint_of(queue_id) for queue_id, _, _ in matches]:
                    events = self._events.pop(endpoint_id, None)
                    self._events[endpoint_id] = deque(maxlen=_KEPT_EVENTS) if events is None else events
                while len(self._events) > _KEPT_ENDPOINTS:  # who had none for the longest time
                    del self._events[next(iter(self._events))]
            seq += len(entries)

    def follows(self, endpoint_id: str) -> bool:
        """Say whether what happens at this endpoint is worth telling."""
        return endpoint_of(endpoint_id) in self._events

    def sent(self, now_s: float, endpoint_id: str, runs: Iterable[Run]) -> None:
        """Runs went to the consumer."""
        ranges = [(run.first_position, run.last_position) for run in runs]
        self.happened(now_s, "sent", endpoint_id, ranges)

    def happened(self, now_s: float, hop: str, endpoint_id: str, ranges: Sequence[tuple[int, int]]) -> None:
        """The consumer took these positions (hop `delivered`) or cannot take them (`poison`)."""
        events = self._events.get(endpoint_of(endpoint_id))
        if events is not None:
            events.append((now_s, hop, ranges))

    def find(self, message_id: str) -> tuple[Hops, list[tuple[str, int]]]:
        """Return the hops of messages with this id, and queue and position of those nobody has taken."""
        found: list[dict[str, Any]] = []
        left: list[tuple[str, int]] = []
        encoded = message_id.encode(errors="replace")
        for at_s, batch in self._ring:
            wanted = {
                n for n, header in enumerate(batch.headers) if _has_this_id(header, message_id, encoded)
            }
            if not wanted:
                continue
            for offset, index in enumerate(batch.indices):
                if index not in wanted:
                    continue
                for endpoint_id, priority, _ in batch.matches:
                    position = position_of(priority, batch.first_seq + offset)
                    events = self._of(endpoint_id, position)
                    endpoint = endpoint_of(endpoint_id)
                    found.append({"at_s": at_s, "hop": "stored", "endpoint": endpoint, "priority": priority})
                    found += events
                    if not any(event["hop"] in ("delivered", "poison") for event in events):
                        left.append((endpoint_id, position))
        return self._ring.hops(found), left

    def answer(self, question: TraceStorage, store: MessageStore, now_s: float) -> Hops:
        """Return the hops of messages with an id; of those that nobody has taken, whether they still wait."""
        found, left = self.find(question.message_id)
        hops = list(found.hops)
        for queue_id, position in left:
            runs = store.read(queue_id, position - 1, 1, 1, now_s)
            hop = "waiting" if runs and runs[0].first_position == position else "gone"
            hops.append({"at_s": now_s, "hop": hop, "endpoint": endpoint_of(queue_id)})
        return Hops(tuple(hops), found.since_s, found.messages)

    def _of(self, endpoint_id: str, position: int) -> list[dict[str, Any]]:
        endpoint_id = endpoint_of(endpoint_id)  # no two of its queues have messages at the same position
        return [
            {"at_s": at_s, "hop": hop, "endpoint": endpoint_id}
            for at_s, hop, ranges in self._events.get(endpoint_id, ())
            if any(first <= position <= last for first, last in ranges)
        ]
