"""The queues of bridges on disk: one SQLite file with `synchronous=FULL`; what a method did is on disk.

queues     endpoint, direction -> number of the queue, counts of what left it
messages   number of the queue << 44 | number in the queue -> one message
held       endpoint -> the filters that the other broker may know

Source: spec sheet broker.md section 7.4
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgpack
from msgspec import Struct

from actors.ports.bridges import QueueState, Waiting
from messaging.broker.bridges import Direction
from messaging.errors import StoreDamaged, StoreError
from messaging.mqtt.packets import Publish
from runtime.storage import bridge_salvage, sqlite_file

MAX_QUEUE_BYTES: Final = 32 << 20  # of one direction of one bridge, as in the reference
MESSAGE_BYTES: Final = 32  # what a message takes besides topic and payload
TIDY_PAGES: Final = 256

log = logging.getLogger(__name__)

_Run = Callable[..., sqlite3.Cursor]
_WHAT: Final = "bridge database"
_MIGRATIONS: Final = (
    """
    CREATE TABLE queues (
        number INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, direction TEXT NOT NULL,
        forwarded INTEGER NOT NULL DEFAULT 0, dropped INTEGER NOT NULL DEFAULT 0, UNIQUE (endpoint, direction)
    );
    CREATE TABLE messages (
        key INTEGER PRIMARY KEY, qos INTEGER NOT NULL, retain INTEGER NOT NULL, topic TEXT NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE TABLE held (endpoint TEXT PRIMARY KEY, filters BLOB NOT NULL)
    """,
)
_SHIFT: Final = 44  # 17 trillion messages a queue, 500,000 queues


class _Queue(Struct):
    """One queue as it is on disk."""

    number: int
    next: int = 0
    messages: int = 0
    bytes: int = 0
    forwarded: int = 0
    dropped: int = 0

    @property
    def first_key(self) -> int:
        return self.number << _SHIFT

    @property
    def last_key(self) -> int:
        return (self.number + 1 << _SHIFT) - 1


class BridgeDb:
    """Implements `actors.ports.bridges.BridgeStore`."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, max_bytes: int, max_messages: int | None
    ) -> None:
        """Take over a connection to a prepared file, with what one queue may hold."""
        self._connection = connection
        self._path = path
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._queues: dict[tuple[str, Direction], _Queue] = {}

    @classmethod
    def open(cls, path: Path, max_bytes: int = MAX_QUEUE_BYTES, max_messages: int | None = None) -> BridgeDb:
        """Open the file, made if there is none; one that is damaged is put aside, and what can be read of it
        is taken over.

        Args:
            path: In a folder that exists.
            max_bytes: Of topics and payloads that wait in one direction of one bridge.
            max_messages: That wait there; None: as many as there is room for.

        Raises:
            StoreError: it is of a newer release, or cannot be opened.
        """
        try:
            bridge_salvage.finish(path)  # what a crash has interrupted
            return cls._open(path, max_bytes, max_messages)
        except StoreDamaged as exc:
            count = bridge_salvage.salvage(path, _WHAT, _MIGRATIONS, _SHIFT)
            log.error(
                "%s %s: damaged (%s); it was put aside as %s, and bridges go on with the %d waiting messages "
                "that could be read",
                _WHAT,
                path,
                exc.finding,
                bridge_salvage.finish(path),
                count,
            )
            return cls._open(path, max_bytes, max_messages)

    @classmethod
    def _open(cls, path: Path, max_bytes: int, max_messages: int | None) -> BridgeDb:
        with sqlite_file.opened(path, _WHAT, _MIGRATIONS) as connection:
            db = cls(connection, path, max_bytes, max_messages)
            db._load()
            return db

    def _load(self) -> None:
        self._queues.clear()
        run = self._connection.execute
        for number, endpoint, direction, forwarded, dropped in run("SELECT * FROM queues").fetchall():
            queue = _Queue(number, forwarded=forwarded, dropped=dropped)
            [(last, queue.messages, size)] = run(
                "SELECT max(key), count(*), sum(length(CAST(topic AS BLOB)) + length(payload)) FROM messages"
                " WHERE key BETWEEN ? AND ?",
                (queue.first_key, queue.last_key),
            ).fetchall()
            if last is not None:
                queue.next = last - queue.first_key + 1
                queue.bytes = size + MESSAGE_BYTES * queue.messages
            self._queues[endpoint, Direction(direction)] = queue

    def append(
        self,
        endpoint: str,
        direction: Direction,
        messages: Sequence[Publish],
        forwarded: Sequence[int] = (),
    ) -> int:
        """Keep messages behind those that wait, and forget forwarded ones; see BridgeStore."""
        with self._transaction("store messages") as run:
            queue = self._queue(run, endpoint, direction)
            self._delete(run, queue, forwarded)
            rows = []
            for message in messages:
                size_bytes = len(message.topic.encode()) + len(message.payload) + MESSAGE_BYTES
                if not self._has_room(queue, size_bytes):
                    break
                row = (queue.first_key + queue.next, message.qos, message.retain, message.topic)
                rows.append((*row, message.payload))
                queue.next += 1
                queue.messages += 1
                queue.bytes += size_bytes
            self._connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", rows)
        return len(rows)

    def _has_room(self, queue: _Queue, size_bytes: int) -> bool:
        if not queue.messages:
            return True
        if self._max_messages is not None and queue.messages >= self._max_messages:
            return False
        return queue.bytes + size_bytes <= self._max_bytes

    def dropped(self, endpoint: str, direction: Direction, count: int) -> None:
        """Count messages that are given up."""
        with self._transaction("count messages") as run:
            queue = self._queue(run, endpoint, direction)
            queue.dropped += count
            run("UPDATE queues SET dropped = ? WHERE number = ?", (queue.dropped, queue.number))

    def read(self, endpoint: str, direction: Direction, after: int, limit: int) -> list[Waiting]:
        """Return the next messages behind a number; see BridgeStore."""
        queue = self._queues.get((endpoint, direction))
        if queue is None:
            return []
        try:
            rows = self._connection.execute(
                "SELECT key, topic, payload, qos, retain FROM messages WHERE key BETWEEN ? AND ?"
                " ORDER BY key LIMIT ?",
                (queue.first_key + after + 1, queue.last_key, limit),
            ).fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc, "read messages") from exc
        return [
            Waiting(key - queue.first_key, Publish(topic, payload, qos, retain=bool(retain)))
            for key, topic, payload, qos, retain in rows
        ]

    def forwarded(self, endpoint: str, direction: Direction, numbers: Sequence[int]) -> None:
        """Forget messages that have arrived at the other end."""
        with self._transaction("delete forwarded messages") as run:
            self._delete(run, self._queue(run, endpoint, direction), numbers)

    def _delete(self, run: _Run, queue: _Queue, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        for number in numbers:
            deleted = run(
                "DELETE FROM messages WHERE key = ? RETURNING length(CAST(topic AS BLOB)) + length(payload)",
                (queue.first_key + number,),
            ).fetchall()
            for (size,) in deleted:
                queue.messages -= 1
                queue.bytes -= size + MESSAGE_BYTES
                queue.forwarded += 1
        run("UPDATE queues SET forwarded = ? WHERE number = ?", (queue.forwarded, queue.number))

    def state(self, endpoint: str, direction: Direction) -> QueueState:
        """Return what is known of a queue."""
        queue = self._queues.get((endpoint, direction))
        if queue is None:
            return QueueState()
        return QueueState(queue.messages, queue.bytes, queue.forwarded, queue.dropped)

    def endpoints(self) -> tuple[str, ...]:
        """Return the endpoints of which anything is kept."""
        try:
            rows = self._connection.execute("SELECT endpoint FROM held").fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc, "list bridges") from exc
        return tuple(dict.fromkeys([*(name for name, _ in self._queues), *(name for (name,) in rows)]))

    def forget(self, endpoint: str) -> int:
        """Remove all that is kept of an endpoint; return how many messages were still waiting."""
        gone = {key: queue for key, queue in self._queues.items() if key[0] == endpoint}
        with self._transaction("forget a bridge") as run:
            for queue in gone.values():
                run("DELETE FROM messages WHERE key BETWEEN ? AND ?", (queue.first_key, queue.last_key))
            run("DELETE FROM queues WHERE endpoint = ?", (endpoint,))
            run("DELETE FROM held WHERE endpoint = ?", (endpoint,))
        for key in gone:
            del self._queues[key]
        return sum(queue.messages for queue in gone.values())

    def held(self, endpoint: str) -> dict[str, bool]:
        """Return the filters that the other broker may know, with whether it granted them."""
        try:
            rows = self._connection.execute(
                "SELECT filters FROM held WHERE endpoint = ?", (endpoint,)
            ).fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc, "read subscriptions") from exc
        found: dict[str, bool] = msgpack.unpackb(rows[0][0]) if rows else {}
        return found

    def save_held(self, endpoint: str, held: Mapping[str, bool]) -> None:
        """Replace these filters; on return that is on disk."""
        with self._transaction("store subscriptions") as run:
            run("INSERT OR REPLACE INTO held VALUES (?, ?)", (endpoint, msgpack.packb(dict(held))))

    def tidy(self) -> None:
        """Give free space back to the file system, a slice at a time: for moments without traffic."""
        try:
            # Only a script runs this pragma to its end; executed as a statement it frees a single page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({TIDY_PAGES})")
        except sqlite3.Error as exc:
            raise self._translated(exc, "tidy") from exc

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        self._connection.close()

    def _queue(self, run: _Run, endpoint: str, direction: Direction) -> _Queue:
        queue = self._queues.get((endpoint, direction))
        if queue is None:
            cursor = run("INSERT INTO queues (endpoint, direction) VALUES (?, ?)", (endpoint, direction))
            assert cursor.lastrowid is not None
            queue = self._queues[endpoint, direction] = _Queue(cursor.lastrowid)
        return queue

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[_Run]:
        try:
            try:
                with sqlite_file.transaction(self._connection):
                    yield self._connection.execute
            except BaseException:
                self._load()  # what is known of the queues is that of the last commit
                raise
        except sqlite3.Error as exc:
            raise self._translated(exc, doing) from exc

    def _translated(self, exc: sqlite3.Error, doing: str) -> StoreError:
        return sqlite_file.translated(exc, self._path, _WHAT, doing)
