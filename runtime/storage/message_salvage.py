"""Replaces a damaged message database by a sound one with everything that can still be read of it.

Runs before the hub's actors do, while connections wait in the kernel: nothing is stored or delivered until it
is done, so the order of no queue changes. The damaged files are kept in a folder beside the database:

    hub.db-damaged             says that hub.db is damaged, and why
    hub.db-salvage             being made
    hub.db-salvaged            made; takes the place of hub.db
    hub.db-quarantine-<time>/  the damaged files

Each step can be repeated, so a crash in the middle only costs the time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgpack
from msgspec import Struct
from msgspec.structs import asdict

from actors.store.stored import MAX_POSITION, MAX_SEQ, Epoch
from messaging.errors import EnvironmentFault, StoreDamaged
from runtime.storage import message_schema
from runtime.storage.atomic_file import make_private_folder, sync_folder
from runtime.storage.message_bodies import is_trusted
from runtime.storage.message_db import MessageDb
from runtime.storage.message_ledger import EPOCH, Account
from runtime.storage.message_queues import POSITION_BITS
from runtime.storage.readable_rows import readable_rows

log = logging.getLogger(__name__)

TRANSACTION_ROWS: Final = 20_000
# When nothing tells how far sequence numbers had got: none of this range was given since the last count.
UNKNOWN_SEQS: Final = 1_000_000


def make_sound(path: Path, now_s: float) -> Epoch | None:
    """Salvage the database at `path` if it is damaged; return what became of it, None when it is sound.

    Raises:
        StoreError: It cannot be opened for another reason than damage.
        EnvironmentFault: The salvage itself failed; it is begun anew the next time.
    """
    marker = message_schema.marker_of(path)
    if not marker.exists() and not message_schema.salvaged_of(path).exists():
        try:
            MessageDb.open(path).close()
            return None
        except StoreDamaged as exc:
            finding = str(exc)
    else:
        finding = marker.read_text(errors="replace") if marker.exists() else "found at an earlier start"
    log.error("%s", finding)
    try:
        epoch = _salvage(path, finding, now_s)
    except (OSError, sqlite3.Error) as exc:
        raise EnvironmentFault(
            f"message database {path}: damaged, and what can be read cannot be saved: {exc}; "
            f"it needs about as much space as {path.name} has"
        ) from exc
    log.error(
        "message database %s: was damaged and is replaced; of what waited %d salvaged, %s lost; "
        "the damaged files are in %s",
        path,
        epoch.salvaged,
        "an unknown number" if epoch.lost is None else epoch.lost,
        epoch.quarantine,
    )
    return epoch


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}-{what}")


def _salvage(path: Path, finding: str, now_s: float) -> Epoch:
    made = message_schema.salvaged_of(path)
    if not made.exists():
        work = _beside(path, "salvage")
        for old in (work, _beside(work, "wal"), _beside(work, "shm"), _beside(work, "reserve")):
            old.unlink(missing_ok=True)
        stamp = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        quarantine = _beside(path, f"quarantine-{stamp}")
        MessageDb.open(work).close()
        _Salvage(path, work, quarantine, finding).run()
        _beside(work, "reserve").unlink(missing_ok=True)
        os.rename(work, made)
        sync_folder(path.parent)
    connection = sqlite3.connect(f"{made.absolute().as_uri()}?immutable=1", uri=True)
    row = connection.execute("SELECT value FROM ledger WHERE key = ?", (EPOCH,)).fetchone()
    connection.close()
    epoch = Epoch(**msgpack.unpackb(row[0]))
    _exchange(path, made, Path(epoch.quarantine))
    return epoch


def _exchange(path: Path, made: Path, quarantine: Path) -> None:
    """Put the damaged files away and the new one in their place."""
    make_private_folder(quarantine)
    # The database goes first: its log, were it left alone with it, would be taken for complete; and before
    # the new one comes, the log of the old one has to be gone.
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        damaged = path.with_name(name)
        if damaged.exists():
            os.rename(damaged, quarantine / name)
    sync_folder(path.parent)
    message_schema.marker_of(path).unlink(missing_ok=True)
    sync_folder(path.parent)
    os.rename(made, path)
    sync_folder(path.parent)


class _OldLedger(Struct):
    """What the damaged database still says of itself."""

    numbers: dict[str, int]  # endpoint id → number
    rows: dict[str, dict[str, Any]]


class _Salvage:
    """Copies what can be read from one file into another."""

    def __init__(self, path: Path, work: Path, quarantine: Path, finding: str) -> None:
        self._path = path
        self._work = work
        self._quarantine = quarantine
        self._finding = finding

    def run(self) -> None:
        source = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        target = sqlite3.connect(self._work, isolation_level=None)
        try:
            target.execute("PRAGMA synchronous=FULL")
            target.execute("PRAGMA temp_store=MEMORY")
            target.execute("CREATE TEMP TABLE found (first_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
            self._copy(source, target)
        finally:
            source.close()
            target.close()

    def _copy(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        old = _OldLedger(
            {name: number for name, number in _packed_rows(source, "endpoints") if type(number) is int},
            {name: row for name, row in _packed_rows(source, "ledger") if type(row) is dict},
        )
        _write(target, "sessions", dict(_packed_rows(source, "sessions")))
        _insert(target, "INSERT OR IGNORE INTO bodies VALUES (?, ?, ?)", self._bodies(source, target))
        _insert(
            target,
            "INSERT OR IGNORE INTO queue VALUES (?, ?, ?, ?)",
            _queue_rows(source, set(old.numbers.values())),
        )
        target.execute("BEGIN IMMEDIATE")
        target.execute(
            "DELETE FROM queue WHERE NOT EXISTS (SELECT 1 FROM found WHERE found.first_seq = queue.first_seq"
            f" AND (queue.key & {MAX_SEQ}) >= found.first_seq"
            f" AND (queue.key & {MAX_SEQ}) + queue.count <= found.first_seq + found.count)"
        )
        target.execute("INSERT INTO held SELECT first_seq, sum(count) FROM queue GROUP BY first_seq")
        target.execute("DELETE FROM bodies WHERE first_seq NOT IN (SELECT first_seq FROM held)")
        self._begin_epoch(target, old)
        target.execute("COMMIT")
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _bodies(
        self, source: sqlite3.Connection, target: sqlite3.Connection
    ) -> Iterator[tuple[int, bytes, int | None]]:
        """Read the rows of bodies that are what was stored, and note how many messages each has."""
        left_out: list[int] = []
        for first_seq, data, stored in readable_rows(source, "bodies", _body_columns(source)):
            if not is_trusted(first_seq, data, stored):
                left_out.append(first_seq)
                continue
            try:
                count = sum(
                    len([headers[index] for index, body in entries if type(body) is bytes])
                    for headers, entries in msgpack.unpackb(data, use_list=False)
                )
            except (ValueError, TypeError, IndexError):
                continue
            if 0 < first_seq <= MAX_SEQ - count:
                target.execute("INSERT OR IGNORE INTO found VALUES (?, ?)", (first_seq, count))
                yield first_seq, data, stored
        if left_out:
            log.error(
                "message database %s: left out because their checksum differs: %d of its rows of messages, "
                "the first one from message %d on",
                self._path,
                len(left_out),
                left_out[0],
            )

    def _begin_epoch(self, target: sqlite3.Connection, old: _OldLedger) -> None:
        waiting = dict(
            target.execute(f"SELECT key >> {POSITION_BITS}, sum(count) FROM queue GROUP BY 1").fetchall()
        )
        salvaged, lost = sum(waiting.values()), _lost(old, waiting)
        last = old.rows.get(EPOCH, {}).get("number", 1)
        epoch = Epoch(int(last) + 1, self._finding, salvaged, lost, str(self._quarantine))
        messages = _distinct_messages(target)
        rows: dict[str, Any] = {
            EPOCH: asdict(epoch),
            "total": {
                "next_seq": _next_seq(target, old),
                "received": messages,
                "unrouted": 0,
                "routed": messages,
            },
        }
        for number in old.numbers.values():
            rows[str(number)] = {"number": number, "accepted": waiting.get(number, 0)}
        _write(target, "endpoints", old.numbers)
        _write(target, "ledger", rows)


def _body_columns(source: sqlite3.Connection) -> str:
    """Return what to read of a row of bodies, which in a file of an earlier release has no checksum."""
    try:
        columns = {row[1] for row in source.execute("PRAGMA table_info(bodies)")}
    except sqlite3.Error:
        columns = set()
    return "data, checksum" if "checksum" in columns else "data, NULL"


def _packed_rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[str, Any]]:
    """Read a table of text keys and msgpack values."""
    for _, key, value in readable_rows(connection, table, "key, value"):
        try:
            unpacked = msgpack.unpackb(value)
        except (ValueError, TypeError):
            continue
        if isinstance(key, str):
            yield key, unpacked


def _queue_rows(
    connection: sqlite3.Connection, numbers: set[int]
) -> Iterator[tuple[int, int, int, float | None]]:
    """Read the rows of the queue that make sense in themselves."""
    for key, count, first_seq, expires_at in readable_rows(
        connection, "queue", "count, first_seq, expires_at"
    ):
        known = key >> POSITION_BITS in numbers and key & ((1 << POSITION_BITS) - 1) <= MAX_POSITION
        if known and type(count) is int and count > 0 and type(first_seq) is int:
            yield key, count, first_seq, expires_at if isinstance(expires_at, float) else None


def _insert(target: sqlite3.Connection, sql: str, rows: Iterator[tuple[Any, ...]]) -> None:
    target.execute("BEGIN IMMEDIATE")
    for number, row in enumerate(rows, 1):
        target.execute(sql, row)
        if number % TRANSACTION_ROWS == 0:
            target.execute("COMMIT")
            target.execute("BEGIN IMMEDIATE")
    target.execute("COMMIT")


def _write(target: sqlite3.Connection, table: str, rows: dict[str, Any]) -> None:
    packed = [(key, msgpack.packb(value)) for key, value in rows.items()]
    target.executemany(f"REPLACE INTO {table} (key, value) VALUES (?, ?)", packed)


def _lost(old: _OldLedger, waiting: dict[int, int]) -> int | None:
    """Return how many waiting (message, endpoint) pairs did not make it; None: that cannot be known."""
    lost = 0
    if "total" not in old.rows or not old.numbers:
        return None
    for number in old.numbers.values():
        row = old.rows.get(str(number))
        if row is None:
            return None
        try:
            account = Account(**row)
            expected = account.accepted - account.delivered - account.expired - account.dropped
        except TypeError:
            return None
        lost += max(0, expected - waiting.get(number, 0))
    return lost


def _next_seq(target: sqlite3.Connection, old: _OldLedger) -> int:
    """Return a sequence number that was never given."""
    (last,) = target.execute("SELECT ifnull(max(first_seq + count), 1) FROM found").fetchone()
    told = old.rows.get("total", {}).get("next_seq")
    return max(int(last), told) if type(told) is int else int(last) + UNKNOWN_SEQS


def _distinct_messages(target: sqlite3.Connection) -> int:
    """Count the messages that wait for somebody, each once."""
    total = 0
    rows = target.execute(f"SELECT first_seq, key & {MAX_SEQ}, count FROM queue ORDER BY 1, 2")
    for _, parts in groupby(rows, lambda row: row[0]):
        end = 0
        for _, seq, count in parts:
            total += max(0, seq + count - max(end, seq))
            end = max(end, seq + count)
    return total
