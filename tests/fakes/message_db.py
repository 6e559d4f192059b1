"""A message store in memory, kept honest by the contract tests it shares with the one on SQLite."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from actors.store.stored import (
    MAX_POSITION,
    MESSAGE_OVERHEAD_BYTES,
    DropReason,
    EndpointLedger,
    Ledger,
    Match,
    Run,
    Segment,
    Totals,
    position_of,
    positions_of_rank,
    priority_of,
    rank_of,
    seq_of,
)
from messaging.errors import StoreDamaged, StoreError, StoreFull


@dataclass
class _Queue:
    expires_at: dict[int, float | None] = field(default_factory=dict)  # by position
    accepted: int = 0
    delivered: int = 0
    expired: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class _Contents:
    next_seq: int = 1
    received: int = 0
    unrouted: int = 0
    routed: int = 0
    messages: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    queues: dict[str, _Queue] = field(default_factory=dict)
    sessions: dict[str, bytes] = field(default_factory=dict)


@dataclass
class MemoryDisk:
    """What survives when a MemoryMessageDb is closed and another one opened on the same disk.

    `full` makes appends fail for want of space, `most_messages` does when so many wait, `failing` makes every
    commit fail, `unreadable` every read, `damaged` every change and read.
    """

    contents: _Contents = field(default_factory=_Contents)
    full: bool = False
    failing: bool = False
    unreadable: bool = False
    damaged: bool = False
    most_messages: int | None = None


class MemoryMessageDb:
    """Implements `actors.ports.MessageStore`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self._open: _Contents | None = None  # what the open transaction has made of the contents
        self._failed = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._open is not None:
            raise StoreError("memory store: a transaction is open already")
        self._open = copy.deepcopy(self._disk.contents)
        self._failed = False
        try:
            yield
            if self._failed:
                raise StoreError("memory store: not committed, because a part of it failed")
            if self._disk.failing:
                raise StoreError("memory store: cannot commit: disk I/O error")
            self._disk.contents = self._open
        finally:
            self._open = None

    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        with self._change("append messages") as contents:
            count = sum(len(segment.entries) for segment in segments)
            most = self._disk.most_messages
            if self._disk.full or (most is not None and len(contents.messages) + count > most):
                raise StoreFull("memory store: no space left to append messages")
            first = contents.next_seq
            for matches, headers, entries in segments:
                for header_index, body in entries:
                    self._append_one(contents, matches, headers[header_index], body, now_s)
            return first

    @staticmethod
    def _append_one(
        contents: _Contents, matches: tuple[Match, ...], header: bytes, body: bytes, now_s: float
    ) -> None:
        seq = contents.next_seq
        contents.next_seq += 1
        contents.received += 1
        if matches:
            contents.routed += 1
            contents.messages[seq] = header, body
        else:
            contents.unrouted += 1
        for endpoint_id, priority, ttl_s in matches:
            queue = contents.queues.setdefault(endpoint_id, _Queue())
            position = position_of(priority, seq)
            if position in queue.expires_at:
                raise StoreError(f"memory store: endpoint {endpoint_id!r} is named twice")
            queue.expires_at[position] = None if ttl_s is None else now_s + ttl_s
            queue.accepted += 1

    def delivered(self, ranges: Mapping[str, Sequence[tuple[int, int]]]) -> int:
        total = 0
        with self._change("delete delivered messages") as contents:
            for endpoint_id, its_ranges in ranges.items():
                count = self._release(contents, endpoint_id, its_ranges)
                if count:
                    contents.queues[endpoint_id].delivered += count
                total += count
        return total

    def dropped(self, endpoint_id: str, ranges: Sequence[tuple[int, int]], reason: DropReason) -> int:
        with self._change("drop messages") as contents:
            count = self._release(contents, endpoint_id, ranges)
            if count:
                contents.queues[endpoint_id].dropped[reason] += count
            return count

    def drop_queue(self, endpoint_id: str, reason: DropReason, limit: int = 1000) -> int:
        queue = self._now().queues.get(endpoint_id, _Queue())
        next_ones = sorted(queue.expires_at)[:limit]
        return self.dropped(endpoint_id, [(position, position) for position in next_ones], reason)

    def drop_oldest(self, limit: int = 1000) -> dict[str, int]:
        queues = self._now().queues
        lowest = max((rank_of(p) for queue in queues.values() for p in queue.expires_at), default=0)
        first, last = positions_of_rank(lowest)
        oldest = min((p for queue in queues.values() for p in queue.expires_at if p >= first), default=last)
        ranges = [(oldest, min(oldest + limit - 1, last))]
        counts = {endpoint_id: self.dropped(endpoint_id, ranges, "limit") for endpoint_id in list(queues)}
        return {endpoint_id: count for endpoint_id, count in counts.items() if count}

    def expire(self, now_s: float, limit: int = 1000) -> dict[str, int]:
        with self._change("delete expired messages") as contents:
            due = sorted(
                (expires_at, endpoint_id, position)
                for endpoint_id, queue in contents.queues.items()
                for position, expires_at in queue.expires_at.items()
                if expires_at is not None and expires_at <= now_s
            )
            counts: Counter[str] = Counter()
            for _, endpoint_id, position in due[:limit]:
                counts[endpoint_id] += self._release(contents, endpoint_id, [(position, position)])
                contents.queues[endpoint_id].expired += 1
            return dict(counts)

    def due_headers(self, now_s: float, limit: int = 1000) -> list[tuple[bytes, int]]:
        contents = self._disk.contents
        due = sorted(
            (expires_at, endpoint_id, position)
            for endpoint_id, queue in contents.queues.items()
            for position, expires_at in queue.expires_at.items()
            if expires_at is not None and expires_at <= now_s
        )
        headers = [contents.messages[seq_of(position)][0] for _, _, position in due[:limit]]
        return list(Counter(headers).items())

    def read(
        self,
        endpoint_id: str,
        after_position: int,
        max_count: int,
        max_bytes: int,
        now_s: float,
        last_position: int = MAX_POSITION,
    ) -> list[Run]:
        if self._disk.damaged:
            raise StoreDamaged("memory store: damaged", "told so")
        if self._disk.unreadable:
            raise StoreError("memory store: cannot read messages: disk I/O error")
        contents = self._now()
        queue = contents.queues.get(endpoint_id, _Queue())
        found: list[Run] = []
        count = size_bytes = 0
        for position, expires_at in sorted(queue.expires_at.items()):
            if not after_position < position <= last_position or (
                expires_at is not None and expires_at <= now_s
            ):
                continue
            header, body = contents.messages[seq_of(position)]
            size_bytes += len(header) + len(body) + MESSAGE_OVERHEAD_BYTES
            if count == max_count or (found and size_bytes > max_bytes):
                break
            count += 1
            if found and found[-1].last_position == position - 1:
                first, headers, entries = found.pop()
                found.append(Run(first, (*headers, header), (*entries, (len(headers), body))))
            else:
                found.append(Run(position, (header,), ((0, body),)))
        return found

    def pending(self, endpoint_id: str) -> int:
        return len(self._now().queues.get(endpoint_id, _Queue()).expires_at)

    def waiting(self, endpoint_ids: Sequence[str], now_s: float) -> list[str]:
        return [name for name in endpoint_ids if self.read(name, -1, 1, 1, now_s)]

    def endpoint_ids(self) -> tuple[str, ...]:
        return tuple(self._now().queues)

    def ledger(self) -> Ledger:
        contents = self._now()
        return Ledger(
            Totals(contents.received, contents.unrouted, contents.routed),
            {
                endpoint_id: EndpointLedger(
                    accepted=queue.accepted,
                    delivered=queue.delivered,
                    expired=queue.expired,
                    dropped=queue.dropped.total(),
                    dropped_by_reason=dict(queue.dropped),
                    pending=len(queue.expires_at),
                    pending_by_priority=dict(Counter(map(priority_of, queue.expires_at))),
                )
                for endpoint_id, queue in contents.queues.items()
            },
        )

    def save_session(self, identity_id: str, record: bytes) -> None:
        with self._change("save a session") as contents:
            contents.sessions[identity_id] = record

    def delete_session(self, identity_id: str) -> None:
        with self._change("delete a session") as contents:
            contents.sessions.pop(identity_id, None)

    def sessions(self) -> dict[str, bytes]:
        return dict(self._now().sessions)

    def tidy(self) -> int:
        if self._open is not None:
            raise StoreError("memory store: cannot tidy inside a transaction")
        return 0

    def close(self) -> None:
        self._open = None

    def _now(self) -> _Contents:
        return self._disk.contents if self._open is None else self._open

    @contextmanager
    def _change(self, doing: str) -> Iterator[_Contents]:
        if self._open is None:
            raise StoreError(f"memory store: cannot {doing} outside a transaction")
        if self._failed:
            raise StoreError(f"memory store: cannot {doing} after a part of it failed")
        try:
            if self._disk.damaged:
                raise StoreDamaged("memory store: damaged", "told so")
            yield self._open
        except BaseException:
            self._failed = True
            raise

    @staticmethod
    def _release(contents: _Contents, endpoint_id: str, ranges: Sequence[tuple[int, int]]) -> int:
        queue = contents.queues.get(endpoint_id, _Queue())
        for first, last in ranges:
            if first < 0 or last > MAX_POSITION:
                raise ValueError(f"positions {first} to {last} are not in 0 to {MAX_POSITION}")
        gone = [
            position
            for position in queue.expires_at
            if any(first <= position <= last for first, last in ranges)
        ]
        for position in gone:
            del queue.expires_at[position]
            seq = seq_of(position)
            if not any(seq == seq_of(other) for q in contents.queues.values() for other in q.expires_at):
                del contents.messages[seq]
        return len(gone)
