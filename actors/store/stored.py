"""What the message store takes and gives: messages, their place in a queue, and the ledger.

Plain values without a database behind them, so that router, heads and command line can speak of stored
messages without knowing how they are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from typing import Literal, NamedTuple

from msgspec import Struct

from messaging.upstream_queues import endpoint_of

DEFAULT_PRIORITY = 2_000_000_000
"""Priority of a route that states none: behind 0 to 9. Source: spec sheet routing.md section 5.2."""

MAX_SEQ = (1 << 45) - 1
"""The last sequence number a store can give: 111 years at 10,000 messages a second."""

_body_of = itemgetter(1)

MESSAGE_OVERHEAD_BYTES = 128  # what a message weighs besides header and body, roughly

_SEQ_BITS = 45
_LAST_RANK = 10  # where DEFAULT_PRIORITY stands among 0, 1, ... 9

MAX_POSITION = _LAST_RANK << _SEQ_BITS | MAX_SEQ
RANKS = _LAST_RANK + 1
"""How many priorities there are; the rank of one is its place among them."""

DropReason = Literal["limit", "poison", "removed"]
"""Why a message left a queue undelivered: a stated limit, no consumer can take it, its endpoint is gone."""


class Match(NamedTuple):
    """One endpoint that a message goes to. `ttl_s` None means that the message never expires there."""

    endpoint_id: str
    priority: int
    ttl_s: float | None


class Segment(NamedTuple):
    """Messages that came one after the other and go to the same endpoints. No matches: to none.

    The hub handles messages by segments and runs from the socket to the disk and back: what is done once per
    segment is done a hundred times less often than what is done per message.
    """

    matches: tuple[Match, ...]
    headers: Sequence[bytes]
    entries: Sequence[tuple[int, bytes]]  # (index of its header, body)


class Run(NamedTuple):
    """Messages that wait for one endpoint, with consecutive positions."""

    first_position: int
    headers: Sequence[bytes]
    entries: Sequence[tuple[int, bytes]]  # (index of its header, body)

    @property
    def last_position(self) -> int:
        """The position of the last message."""
        return self.first_position + len(self.entries) - 1

    @property
    def size_bytes(self) -> int:
        """What the messages weigh: header, body, and something for each message besides."""
        weights = [len(header) + MESSAGE_OVERHEAD_BYTES for header in self.headers]
        if len(weights) == 1:
            return weights[0] * len(self.entries) + bodies_bytes(self.entries)
        return sum(weights[index] + len(body) for index, body in self.entries)

    def cut(self, first: int, last: int) -> Run | None:
        """Return what lies between two positions, both included; None when nothing does."""
        first, last = max(first, self.first_position), min(last, self.last_position)
        if first > last:
            return None
        if last - first + 1 == len(self.entries) >= len(self.headers):
            return self
        entries = self.entries[first - self.first_position : last - self.first_position + 1]
        return Run(first, *with_its_headers(self.headers, entries))

    def fitting(self, room_bytes: int) -> Run | None:
        """Return as many messages from the first on as weigh no more; None when the first does."""
        if self.size_bytes <= room_bytes:
            return self
        weights = [len(header) + MESSAGE_OVERHEAD_BYTES for header in self.headers]
        count = 0
        for index, body in self.entries:
            room_bytes -= weights[index] + len(body)
            if room_bytes < 0:
                break
            count += 1
        return self.cut(self.first_position, self.first_position + count - 1)


def bodies_bytes(entries: Iterable[tuple[int, bytes]]) -> int:
    """Return how long the bodies are together, without a step in Python for each."""
    return sum(map(len, map(_body_of, entries)))


def with_its_headers(
    headers: Sequence[bytes], entries: Sequence[tuple[int, bytes]]
) -> tuple[Sequence[bytes], Sequence[tuple[int, bytes]]]:
    """Return a part of a batch without the headers that it does not use.

    Senders choose headers (message ids!): were each part to carry those of the whole, a batch cut into
    single messages would grow with the square of its size.
    """
    if len(headers) == 1:
        return headers, entries
    used: dict[int, int] = {}
    renamed = tuple((used.setdefault(index, len(used)), body) for index, body in entries)
    return tuple(headers[index] for index in used), renamed


def position_of(priority: int, seq: int) -> int:
    """Return where a message stands in the queue of an endpoint: lower positions are delivered first.

    Raises:
        ValueError: `priority` is neither 0 to 9 nor DEFAULT_PRIORITY, or `seq` is out of range.
    """
    if priority == DEFAULT_PRIORITY:
        rank = _LAST_RANK
    elif 0 <= priority < _LAST_RANK:
        rank = priority
    else:
        raise ValueError(f"priority {priority} is neither 0 to 9 nor {DEFAULT_PRIORITY}")
    if not 0 <= seq <= MAX_SEQ:
        raise ValueError(f"sequence number {seq} is not in 0 to {MAX_SEQ}")
    return rank << _SEQ_BITS | seq


def seq_of(position: int) -> int:
    """Return the sequence number of the message at `position`."""
    return position & MAX_SEQ


def priority_of(position: int) -> int:
    """Return the priority of the message at `position`."""
    rank = position >> _SEQ_BITS
    return DEFAULT_PRIORITY if rank == _LAST_RANK else rank


def rank_of(position: int) -> int:
    """Return the rank of the priority of the message at `position`: 0 for the highest."""
    return position >> _SEQ_BITS


def positions_of_rank(rank: int) -> tuple[int, int]:
    """Return the lowest and the highest position there can be at the priority of this rank."""
    return rank << _SEQ_BITS, rank << _SEQ_BITS | MAX_SEQ


def segments_of(
    headers: Sequence[tuple[bytes, tuple[Match, ...]]], entries: Sequence[tuple[int, bytes]]
) -> list[Segment]:
    """Cut a batch where the endpoints change; mostly they do not."""
    names = tuple(header for header, _ in headers)
    if not entries:
        return []
    if len(headers) == 1 or len({matches for _, matches in headers}) == 1:
        return [Segment(headers[0][1], names, entries)]
    return [
        Segment(matches, *with_its_headers(names, tuple(group)))
        for matches, group in groupby(entries, lambda entry: headers[entry[0]][1])
    ]


def gathered(segments: Sequence[Segment]) -> list[Segment]:
    """Make neighbours of segments for the same endpoints, and one of neighbours with the same headers.

    What stands together is stored and delivered together. The order of no queue changes: when an endpoint,
    at one priority, is in two kinds of matches, the segments stay where they are.
    """
    if len(segments) < 2:
        return list(segments)
    kinds = dict.fromkeys(segment.matches for segment in segments)
    queues = [match[:2] for matches in kinds for match in matches]
    if len(kinds) > 1 and len(set(queues)) == len(queues):
        rank = {matches: number for number, matches in enumerate(kinds)}
        segments = sorted(segments, key=lambda segment: rank[segment.matches])
    found = []
    for _, group in groupby(segments, lambda segment: segment[:2]):
        first, *others = group
        if others:
            entries = tuple(chain(first.entries, *(other.entries for other in others)))
            first = Segment(first.matches, first.headers, entries)
        found.append(first)
    return found


def runs_of(segments: Iterable[Segment], first_seq: int) -> Iterator[tuple[str, Run]]:
    """Return what each endpoint gets of segments that were stored from `first_seq` on.

    Nothing of what expires at once.
    """
    seq = first_seq
    for matches, headers, entries in segments:
        if entries:
            for endpoint_id, priority, ttl_s in matches:
                if ttl_s is None or ttl_s > 0:
                    yield endpoint_id, Run(position_of(priority, seq), headers, entries)
        seq += len(entries)


class Totals(Struct, frozen=True):
    """Messages, each counted once however many endpoints it has."""

    received: int = 0
    unrouted: int = 0
    routed: int = 0


@dataclass(frozen=True, slots=True)
class EndpointLedger:
    """What became of the messages of one endpoint.

    `delivered`, `expired` and `dropped` are counted when the rows are deleted, by the rows that were
    really there; `pending` is a count of the rows that are there now. None is computed from the others.
    """

    accepted: int = 0
    delivered: int = 0
    expired: int = 0
    dropped: int = 0
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    pending_by_priority: Mapping[int, int] = field(default_factory=dict, compare=False, repr=False)

    def plus(self, other: EndpointLedger) -> EndpointLedger:
        """Return the sum of the two, term by term."""
        return EndpointLedger(
            self.accepted + other.accepted,
            self.delivered + other.delivered,
            self.expired + other.expired,
            self.dropped + other.dropped,
            dict(Counter(self.dropped_by_reason) + Counter(other.dropped_by_reason)),
            self.pending + other.pending,
            dict(Counter(self.pending_by_priority) + Counter(other.pending_by_priority)),
        )


class Epoch(Struct, frozen=True):
    """What a ledger counts from. A new one begins when a damaged database was replaced.

    What was salvaged counts as received and accepted in the new epoch. `salvaged` and `lost` are (message,
    endpoint) pairs that waited; `lost` None: the damage does not let it be known.
    """

    number: int = 1
    reason: str = ""
    salvaged: int = 0
    lost: int | None = 0
    quarantine: str = ""  # the folder with the damaged files


class Ledger(Struct, frozen=True):
    """Every message accounted for, at one moment."""

    total: Totals
    queues: Mapping[str, EndpointLedger]
    epoch: Epoch = Epoch()

    @property
    def endpoints(self) -> dict[str, EndpointLedger]:
        """The same by endpoint: mostly it has one queue, `iothub` has one for each sender."""
        found: dict[str, EndpointLedger] = {}
        for queue_id, row in self.queues.items():
            endpoint_id = endpoint_of(queue_id)
            known = found.get(endpoint_id)
            found[endpoint_id] = row if known is None else known.plus(row)
        return found

    def imbalances(self) -> list[str]:
        """Return each equation that does not hold, in words; an empty list when nothing is missing."""
        total = self.total
        found = []
        if total.received != total.unrouted + total.routed:
            found.append(
                f"received {total.received} is not unrouted {total.unrouted} + routed {total.routed}"
            )
        for endpoint_id, row in self.queues.items():
            if row.accepted != row.delivered + row.expired + row.dropped + row.pending:
                found.append(
                    f"{endpoint_id}: accepted {row.accepted} is not delivered {row.delivered} + "
                    f"expired {row.expired} + dropped {row.dropped} + pending {row.pending}"
                )
            if row.dropped != sum(row.dropped_by_reason.values()):
                found.append(
                    f"{endpoint_id}: dropped {row.dropped} is not the sum of {row.dropped_by_reason}"
                )
        return found
