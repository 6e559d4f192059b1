"""What the broker has on disk: one SQLite file, written in one go by the actor that owns it.

sessions   number -> name, since when its client is away
bodies     seq -> one message, however many sessions hold it
queue      session, seq -> packet id, flags, whether PUBREC has come; in the order of seq
incoming   session, packet id: a QoS 2 PUBLISH that waits for PUBREL
retained   topic -> message
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from messaging.broker.journal import Changes, Kept
from messaging.errors import StoreDamaged, StoreError
from runtime.storage import sqlite_file

log = logging.getLogger(__name__)

_WHAT: Final = "broker database"
_MIGRATIONS: Final = (
    "CREATE TABLE sessions (number INTEGER PRIMARY KEY, name TEXT NOT NULL, left_s REAL);"
    "CREATE TABLE bodies (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);"
    "CREATE TABLE queue (session INTEGER, seq INTEGER, packet_id INTEGER NOT NULL, flags INTEGER NOT NULL, "
    "received INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (session, seq)) WITHOUT ROWID;"
    "CREATE TABLE incoming (session INTEGER, packet_id INTEGER, PRIMARY KEY (session, packet_id)) "
    "WITHOUT ROWID;"
    "CREATE TABLE retained (topic TEXT PRIMARY KEY, record BLOB NOT NULL)",
)
_TIDY_PAGES: Final = 256  # given back in one slice


class BrokerDb:
    """Implements `actors.ports.BrokerStore`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Take over a connection to a prepared file."""
        self._connection = connection
        self._path = path

    @classmethod
    def open(cls, path: Path) -> BrokerDb:
        """Open the file, made if there is none; one that is damaged is put aside.

        Raises:
            StoreError: it is of a newer release, or cannot be opened.
        """
        try:
            return cls._open(path)
        except StoreDamaged as exc:
            aside = sqlite_file.put_aside(path)
            log.error(
                "%s; it was put aside as %s: retained messages and what waited for clients of the broker are "
                "gone, their subscriptions are not",
                exc,
                aside,
            )
            return cls._open(path)

    @classmethod
    def _open(cls, path: Path) -> BrokerDb:
        with sqlite_file.opened(path, _WHAT, _MIGRATIONS) as connection:
            return cls(connection, path)

    def load(self) -> Kept:
        """Return all of it."""
        run = self._connection.execute
        try:
            return Kept(
                run("SELECT number, name, left_s FROM sessions").fetchall(),
                dict(run("SELECT seq, record FROM bodies").fetchall()),
                [
                    (session, seq, packet_id, flags, bool(received))
                    for session, seq, packet_id, flags, received in run(
                        "SELECT session, seq, packet_id, flags, received FROM queue ORDER BY session, seq"
                    ).fetchall()
                ],
                run("SELECT session, packet_id FROM incoming").fetchall(),
                dict(run("SELECT topic, record FROM retained").fetchall()),
            )
        except sqlite3.Error as exc:
            raise self._translated(exc, "read it") from exc

    def write(self, changes: Changes) -> None:
        """Write them; on return all of it is on disk, else nothing."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._write(changes)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise self._translated(exc, "store what clients are owed") from exc

    def _write(self, changes: Changes) -> None:
        many = self._connection.executemany
        there = [(number, *kept) for number, kept in changes.sessions.items() if kept is not None]
        gone = [(number,) for number, kept in changes.sessions.items() if kept is None]
        many("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", there)
        many("INSERT INTO bodies VALUES (?, ?)", changes.bodies)
        many("INSERT INTO queue (session, seq, packet_id, flags) VALUES (?, ?, ?, ?)", changes.queued)
        many("UPDATE queue SET packet_id = ? WHERE session = ? AND seq = ?", changes.renamed)
        many("UPDATE queue SET received = 1 WHERE session = ? AND seq = ?", changes.received)
        many("DELETE FROM queue WHERE session = ? AND seq = ?", changes.done)
        many("DELETE FROM bodies WHERE seq = ?", [(seq,) for seq in changes.gone_bodies])
        held = [key for key, is_held in changes.incoming.items() if is_held]
        free = [key for key, is_held in changes.incoming.items() if not is_held]
        many("INSERT OR IGNORE INTO incoming VALUES (?, ?)", held)
        many("DELETE FROM incoming WHERE session = ? AND packet_id = ?", free)
        kept = [(topic, record) for topic, record in changes.retained.items() if record is not None]
        removed = [(topic,) for topic, record in changes.retained.items() if record is None]
        many("INSERT OR REPLACE INTO retained VALUES (?, ?)", kept)
        many("DELETE FROM retained WHERE topic = ?", removed)
        for table in ("queue", "incoming"):
            many(f"DELETE FROM {table} WHERE session = ?", gone)
        many("DELETE FROM sessions WHERE number = ?", gone)

    def tidy(self) -> None:
        """Give free space back to the file system, a slice."""
        try:
            self._connection.executescript(f"PRAGMA incremental_vacuum({_TIDY_PAGES})")
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc, "give space back") from exc

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        self._connection.close()

    def _translated(self, exc: sqlite3.Error, doing: str) -> StoreError:
        return sqlite_file.translated(exc, self._path, _WHAT, doing)
