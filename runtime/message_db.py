"""The durable message database: queues per endpoint, each body once, the ledger, sessions.

One SQLite file with a write-ahead log and `synchronous=FULL`: when `transaction()` has ended, what it did is
on disk. Used by one thread, knows no clock.

    bodies     first seq -> messages with consecutive seqs for the same endpoints, as one msgpack value
    held       first seq -> how many messages that row has, how many rows of the queue they have left
    queue      key -> when it expires; the key is (endpoint number, priority, seq) in one integer
    endpoints  endpoint id -> its number
    ledger     "total" -> counts of the whole store; number of an endpoint -> its counts
    sessions   identity id -> what its session needs after a restart
    meta       "next_seq" -> the next sequence number

The statements follow from two measurements: a row of its own for each message costs more than everything
else together; and while another Python thread is busy, each step of a statement that takes a while costs up
to a whole switch interval until the interpreter is ours again. So a batch is a few big statements.
"""

from __future__ import annotations

import functools
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import msgpack

from actors.stored import (
    MAX_POSITION,
    MAX_SEQ,
    MESSAGE_OVERHEAD_BYTES,
    DropReason,
    Ledger,
    Match,
    Run,
    Segment,
    position_of,
)
from messaging.errors import StoreError
from runtime import message_schema
from runtime.message_ledger import POSITION_BITS, Accounts
from runtime.sqlite_tables import SharedTable

TIDY_PAGES = 256  # given back in one slice

ROW_MESSAGES = 512  # at most in one row of bodies …
ROW_BYTES = 256 * 1024  # … which is closed when it has this many bytes
ROWS_REMEMBERED = 8  # decoded rows of bodies, for readers that take a row in several bites

_RANGE = "key BETWEEN ? AND ?"
_NUMBERS = (
    "CREATE TEMP TABLE numbers AS WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n LIMIT "
    f"{ROW_MESSAGES}) SELECT n FROM n"
)

# What a row of bodies holds: pieces, each with its headers and (index of its header, body) per message.
_Pieces = list[tuple[Sequence[bytes], Sequence[tuple[int, bytes]]]]
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _guarded(doing: str, *, in_transaction: bool = False) -> Callable[[_Method], _Method]:
    """Translate errors of SQLite, and let no transaction go on or be committed in which a method failed."""

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def guarded(self: MessageDb, *args: Any, **kwargs: Any) -> Any:
            if in_transaction and not self._in_transaction:
                raise StoreError(f"message database {self.path}: cannot {doing} outside a transaction")
            if in_transaction and self._failed:
                # SQLite may have rolled back by itself, and what follows would be kept without the rest.
                raise StoreError(f"message database {self.path}: cannot {doing} after a part of it failed")
            try:
                return method(self, *args, **kwargs)
            except BaseException as exc:
                self._failed = True
                if isinstance(exc, sqlite3.Error):
                    raise message_schema.translated(exc, self.path, doing) from exc
                raise

        return cast(_Method, guarded)

    return decorate


