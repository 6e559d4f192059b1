"""The ring of device messages on disk: a stream with sequence numbers, bounded by bytes.

A row holds everything that one commit brought, up to a size: a row per message would cost several times what
storing the messages costs. Sequence numbers start at 1 and have no gaps; the oldest rows go when the ring is
over its size.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import msgpack

from messaging.clock import Clock
from messaging.identity import Identity
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.records import Event, Extent, Grant, Telemetry

RING_BYTES: Final = 64 << 20
HELD_BYTES: Final = 256 << 20  # to which the ring may grow while its follower cannot keep up
ROW_BYTES: Final = 256 << 10  # a row is closed when it holds this much

# Of one sender: device, module, generation, auth method, its messages as (properties, system, body).
_Entry = tuple[str, str | None, str, str, list[tuple[Any, Any, bytes]]]


class Follower(Protocol):
    """Somebody who reads the rows from the file by himself, with `events_after`."""

    @property
    def position(self) -> int:
        """The last sequence number that it has no more need of; asked in the thread of the database."""

    def more(self) -> None:
        """Note that there is more; called in the loop."""


class TelemetryStream:
    """Appends and reads messages; made and called in the loop."""

    def __init__(self, db: CloudDb, clock: Clock, ring_bytes: int = RING_BYTES) -> None:
        self._db = db
        self._clock = clock
        self._ring_bytes = ring_bytes
        self._more = asyncio.Event()
        self._follower: Follower | None = None
        # The rest belongs to the thread of the database.
        self._next_seq = 0
        self._total_bytes = 0
        self._undone = -1  # as of which `CloudDb.undone` these are right
        self._store_all = self._store  # one object, so that all calls of one commit come together

    def follow(self, follower: Follower) -> None:
        """Have somebody told of each commit, and keep messages for him beyond the size of the ring."""
        self._follower = follower

    def append(self, grant: Grant, messages: Sequence[Telemetry]) -> asyncio.Future[None]:
        """Append messages of one sender; see `IotHub.telemetry`."""
        identity = grant.identity
        entry: _Entry = (
            identity.device_id,
            identity.module_id,
            grant.generation_id,
            grant.auth_method,
            [(message.properties, message.system_properties, message.body) for message in messages],
        )
        future = self._db.gather(self._store_all, (entry, self._clock.now_s()))
        future.add_done_callback(self._announce)
        return future

    async def read(self, after: int, max_count: int, wait_s: float, most_bytes: int) -> list[Event]:
        """Return what follows `after`; see `IotHub.events`."""
        deadline_s = asyncio.get_running_loop().time() + wait_s
        while True:
            more = self._more
            found = await self._db.run(
                lambda connection: events_after(connection, after, max_count, most_bytes)
            )
            if found or not wait_s:
                return found
            try:
                async with asyncio.timeout_at(deadline_s):
                    await more.wait()
            except TimeoutError:
                return []

    async def last(self) -> int:
        """Return the sequence number of the newest message, 0 when there never was one."""
        return await self._db.run(lambda connection: next_seq(connection) - 1)

    async def extent(self) -> Extent:
        """Return what the ring holds."""
        return await self._db.run(_extent)

    async def last_before(self, at_ms: int, inclusive: bool) -> int:
        """Return the number in front of the first message that came after a time, or at it; see `IotHub`."""
        return await self._db.run(lambda connection: _last_before(connection, at_ms, inclusive))

    def _announce(self, _: asyncio.Future[None]) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()
        if self._follower is not None:
            self._follower.more()

    def _store(self, connection: sqlite3.Connection, /, items: Sequence[tuple[_Entry, float]]) -> None:
        if self._undone != self._db.undone:
            self._next_seq = next_seq(connection)
            (self._total_bytes,) = connection.execute("SELECT ifnull(sum(size), 0) FROM telemetry").fetchone()
            self._undone = self._db.undone
        at_s = items[-1][1]
        rows = []
        for entries, count in _rows_of([entry for entry, _ in items]):
            data = msgpack.packb(entries)
            rows.append((self._next_seq, count, len(data), at_s, data))
            self._next_seq += count
            self._total_bytes += len(data)
        connection.executemany("INSERT INTO telemetry VALUES (?, ?, ?, ?, ?)", rows)
        if self._total_bytes > self._ring_bytes:
            self._forget_oldest(connection)

    def _forget_oldest(self, connection: sqlite3.Connection) -> None:
        """Bring the ring down to its size. The newest row stays, so that numbers go on where they were."""
        oldest = connection.execute(
            "SELECT first_seq, size FROM telemetry WHERE first_seq < (SELECT max(first_seq) FROM telemetry) "
            "ORDER BY first_seq LIMIT 1000"
        ).fetchall()
        gone = 0
        position = None if self._follower is None else self._follower.position
        for first_seq, size in oldest:
            if self._total_bytes <= self._ring_bytes:
                break
            # The row that the position is in stays, too: it may not be its end.
            if position is not None and first_seq >= position and self._total_bytes <= HELD_BYTES:
                break
            self._total_bytes -= size
            gone = first_seq
        connection.execute("DELETE FROM telemetry WHERE first_seq <= ?", (gone,))


def next_seq(connection: sqlite3.Connection) -> int:
    """Return the sequence number of the next message."""
    row = connection.execute(
        "SELECT first_seq + count FROM telemetry ORDER BY first_seq DESC LIMIT 1"
    ).fetchone()
    return 1 if row is None else int(row[0])


def _rows_of(entries: Sequence[_Entry]) -> Iterator[tuple[list[_Entry], int]]:
    """Cut what came together into rows, each with its count of messages."""
    row: list[_Entry] = []
    count = size = 0
    for entry in entries:
        row.append(entry)
        count += len(entry[4])
        size += sum(len(body) for _, _, body in entry[4])
        if size >= ROW_BYTES:
            yield row, count
            row, count, size = [], 0, 0
    if row:
        yield row, count


def events_after(
    connection: sqlite3.Connection, after: int, max_count: int, most_bytes: int = HELD_BYTES
) -> list[Event]:
    """Return up to `max_count` messages that follow sequence number `after`, or the oldest kept, in order.

    With `most_bytes`, fewer as soon as their bodies have that many bytes together.
    """
    row = connection.execute(
        "SELECT max(first_seq) FROM telemetry WHERE first_seq <= ?", (after + 1,)
    ).fetchone()
    next_row = row[0] or 0
    found: list[Event] = []
    size = 0
    while True:
        row = connection.execute(
            "SELECT first_seq, count, at_s, data FROM telemetry WHERE first_seq >= ? "
            "ORDER BY first_seq LIMIT 1",
            (next_row,),
        ).fetchone()
        if row is None:
            return found
        first_seq, count, at_s, data = row
        for event in _events(first_seq, at_s, data):
            if event.sequence_number > after:
                if len(found) == max_count or size >= most_bytes:
                    return found
                found.append(event)
                size += len(event.telemetry.body)
        next_row = first_seq + count


def _extent(connection: sqlite3.Connection) -> Extent:
    newest = connection.execute(
        "SELECT first_seq + count - 1, at_s FROM telemetry ORDER BY first_seq DESC LIMIT 1"
    ).fetchone()
    if newest is None:
        return Extent(1, 0, 0.0)
    (first,) = connection.execute("SELECT min(first_seq) FROM telemetry").fetchone()
    return Extent(first, *newest)


def _last_before(connection: sqlite3.Connection, at_ms: int, inclusive: bool) -> int:
    (first,) = connection.execute(
        "SELECT min(first_seq) FROM telemetry WHERE CAST(at_s * 1000 AS INTEGER) > ?",
        (at_ms - inclusive,),
    ).fetchone()
    return next_seq(connection) - 1 if first is None else int(first) - 1


def _events(first_seq: int, at_s: float, data: bytes) -> Iterator[Event]:
    seq = first_seq
    for device_id, module_id, generation_id, auth_method, messages in msgpack.unpackb(data):
        identity = Identity(device_id, module_id)
        for properties, system_properties, body in messages:
            telemetry = Telemetry(properties, system_properties, body)
            yield Event(seq, at_s, identity, generation_id, auth_method, telemetry)
            seq += 1
