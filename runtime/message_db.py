"""The durable message database: queues per endpoint, each body once, the ledger, sessions.

One SQLite file with a write-ahead log and `synchronous=FULL`: when `transaction()` has ended, what it did is
on disk. Used by one thread, knows no clock.

    messages   seq -> how many queues hold it, header, body
    queue      key -> when it expires; the key is (endpoint number, priority, seq) in one integer
    endpoints  endpoint id -> its number
    ledger     "total" -> counts of the whole store; number of an endpoint -> its counts
    sessions   identity id -> what its session needs after a restart
    meta       "next_seq" -> the next sequence number

The statements follow from one measurement: while another Python thread is busy, each step of a statement that
takes a while costs up to a whole switch interval (5 ms) until the interpreter is ours again. So a batch is a
few big statements, never a statement per row.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from actors.stored import (
    MAX_POSITION,
    MAX_SEQ,
    DropReason,
    Ledger,
    Match,
    NewMessage,
    StoredMessage,
    position_of,
)
from messaging.errors import StoreError
from runtime import message_schema
from runtime.message_ledger import POSITION_BITS, Accounts
from runtime.sqlite_tables import SharedTable

TIDY_PAGES = 256  # given back in one slice

_BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_RANGE = "key BETWEEN ? AND ?"
_LIST = "key IN (SELECT value FROM json_each(?))"

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _guarded(doing: str, *, in_transaction: bool = False) -> Callable[[_Method], _Method]:
    """Translate errors of SQLite, and let no transaction be committed in which a method failed."""

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def guarded(self: MessageDb, *args: Any, **kwargs: Any) -> Any:
            if in_transaction and not self._in_transaction:
                raise StoreError(f"message database {self.path}: cannot {doing} outside a transaction")
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
        self._accounts = Accounts(self._connection, self.path)
        self._sessions = SharedTable(self._connection, self.path, "sessions")
        self._connection.execute("COMMIT")
        self._load()

    def _load(self) -> None:
        self._loaded = False
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
        self._loaded = False
        if self._connection.in_transaction:  # after some errors SQLite has rolled back by itself
            self._connection.execute("ROLLBACK")
        self._load()

    @_guarded("append messages", in_transaction=True)
    def append(self, messages: Sequence[NewMessage], now_s: float) -> int:
        """Store messages and return the sequence number of the first; the others follow it one by one."""
        accounts = self._accounts
        first = seq = accounts.next_seq
        if seq + len(messages) > MAX_SEQ:
            raise StoreError(f"message database {self.path}: sequence numbers are used up; move it away")
        cells: list[Any] = []
        seqs_of: dict[Match, list[int]] = {}
        unrouted = routed = 0
        for header, body, matches in messages:
            if matches:
                routed += 1
                # As bytearray: for bytes the sqlite3 module looks for an adapter each time, 0.2 µs apiece.
                cells += (seq, len(matches), bytearray(header), bytearray(body))
                for match in matches:
                    seqs = seqs_of.get(match)
                    if seqs is None:
                        seqs = seqs_of[match] = []
                    seqs.append(seq)
            else:
                unrouted += 1
            seq += 1
        self._insert_messages(cells)
        for (endpoint_id, priority, ttl_s), seqs in seqs_of.items():
            account = accounts.change(endpoint_id)
            self._connection.execute(
                "INSERT INTO queue SELECT ? + value, ? FROM json_each(?)",
                (
                    account.first_key + position_of(priority, 0),
                    None if ttl_s is None else now_s + ttl_s,
                    json.dumps(seqs),
                ),
            )
            account.accepted += len(seqs)
        accounts.received += len(messages)
        accounts.unrouted += unrouted
        accounts.routed += routed
        accounts.next_seq = seq
        return first

    def _insert_messages(self, cells: list[Any]) -> None:
        """Insert rows of four cells, up to 256 rows per statement.

        The statement for each size of _BATCH_SIZES stays prepared (preparing costs as much as inserting);
        a batch between two sizes is filled up with rows of zeros, which the statement leaves out.
        """
        for start in range(0, len(cells), 4 * _BATCH_SIZES[-1]):
            batch = cells[start : start + 4 * _BATCH_SIZES[-1]]
            size = _BATCH_SIZES[bisect_left(_BATCH_SIZES, len(batch) // 4)]
            batch.extend([0] * (4 * size - len(batch)))
            self._connection.execute(_insert_statement(size), batch)

    @_guarded("delete delivered messages", in_transaction=True)
    def delivered(self, endpoint_id: str, positions: Sequence[int]) -> int:
        """Forget messages that the endpoint took; return how many of them were still waiting."""
        count = self._release_positions(endpoint_id, positions)
        if count:
            self._accounts.change(endpoint_id).delivered += count
        return count

    @_guarded("drop messages", in_transaction=True)
    def dropped(self, endpoint_id: str, positions: Sequence[int], reason: DropReason) -> int:
        """Give up messages of an endpoint; return how many of them were still waiting."""
        count = self._release_positions(endpoint_id, positions)
        self._count_dropped(endpoint_id, reason, count)
        return count

    @_guarded("drop a queue", in_transaction=True)
    def drop_queue(self, endpoint_id: str, reason: DropReason, limit: int = 1000) -> int:
        """Give up the next `limit` messages of an endpoint; a smaller result says that none is left."""
        account = self._accounts.find(endpoint_id)
        if account is None:
            return 0
        last_key, rows = self._connection.execute(
            f"SELECT max(key), count(*) FROM (SELECT key FROM queue WHERE {_RANGE} ORDER BY key LIMIT ?)",
            (account.first_key, account.last_key, limit),
        ).fetchone()
        if not rows:
            return 0
        count = self._release(rows, _RANGE, (account.first_key, last_key))
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
        found = self._connection.execute(
            f"SELECT key >> {POSITION_BITS}, count(*), json_group_array(key) FROM"
            " (SELECT key FROM queue WHERE expires_at <= ? ORDER BY expires_at LIMIT ?) GROUP BY 1",
            (now_s, limit),
        ).fetchall()
        names = self._accounts.names() if found else {}
        counts = {}
        for number, rows, keys in found:
            endpoint_id = names[number]
            counts[endpoint_id] = self._release(rows, _LIST, (keys,))
            self._accounts.change(endpoint_id).expired += counts[endpoint_id]
        return counts

    def _release_positions(self, endpoint_id: str, positions: Sequence[int]) -> int:
        account = self._accounts.find(endpoint_id)
        distinct = set(positions)
        if account is None or not distinct:
            return 0
        first, last = min(distinct), max(distinct)
        if first < 0 or last > MAX_POSITION:
            raise ValueError(f"position {first if first < 0 else last} is not in 0 to {MAX_POSITION}")
        base = account.first_key
        if last - first + 1 == len(distinct):  # without a gap: a range costs less than a list
            return self._release(len(distinct), _RANGE, (base + first, base + last))
        keys = json.dumps([base + position for position in distinct])
        return self._release(len(distinct), _LIST, (keys,))

    def _release(self, at_most: int, where: str, parameters: tuple[Any, ...]) -> int:
        """Delete queue rows of one endpoint, and each body that no other queue holds; count the rows.

        Args:
            at_most: The rows that are meant; fewer may be there.
            where: Which rows, _RANGE or _LIST with its `parameters`.
        """
        held = f"SELECT key & {MAX_SEQ} FROM queue WHERE {where}"
        run = self._connection.execute
        bodies = run(f"DELETE FROM messages WHERE refs = 1 AND seq IN ({held})", parameters).rowcount
        if bodies < at_most:  # some are shared with other queues, or are not here
            run(f"UPDATE messages SET refs = refs - 1 WHERE seq IN ({held})", parameters)
        return run(f"DELETE FROM queue WHERE {where}", parameters).rowcount

    @_guarded("read messages")
    def read(
        self, endpoint_id: str, after_position: int, max_count: int, max_bytes: int, now_s: float
    ) -> list[StoredMessage]:
        """Return the next messages behind `after_position` (-1: from the start) in order of delivery.

        Row by row: these steps are too short to lose the interpreter, and packing all rows into one was no
        faster beside a busy thread and slower without one.
        """
        account = self._accounts.find(endpoint_id)
        if account is None:
            return []
        base = account.first_key
        cursor = self._connection.execute(
            f"SELECT key, header, body FROM queue LEFT JOIN messages ON seq = key & {MAX_SEQ}"
            f" WHERE {_RANGE} AND (expires_at IS NULL OR expires_at > ?) ORDER BY key LIMIT ?",
            (base + max(after_position, -1) + 1, account.last_key, now_s, max_count),
        )
        found: list[StoredMessage] = []
        size_bytes = 0
        try:
            for key, header, body in cursor:
                if body is None:
                    raise message_schema.damaged(
                        self.path, f"message {key & MAX_SEQ} is queued but not there"
                    )
                size_bytes += len(header) + len(body)
                if found and size_bytes > max_bytes:
                    break
                found.append(StoredMessage(key - base, header, body))
        finally:
            cursor.close()  # one that stays open keeps the write-ahead log from being reused
        return found

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


@functools.cache
def _insert_statement(size: int) -> str:
    rows = ",".join(["(?,?,?,?)"] * size)
    return f"INSERT INTO messages SELECT * FROM (VALUES {rows}) WHERE column1 > 0"