class MessageDb:
    """Implements `actors.ports.MessageStore`. Opened in the thread that will use it, by `MessageDb.open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._accounts: Accounts
        self._sessions: SharedTable
        self._decoded: OrderedDict[int, _Pieces] = OrderedDict()  # rows of bodies, by first seq
        self._in_transaction = False
        self._failed = False  # a method of the open transaction
        self._loaded = False  # the accounts are those of the last commit, or of the open transaction

    @classmethod
    def open(cls, path: Path) -> MessageDb:
        """Open the database at `path`, made if there is none, migrated if it is of an older release.

        Raises:
            StoreError: It cannot be opened, is damaged, is no message database, or is of a newer release.
        """
        connection = message_schema.connect(path)
        try:
            db = cls(path, connection)
            db._set_up()
        except BaseException:
            connection.close()
            raise
        return db

    @_guarded("open")
    def _set_up(self) -> None:
        message_schema.prepare(self._connection, self.path)
        self._connection.execute(_NUMBERS)
        self._accounts = Accounts(self._connection, self.path)
        self._sessions = SharedTable(self._connection, self.path, "sessions")
        self._connection.execute("COMMIT")
        self._load()

    def _load(self) -> None:
        self._loaded = False
        self._decoded.clear()
        self._accounts.load()
        self._loaded = True

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block did, with one sync to disk; undo all of it when anything in it failed."""
        if self._in_transaction:
            raise StoreError(f"message database {self.path}: a transaction is open already")
        self._begin()
        try:
            yield
            self._commit()
        except BaseException:
            self._rollback()
            raise
        finally:
            self._in_transaction = False

    @_guarded("begin a transaction")
    def _begin(self) -> None:
        if not self._loaded:
            self._load()
        self._connection.execute("BEGIN IMMEDIATE")
        self._in_transaction = True
        self._failed = False

    @_guarded("commit")
    def _commit(self) -> None:
        if self._failed:
            raise StoreError(f"message database {self.path}: not committed, because a part of it failed")
        self._accounts.save()
        self._connection.execute("COMMIT")

    @_guarded("undo a transaction")
    def _rollback(self) -> None:
        if self._connection.in_transaction:  # after some errors SQLite has rolled back by itself
            self._connection.execute("ROLLBACK")
        self._load()

    @_guarded("append messages", in_transaction=True)
    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        """Store messages and return the sequence number of the first; the others follow it one by one."""
        accounts = self._accounts
        first = seq = accounts.next_seq
        count = sum(len(segment.entries) for segment in segments)
        if seq + count > MAX_SEQ:
            raise StoreError(f"message database {self.path}: sequence numbers are used up; move it away")
        routed = 0
        for matches, pieces, length in _rows(segments):
            if matches:
                self._insert_row(seq, length, matches, pieces, now_s)
                routed += length
            seq += length
        accounts.received += count
        accounts.unrouted += count - routed
        accounts.routed += routed
        accounts.next_seq = seq
        return first

    def _insert_row(
        self, first_seq: int, count: int, matches: tuple[Match, ...], pieces: _Pieces, now_s: float
    ) -> None:
        run = self._connection.execute
        run("INSERT INTO bodies VALUES (?, ?)", (first_seq, msgpack.packb(pieces)))
        run("INSERT INTO held VALUES (?, ?, ?)", (first_seq, count, count * len(matches)))
        for endpoint_id, priority, ttl_s in matches:
            account = self._accounts.change(endpoint_id)
            key = account.first_key + position_of(priority, first_seq)
            expires_at = None if ttl_s is None else now_s + ttl_s
            if count == 1:
                run("INSERT INTO queue VALUES (?, ?)", (key, expires_at))
            else:
                run("INSERT INTO queue SELECT ? + n, ? FROM temp.numbers LIMIT ?", (key, expires_at, count))
            account.accepted += count

    @_guarded("delete delivered messages", in_transaction=True)
    def delivered(self, endpoint_id: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Forget messages that the endpoint took; return how many of them were still waiting."""
        count = self._release_positions(endpoint_id, ranges)
        if count:
            self._accounts.change(endpoint_id).delivered += count
        return count

    @_guarded("drop messages", in_transaction=True)
    def dropped(self, endpoint_id: str, ranges: Sequence[tuple[int, int]], reason: DropReason) -> int:
        """Give up messages of an endpoint; return how many of them were still waiting."""
        count = self._release_positions(endpoint_id, ranges)
        self._count_dropped(endpoint_id, reason, count)
        return count

    @_guarded("drop a queue", in_transaction=True)
    def drop_queue(self, endpoint_id: str, reason: DropReason, limit: int = 1000) -> int:
        """Give up the next `limit` messages of an endpoint; a smaller result says that none is left."""
        account = self._accounts.find(endpoint_id)
        if account is None:
            return 0
        keys = self._connection.execute(
            f"SELECT key FROM queue WHERE {_RANGE} ORDER BY key LIMIT ?",
            (account.first_key, account.last_key, limit),
        ).fetchall()
        count = sum(self._release(first, last) for first, last in _ranges(key for (key,) in keys))
        self._count_dropped(endpoint_id, reason, count)
        return count

    def _count_dropped(self, endpoint_id: str, reason: DropReason, count: int) -> None:
        if count:
            account = self._accounts.change(endpoint_id)
            account.dropped += count
            account.dropped_by_reason[reason] = account.dropped_by_reason.get(reason, 0) + count

    @_guarded("delete expired messages", in_transaction=True)
    def expire(self, now_s: float, limit: int = 1000) -> dict[str, int]:
        """Delete at most `limit` messages past their time to live; return how many at which endpoint."""
        keys = self._connection.execute(
            "SELECT key FROM queue WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (now_s, limit)
        ).fetchall()
        names = self._accounts.names() if keys else {}
        counts: dict[str, int] = {}
        for first, last in _ranges(sorted(key for (key,) in keys)):
            endpoint_id = names[first >> POSITION_BITS]
            count = self._release(first, last)
            self._accounts.change(endpoint_id).expired += count
            counts[endpoint_id] = counts.get(endpoint_id, 0) + count
        return counts

    def _release_positions(self, endpoint_id: str, ranges: Sequence[tuple[int, int]]) -> int:
        account = self._accounts.find(endpoint_id)
        count = 0
        for first, last in ranges:
            if first < 0 or last > MAX_POSITION:
                raise ValueError(f"positions {first} to {last} are not in 0 to {MAX_POSITION}")
            if account is not None:
                count += self._release(account.first_key + first, account.first_key + last)
        return count

    def _release(self, first_key: int, last_key: int) -> int:
        """Delete a range of one queue, and each row of bodies that no queue holds any more; count the keys.

        Args:
            first_key, last_key: Of one endpoint and one priority.
        """
        run = self._connection.execute
        base = first_key & ~MAX_SEQ
        first_seq, last_seq = first_key - base, last_key - base
        rows = run(
            "SELECT first_seq, count FROM held WHERE first_seq BETWEEN"
            " ifnull((SELECT max(first_seq) FROM held WHERE first_seq <= ?), ?) AND ?",
            (first_seq, first_seq, last_seq),
        ).fetchall()
        released = 0
        for row_seq, count in rows:
            start, stop = max(first_seq, row_seq), min(last_seq, row_seq + count - 1)
            gone = run(f"DELETE FROM queue WHERE {_RANGE}", (base + start, base + stop)).rowcount
            if gone:
                released += gone
                self._let_go(row_seq, gone)
        return released

    def _let_go(self, first_seq: int, count: int) -> None:
        """Count down what a row of bodies is still held by; at none it goes."""
        run = self._connection.execute
        (left,) = run(
            "UPDATE held SET left = left - ? WHERE first_seq = ? RETURNING left", (count, first_seq)
        ).fetchall()[0]
        if left <= 0:
            run("DELETE FROM held WHERE first_seq = ?", (first_seq,))
            run("DELETE FROM bodies WHERE first_seq = ?", (first_seq,))
            self._decoded.pop(first_seq, None)

    @_guarded("read messages")
    def read(
        self, endpoint_id: str, after_position: int, max_count: int, max_bytes: int, now_s: float
    ) -> list[Run]:
        """Return the next messages behind `after_position` (-1: from the start) in order of delivery."""
        account = self._accounts.find(endpoint_id)
        if account is None:
            return []
        base = account.first_key
        keys = self._connection.execute(
            f"SELECT key FROM queue WHERE {_RANGE} AND (expires_at IS NULL OR expires_at > ?)"
            " ORDER BY key LIMIT ?",
            (base + max(after_position, -1) + 1, account.last_key, now_s, max_count),
        ).fetchall()
        found: list[Run] = []
        size_bytes = 0
        for first, last in _ranges(key for (key,) in keys):
            for run in self._runs(first - base, last - base):
                room_bytes = max_bytes - size_bytes
                fits = run if run.size_bytes <= room_bytes else _fitting(run, room_bytes, at_least=not found)
                if fits is not None:
                    found.append(fits)
                    size_bytes += fits.size_bytes
                if fits is not run:
                    return found
        return found

    def _runs(self, first_position: int, last_position: int) -> Iterator[Run]:
        """Read a range of positions, all of which are in the queue."""
        position = first_position
        while position <= last_position:
            for run in self._row(position):
                part = run.cut(max(position, run.first_position), min(last_position, run.last_position))
                if part is not None:
                    yield part
                    position = part.last_position + 1

    def _row(self, position: int) -> list[Run]:
        """Return the row of bodies with the message at `position`, at the positions of its priority."""
        seq = position & MAX_SEQ
        found = self._connection.execute(
            "SELECT first_seq, count FROM held WHERE first_seq <= ? ORDER BY first_seq DESC LIMIT 1", (seq,)
        ).fetchone()
        if found is None or found[0] + found[1] <= seq:
            raise message_schema.damaged(self.path, f"message {seq} is queued but not there")
        first_seq = found[0]
        pieces = self._decoded.get(first_seq)
        if pieces is None:
            row = self._connection.execute(
                "SELECT data FROM bodies WHERE first_seq = ?", (first_seq,)
            ).fetchone()
            if row is None:
                raise message_schema.damaged(self.path, f"the bodies from {first_seq} on are not there")
            pieces = self._decoded[first_seq] = msgpack.unpackb(row[0], use_list=False)
            if len(self._decoded) > ROWS_REMEMBERED:
                self._decoded.popitem(last=False)
        runs = []
        start = position - seq + first_seq
        for headers, entries in pieces:
            runs.append(Run(start, headers, entries))
            start += len(entries)
        return runs

    @_guarded("count messages")
    def pending(self, endpoint_id: str) -> int:
        """Return how many messages wait for the endpoint."""
        account = self._accounts.find(endpoint_id)
        return 0 if account is None else account.pending(self._connection)

    @_guarded("read the ledger")
    def ledger(self) -> Ledger:
        """Return the ledger of this moment."""
        return self._accounts.snapshot()

    @_guarded("save a session", in_transaction=True)
    def save_session(self, identity_id: str, record: bytes) -> None:
        """Keep what must survive a restart of the session of a client."""
        self._sessions[identity_id] = record

    @_guarded("delete a session", in_transaction=True)
    def delete_session(self, identity_id: str) -> None:
        """Forget the session of a client; nothing happens when there is none."""
        self._sessions.pop(identity_id, None)

    @_guarded("read sessions")
    def sessions(self) -> dict[str, bytes]:
        """Return all kept sessions by identity."""
        return dict(self._sessions.items())

    @_guarded("tidy")
    def tidy(self) -> int:
        """Give free space back to the file system, a slice at a time; return the bytes still to give."""
        if self._in_transaction:
            raise StoreError(f"message database {self.path}: cannot tidy inside a transaction")
        # Only a script runs this pragma to its end; executed as a statement it frees a single page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({TIDY_PAGES})")
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        (free_pages,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
        return int(free_pages * page_bytes)


def _rows(segments: Iterable[Segment]) -> Iterator[tuple[tuple[Match, ...], _Pieces, int]]:
    """Put consecutive segments for the same endpoints into rows of bodies: (matches, pieces, messages)."""
    pieces: _Pieces = []
    row_matches: tuple[Match, ...] = ()
    length = size_bytes = 0
    for matches, headers, all_entries in segments:
        for start in range(0, len(all_entries), ROW_MESSAGES):
            entries = all_entries[start : start + ROW_MESSAGES]
            if pieces and (
                matches != row_matches or size_bytes >= ROW_BYTES or length + len(entries) > ROW_MESSAGES
            ):
                yield row_matches, pieces, length
                pieces, length, size_bytes = [], 0, 0
            row_matches = matches
            pieces.append((headers, entries))
            length += len(entries)
            size_bytes += sum(len(body) for _, body in entries)
    if pieces:
        yield row_matches, pieces, length


def _ranges(keys: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Join ascending keys to ranges without a gap, both ends included."""
    first = last = -1
    for key in keys:
        if key != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = key
        last = key
    if first >= 0:
        yield first, last


def _fitting(run: Run, room_bytes: int, at_least: bool) -> Run | None:
    """Return as many messages of a run as fit; one in any case when `at_least`."""
    count = 0
    for index, body in run.entries:
        room_bytes -= len(run.headers[index]) + len(body) + MESSAGE_OVERHEAD_BYTES
        if room_bytes < 0 and not (at_least and count == 0):
            break
        count += 1
    return run.cut(run.first_position, run.first_position + count - 1)
