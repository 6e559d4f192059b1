"""The durable message database: queues per endpoint, each body once, the ledger, sessions.

One SQLite file with a write-ahead log and `synchronous=FULL`: when `transaction()` has ended, what it did is
on disk. Used by one thread, knows no clock.

    bodies     first seq -> messages with consecutive seqs for the same endpoints, and a checksum of them;
               see message_bodies.py
    queue      first key -> messages that wait for an endpoint; see message_queues.py
    held       first seq -> how many messages of that row of bodies wait
    endpoints  endpoint id -> its number
    ledger     "total" -> counts of the whole store, next seq; number of an endpoint -> its counts
    sessions   identity id -> what its session needs after a restart

The statements follow from two measurements: a row of its own for each message, in whichever table, costs
more than everything else together; and while another Python thread is busy, each step of a statement that
takes a while costs up to a whole switch interval until the interpreter is ours again.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import msgpack

from actors.store.stored import (
    MAX_POSITION,
    MAX_SEQ,
    DropReason,
    Ledger,
    Run,
    Segment,
    bodies_bytes,
    position_of,
    positions_of_rank,
    rank_of,
    seq_of,
)
from messaging.errors import StoreDamaged, StoreError, StoreFull
from runtime.storage import message_schema, sqlite_file, store_space
from runtime.storage.message_bodies import BodyReader, checksum, rows_of
from runtime.storage.message_ledger import Accounts
from runtime.storage.message_queues import POSITION_BITS, QueueRow, Queues
from runtime.storage.message_split import split_upstream
from runtime.storage.sqlite_tables import SharedTable
from runtime.storage.store_space import StoreSpace

TIDY_PAGES = 256  # given back in one slice
POSITION_MASK = (1 << POSITION_BITS) - 1  # of a key
ROW_BYTES_EACH = 8  # of a message in a row of bodies, besides header and body

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
                    raise self._translated(exc, doing) from exc
                if isinstance(exc, StoreDamaged):
                    message_schema.condemn(self.path, str(exc))
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
        self._space: StoreSpace | None = None
        self._queues = Queues(connection)
        self._bodies = BodyReader(connection, path)
        self._in_transaction = False
        self._failed = False  # a method of the open transaction
        self._loaded = False  # the accounts are those of the last commit, or of the open transaction

    @classmethod
    def open(cls, path: Path, max_bytes: int | None = None) -> MessageDb:
        """Open the database at `path`, made if there is none, migrated if it is of an older release.

        Args:
            path: In a folder that exists.
            max_bytes: What it may take; None: half of what the disk has.

        Raises:
            StoreError: It cannot be opened, is damaged, is no message database, or is of a newer release.
        """
        try:
            return cls._opened(path, max_bytes)
        except StoreFull:
            if not store_space.give_up_reserve(path):
                raise
            return cls._opened(path, max_bytes)

    @classmethod
    def _opened(cls, path: Path, max_bytes: int | None) -> MessageDb:
        connection = message_schema.connect(path)
        try:
            db = cls(path, connection)
            db._set_up(max_bytes)
        except BaseException:
            connection.close()
            raise
        return db

    @_guarded("open")
    def _set_up(self, max_bytes: int | None) -> None:
        message_schema.prepare(self._connection, self.path)
        self._accounts = Accounts(self._connection, self.path)
        self._sessions = SharedTable(self._connection, self.path, "sessions")
        self._accounts.load()
        if self.path.stat().st_size <= sqlite_file.CHECKED_WHOLE_BYTES:
            self._bodies.check()
        self._check_counts()
        if split_upstream(self._connection, self._accounts, self._queues, self._bodies):
            self._accounts.save()
        self._connection.execute("COMMIT")
        self._load()
        self._space = StoreSpace(self._connection, self.path, max_bytes)

    def _check_counts(self) -> None:
        """See that no message has a number that is yet to be given; it would be given twice.

        Raises:
            StoreDamaged: The counts are behind the messages, as after a disk that lost what it had synced.
        """
        (first_seq,) = self._connection.execute("SELECT max(first_seq) FROM bodies").fetchone()
        if first_seq is not None:
            last_seq = first_seq + self._bodies.count(first_seq) - 1
            next_seq = self._accounts.next_seq
            if last_seq >= next_seq:
                finding = f"its counts end before message {next_seq}, its messages with {last_seq}"
                raise message_schema.damaged(self.path, finding)

    def _translated(self, exc: sqlite3.Error, doing: str) -> StoreError:
        error = message_schema.translated(exc, self.path, doing)
        if isinstance(error, StoreDamaged):
            message_schema.condemn(self.path, str(error))
        elif self._space is not None:
            self._space.ran_out()
        return error

    def _load(self) -> None:
        self._loaded = False
        self._bodies.forget()
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
    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        """Store messages and return the sequence number of the first; the others follow it one by one."""
        accounts = self._accounts
        first = seq = accounts.next_seq
        count = sum(len(segment.entries) for segment in segments)
        assert self._space is not None
        if size_bytes := sum(map(_size_bytes, segments)):
            self._space.check(size_bytes)
        if seq + count > MAX_SEQ:
            raise StoreError(f"message database {self.path}: sequence numbers are used up; move it away")
        routed = 0
        bodies: list[tuple[int, bytes, int]] = []
        queued: list[QueueRow] = []
        for matches, pieces, length in rows_of(segments):
            if matches:
                routed += length
                data = msgpack.packb(pieces)
                bodies.append((seq, data, checksum(seq, data)))
                for endpoint_id, priority, ttl_s in matches:
                    account = accounts.change(endpoint_id)
                    key = account.first_key + position_of(priority, seq)
                    queued.append((key, length, seq, None if ttl_s is None else now_s + ttl_s))
                    account.accepted += length
            seq += length
        self._connection.executemany("INSERT INTO bodies VALUES (?, ?, ?)", bodies)
        self._queues.insert(queued)
        accounts.received += count
        accounts.unrouted += count - routed
        accounts.routed += routed
        accounts.next_seq = seq
        return first

    @_guarded("delete delivered messages", in_transaction=True)
    def delivered(self, ranges: Mapping[str, Sequence[tuple[int, int]]]) -> int:
        """Forget messages that endpoints took, all at once; return how many of them were still waiting."""
        counts = self._release(ranges)
        for endpoint_id, count in counts.items():
            self._accounts.change(endpoint_id).delivered += count
        return sum(counts.values())

    @_guarded("drop messages", in_transaction=True)
    def dropped(self, endpoint_id: str, ranges: Sequence[tuple[int, int]], reason: DropReason) -> int:
        """Give up messages of an endpoint; return how many of them were still waiting."""
        counts = self._release({endpoint_id: ranges})
        for released in counts.values():
            self._count_dropped(endpoint_id, reason, released)
        return sum(counts.values())

    @_guarded("drop a queue", in_transaction=True)
    def drop_queue(self, endpoint_id: str, reason: DropReason, limit: int = 1000) -> int:
        """Give up the next `limit` messages of an endpoint; a smaller result says that none is left."""
        account = self._accounts.find(endpoint_id)
        if account is None:
            return 0
        queues = self._queues
        count = sum(queues.release(queues.next(account.first_key, account.last_key, limit)).values())
        self._count_dropped(endpoint_id, reason, count)
        return count

    @_guarded("drop the oldest messages", in_transaction=True)
    def drop_oldest(self, limit: int = 1000) -> dict[str, int]:
        """Give up the oldest messages of the lowest priority, of all endpoints; return how many at which."""
        queues = self._queues
        lowest = {
            endpoint_id: found
            for endpoint_id, account in self._accounts.all()
            if (found := queues.oldest_of_lowest(account.first_key, account.last_key)) is not None
        }
        if not lowest:
            return {}
        rank = max(rank_of(found) for found in lowest.values())
        first_seq = min(seq_of(found) for found in lowest.values() if rank_of(found) == rank)
        first, last = positions_of_rank(rank)
        oldest = [(first + first_seq, min(first + first_seq + limit - 1, last))]
        counts = self._release({name: oldest for name, found in lowest.items() if rank_of(found) == rank})
        for endpoint_id, count in counts.items():
            self._count_dropped(endpoint_id, "limit", count)
        return counts

    def _count_dropped(self, endpoint_id: str, reason: DropReason, count: int) -> None:
        if count:
            self._accounts.change(endpoint_id).drop(reason, count)

    @_guarded("delete expired messages", in_transaction=True)
    def expire(self, now_s: float, limit: int = 1000) -> dict[str, int]:
        """Delete at most `limit` messages past their time to live; return how many at which endpoint."""
        released = self._queues.release(self._queues.due(now_s, limit))
        names = self._accounts.names() if released else {}
        counts = {names[number]: count for number, count in released.items()}
        for endpoint_id, count in counts.items():
            self._accounts.change(endpoint_id).expired += count
        return counts

    @_guarded("look at expired messages")
    def due_headers(self, now_s: float, limit: int = 1000) -> list[tuple[bytes, int]]:
        """Return of what `expire` would delete the headers, and how many messages have each."""
        counts: dict[bytes, int] = {}
        for key, count, first_seq in self._queues.due_rows(now_s, limit):
            first = key & POSITION_MASK
            for run in self._bodies.runs(first_seq, first, first + min(count, limit) - 1):
                for index, _ in run.entries:
                    counts[run.headers[index]] = counts.get(run.headers[index], 0) + 1
            limit -= count
            if limit <= 0:
                break
        return list(counts.items())

    def _release(self, ranges: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, int]:
        """Let go of positions of queues; return how many waited, for each queue in which some did."""
        names: dict[int, str] = {}
        keys: list[tuple[int, int]] = []
        for endpoint_id, its_ranges in ranges.items():
            for first, last in its_ranges:
                if first < 0 or last > MAX_POSITION:
                    raise ValueError(f"positions {first} to {last} are not in 0 to {MAX_POSITION}")
            account = self._accounts.find(endpoint_id)
            if account is not None:
                names[account.number] = endpoint_id
                base = account.first_key
                keys += [(base + first, base + last) for first, last in its_ranges]
        return {names[number]: count for number, count in self._queues.release(keys).items()}

    @_guarded("read messages")
    def read(
        self,
        endpoint_id: str,
        after_position: int,
        max_count: int,
        max_bytes: int,
        now_s: float,
        last_position: int = MAX_POSITION,
    ) -> list[Run]:
        """Return the next messages behind `after_position` (-1: from the start) in order of delivery."""
        account = self._accounts.find(endpoint_id)
        if account is None:
            return []
        base = account.first_key
        first_key = base + max(after_position, -1) + 1
        found: list[Run] = []
        for key, count, first_seq, _ in self._queues.live(first_key, base + last_position, now_s):
            first = max(key, first_key)
            last = min(key + count, first + max_count, base + last_position + 1) - 1
            for run in self._bodies.runs(first_seq, first - base, last - base):
                fits = run.fitting(max_bytes)
                if fits is None and not found:
                    fits = run.cut(run.first_position, run.first_position)
                if fits is not None:
                    found.append(fits)
                    max_bytes -= fits.size_bytes
                if fits is not run:
                    return found
            max_count -= last - first + 1
            if max_count <= 0:
                break
        return found

    @_guarded("count messages")
    def pending(self, endpoint_id: str) -> int:
        """Return how many messages wait for the endpoint."""
        account = self._accounts.find(endpoint_id)
        return 0 if account is None else account.pending(self._connection)

    @_guarded("look for messages")
    def waiting(self, endpoint_ids: Sequence[str], now_s: float) -> list[str]:
        """Return those of these queues in which a message waits that has not expired, in the same order."""
        found = []
        for endpoint_id in endpoint_ids:
            account = self._accounts.find(endpoint_id)
            if account is not None and self._queues.has_live(account.first_key, account.last_key, now_s):
                found.append(endpoint_id)
        return found

    @_guarded("list endpoints")
    def endpoint_ids(self) -> tuple[str, ...]:
        """Return the endpoints that messages were ever stored for."""
        return tuple(self._accounts.names().values())

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
        assert self._space is not None
        self._space.recover()
        # Only a script runs this pragma to its end; executed as a statement it frees a single page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({TIDY_PAGES})")
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        (free_pages,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
        return int(free_pages * page_bytes)


def _size_bytes(segment: Segment) -> int:
    """Return what a segment takes on disk, roughly; nothing when it goes nowhere."""
    if not segment.matches:
        return 0
    _, headers, entries = segment
    return sum(map(len, headers)) + bodies_bytes(entries) + ROW_BYTES_EACH * len(entries)
