"""The database of the stand-in: one SQLite file, one thread that owns it, one commit for all that waits.

A job is a function of the connection. Jobs that have gathered while the last commit was on its way to the
disk run in order in one transaction, each undone alone when it fails. Its caller hears of it only when that
transaction is on disk, so whatever anybody was told survives a power cut; also what a job has read is told
only then. Jobs may read and write what they like, but must not keep a cursor open.

    identities     devices (module_id '') and modules; parent is the scope of a device's parent
    twins          tags, desired and reported properties of an identity
    sessions       what a protocol head keeps of a client
    connections    when an identity was last seen
    c2d            messages that wait for devices, in order
    feedback       what became of messages whose senders asked
    telemetry      the ring of device messages; see telemetry.py
    documents      configurations, enrollments and the like, by kind and key
"""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from messaging.errors import EdgeError, StoreError
from runtime.storage import sqlite_file

log = logging.getLogger(__name__)

WHAT: Final = "cloud database"
# See sqlite_file.prepare: a change of the schema appends a script.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE identities (
        device_id TEXT NOT NULL, module_id TEXT NOT NULL, parent TEXT NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (device_id, module_id)
    ) WITHOUT ROWID;
    CREATE INDEX devices ON identities (device_id) WHERE module_id = '';
    CREATE INDEX children ON identities (parent) WHERE parent <> '';
    CREATE TABLE twins (
        device_id TEXT NOT NULL, module_id TEXT NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (device_id, module_id)
    );
    CREATE TABLE sessions (
        device_id TEXT NOT NULL, module_id TEXT NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (device_id, module_id)
    );
    CREATE TABLE connections (
        device_id TEXT NOT NULL, module_id TEXT NOT NULL, changed_s REAL NOT NULL, active_s REAL NOT NULL,
        PRIMARY KEY (device_id, module_id)
    ) WITHOUT ROWID;
    CREATE TABLE c2d (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, device_id TEXT NOT NULL, expires_s REAL NOT NULL,
        delivery_count INTEGER NOT NULL, data BLOB NOT NULL
    );
    CREATE INDEX c2d_by_device ON c2d (device_id, seq);
    CREATE INDEX c2d_by_expiry ON c2d (expires_s);
    CREATE TABLE feedback (seq INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, data BLOB NOT NULL);
    CREATE TABLE telemetry (
        first_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL, size INTEGER NOT NULL, at_s REAL NOT NULL,
        data BLOB NOT NULL
    );
    CREATE TABLE documents (
        kind TEXT NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, key)
    )
    """,
    "ALTER TABLE feedback ADD COLUMN delivery_count INTEGER NOT NULL DEFAULT 0",
)

_LARGEST_GROUP = 1000  # jobs of one transaction: the first in it waits for the last

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]


class Batch(Protocol):
    """What is called once for many items, see `CloudDb.gather`."""

    def __call__(self, connection: sqlite3.Connection, /, items: Sequence[Any]) -> None: ...

    def __hash__(self) -> int: ...


@dataclass(slots=True)
class _Waiting(Generic[T]):
    job: Job[T] | None
    future: asyncio.Future[T]
    then: Callable[[T], None] | None = None
    batch: Batch | None = None
    item: Any = None
    result: Any = None
    failure: BaseException | None = field(default=None, repr=False)


class CloudDb:
    """Runs jobs. Belongs to the loop it was opened in; the connection to a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Waiting[Any] | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self.undone = 0  # how often a batch was rolled back: what it remembers of the database is wrong
        self._thread = threading.Thread(target=self._work, name="cloud-db", daemon=True)

    @classmethod
    async def open(cls, path: Path) -> CloudDb:
        """Open the database at `path`, made if there is none, migrated if it is of an older release.

        Raises:
            StoreError: it cannot be opened, is damaged, is some other database, or is of a newer release.
        """
        db = cls(path)
        db._thread.start()
        await db._opened
        return db

    async def close(self) -> None:
        """Run what waits, then close the file."""
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
        await asyncio.shield(self._closed)

    def run(self, job: Job[T], then: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """Run a job and commit it; the future gets what it returned or raised.

        Args:
            job: Called in the thread of the database. What it wrote is undone when it raises.
            then: Called in the loop as soon as it is on disk, in the order of the jobs, also when nobody
                waits for the future any more. It must not raise.

        The future fails with StoreError when the commit did; nothing was kept then.
        """
        waiting = _Waiting(job, self._loop.create_future(), then)
        self._put(waiting)
        return waiting.future

    def gather(self, batch: Batch, item: object) -> asyncio.Future[None]:
        """Have `batch` called once for all items that one commit brings; the future as in `run`.

        Batches come after the other jobs of their transaction. Use one function object for what belongs
        together.
        """
        waiting: _Waiting[None] = _Waiting(None, self._loop.create_future(), batch=batch, item=item)
        self._put(waiting)
        return waiting.future

    def _put(self, waiting: _Waiting[Any]) -> None:
        if self._closing:
            waiting.future.set_exception(StoreError(f"{WHAT} {self.path}: is being closed"))
        else:
            self._jobs.put(waiting)

    # ---- the thread of the database

    def _work(self) -> None:
        try:
            connection = self._open_connection()
        except StoreError as exc:
            self._tell_loop(self._opened.set_exception, exc)
            return
        self._tell_loop(self._opened.set_result, None)
        try:
            while (group := self._next_group()) is not None:
                self._run_group(connection, group)
        finally:
            connection.close()
            self._tell_loop(self._closed.set_result, None)

    def _tell_loop(self, function: Callable[..., None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            log.debug("%s: its loop has ended", WHAT)  # nobody is left who could wait

    def _open_connection(self) -> sqlite3.Connection:
        with sqlite_file.opened(self.path, WHAT, MIGRATIONS) as connection:
            return connection

    def _next_group(self) -> Sequence[_Waiting[Any]] | None:
        first = self._jobs.get()
        if first is None:
            return None
        group = [first]
        while len(group) < _LARGEST_GROUP:
            try:
                another = self._jobs.get_nowait()
            except queue.Empty:
                break
            if another is None:
                self._jobs.put(None)  # the last there ever is: read again after this group
                break
            group.append(another)
        return group

    def _run_group(self, connection: sqlite3.Connection, group: Sequence[_Waiting[Any]]) -> None:
        batches: dict[Batch, list[_Waiting[Any]]] = {}
        try:
            connection.execute("BEGIN")
            for waiting in group:
                if waiting.batch is not None:
                    batches.setdefault(waiting.batch, []).append(waiting)
                elif waiting.job is not None:
                    self._run_one(connection, waiting.job, (waiting,))
            for batch, its_own in batches.items():
                items = [waiting.item for waiting in its_own]
                self._run_one(connection, functools.partial(batch, items=items), its_own)
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            failure = sqlite_file.translated(exc, self.path, WHAT, "keep a change")
            self.undone += 1
            for waiting in group:
                waiting.failure = waiting.failure or failure
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # then the next BEGIN fails, and it is tried again
                    connection.execute("ROLLBACK")
        self._tell_loop(_deliver, group)

    def _run_one(
        self, connection: sqlite3.Connection, job: Job[Any], waiting_for_it: Sequence[_Waiting[Any]]
    ) -> None:
        connection.execute("SAVEPOINT job")
        failure: BaseException | None = None
        try:
            result = job(connection)
            for waiting in waiting_for_it:
                waiting.result = result
        except sqlite3.Error as exc:
            if not connection.in_transaction:
                raise  # SQLite has undone all of the group by itself, as it may on a full disk
            failure = sqlite_file.translated(exc, self.path, WHAT, "keep a change")
        except Exception as exc:  # noqa: BLE001 - it is for the one who asked; this thread serves all others
            failure = exc
        if failure is not None:
            self.undone += waiting_for_it[0].batch is not None
            connection.execute("ROLLBACK TO job")
            for waiting in waiting_for_it:
                waiting.failure = failure
        connection.execute("RELEASE job")


def _deliver(group: Sequence[_Waiting[Any]]) -> None:
    for waiting in group:
        if waiting.failure is None and waiting.then is not None:
            waiting.then(waiting.result)
        if waiting.future.cancelled():
            continue
        if waiting.failure is None:
            waiting.future.set_result(waiting.result)
        else:
            if not isinstance(waiting.failure, EdgeError):
                log.error("%s: a job failed", WHAT, exc_info=waiting.failure)
            waiting.future.set_exception(waiting.failure)
