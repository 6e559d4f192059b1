"""What became of cloud-to-device messages: records that wait on disk until a service has taken them.

They are handed out in batches, each under a lock that a service completes, abandons, or lets run out. Locks
are in memory, records on disk.

Source: spec sheets hub-protocols.md section 7.7, security-daemon.md section 4.7
        MicrosoftDocs/azure-docs: articles/iot-hub/iot-hub-devguide-messages-c2d.md
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from messaging.clock import Clock
from runtime.iothub import refusals
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.records import Feedback, FeedbackBatch

MOST_RECORDS: Final = 64  # of a batch
BATCH_S: Final = 15.0  # how long a record waits for others
TTL_S: Final = 3600.0
LOCK_S: Final = 60.0
MOST_DELIVERIES: Final = 10


class FeedbackQueue:
    """The records for all services; runs in the loop, its jobs in the thread of the database."""

    def __init__(self, db: CloudDb, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._locks: dict[str, tuple[Sequence[int], float]] = {}
        self._settling: set[int] = set()  # no longer locked, and the disk does not say so yet
        self._swept = asyncio.Event()

    async def receive(self, waited_s: float = 0.0) -> FeedbackBatch | None:
        """Return a batch that is full, or whose first record is `waited_s` old; None when there is none."""
        most = len(self._taken()) + MOST_RECORDS
        rows = await self._db.run(
            lambda connection: connection.execute(
                "SELECT seq, at_s, data FROM feedback ORDER BY seq LIMIT ?", (most,)
            ).fetchall()
        )
        taken = self._taken()  # by others, meanwhile
        free = [row for row in rows if row[0] not in taken][:MOST_RECORDS]
        now_s = self._clock.now_s()
        if not free or (len(free) < MOST_RECORDS and free[0][1] > now_s - waited_s):
            return None
        lock = str(uuid.uuid4())
        self._locks[lock] = ([seq for seq, _, _ in free], now_s + LOCK_S)
        return FeedbackBatch(
            lock, now_s, [msgspec.msgpack.decode(data, type=Feedback) for _, _, data in free]
        )

    async def next(self) -> FeedbackBatch:
        """Wait for a batch that is full, or whose first record is `BATCH_S` old."""
        while True:
            swept = self._swept
            batch = await self.receive(BATCH_S)
            if batch is not None:
                return batch
            await swept.wait()

    async def complete(self, lock: str) -> None:
        """The service has the records, or wants none of them.

        Raises:
            IotHubError: 412002 the lock is unknown or has run out.
        """
        await self._settle(lock, _delete)

    async def abandon(self, lock: str) -> None:
        """The service wants the records later; too often is too often. Raises as `complete`."""

        def count(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
            connection.executemany(
                "UPDATE feedback SET delivery_count = delivery_count + 1 WHERE seq = ?",
                [(seq,) for seq in numbers],
            )
            connection.execute("DELETE FROM feedback WHERE delivery_count >= ?", (MOST_DELIVERIES,))

        await self._settle(lock, count)

    def release(self, lock: str) -> None:
        """The service is gone: others may have the records at once."""
        self._locks.pop(lock, None)

    async def sweep(self) -> None:
        """Forget records that nobody fetched and locks that ran out, and let those who wait look again."""
        now_s = self._clock.now_s()
        for lock in [lock for lock, (_, until_s) in self._locks.items() if until_s <= now_s]:
            del self._locks[lock]
        await self._db.run(
            lambda connection: connection.execute("DELETE FROM feedback WHERE at_s <= ?", (now_s - TTL_S,))
        )
        swept, self._swept = self._swept, asyncio.Event()
        swept.set()

    def _taken(self) -> set[int]:
        return self._settling.union(*(numbers for numbers, _ in self._locks.values()))

    async def _settle(self, lock: str, job: Callable[[sqlite3.Connection, Sequence[int]], None]) -> None:
        """Unlock, and keep the records from those who have read them already until the job is done."""
        numbers = self._unlock(lock)
        self._settling.update(numbers)
        try:
            await self._db.run(lambda connection: job(connection, numbers))
        finally:
            self._settling.difference_update(numbers)

    def _unlock(self, lock: str) -> Sequence[int]:
        numbers, until_s = self._locks.pop(lock, ((), 0.0))
        if until_s <= self._clock.now_s():
            raise refusals.lock_lost(lock)
        return numbers


def leave(connection: sqlite3.Connection, record: Feedback) -> None:
    """Keep a record; for jobs of the database."""
    connection.execute(
        "INSERT INTO feedback (at_s, data) VALUES (?, ?)", (record.at_s, msgspec.msgpack.encode(record))
    )


def _delete(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    connection.executemany("DELETE FROM feedback WHERE seq = ?", [(seq,) for seq in numbers])
