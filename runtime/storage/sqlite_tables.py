"""Dict-like tables that share one SQLite connection, and so its transactions.

A plain SqliteDict (2.1) opens a connection and a thread of its own per table, sets `synchronous=OFF`, cannot
roll back, reports a failed statement one statement late, and waits for ever in `commit()` once its thread has
died of a full disk. Its one seam is `_new_conn()`: the tables here return a connection that their owner
opened, in its own thread and with its own settings. The owner begins, commits, rolls back and closes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
from sqlitedict import SqliteDict


class BorrowedConnection:
    """What a SqliteDict calls on its connection, done at once on the connection of the owner."""

    autocommit = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> None:
        self._connection.execute(sql, tuple(parameters))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def select(self, sql: str, parameters: Iterable[Any] = ()) -> Iterator[Any]:
        # All rows at once: a cursor that stays open keeps the write-ahead log from being reused.
        return iter(self._connection.execute(sql, tuple(parameters)).fetchall())

    def select_one(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        rows = self._connection.execute(sql, tuple(parameters)).fetchall()
        return rows[0] if rows else None

    def commit(self, blocking: bool = True) -> None:
        """Do nothing: SqliteDict commits where it likes, in its constructor for one; the owner decides."""

    def close(self, force: bool = False) -> None:
        """Do nothing: SqliteDict closes when it is collected as garbage; the connection is not its own."""


class SharedTable(SqliteDict):  # type: ignore[misc]  # sqlitedict has no types
    """One table of text keys and msgpack values, on a connection that others use too."""

    def __init__(self, connection: sqlite3.Connection, path: Path, table: str) -> None:
        self._borrowed = BorrowedConnection(connection)
        super().__init__(str(path), tablename=table, encode=msgpack.packb, decode=msgpack.unpackb)

    def _new_conn(self) -> BorrowedConnection:
        return self._borrowed
