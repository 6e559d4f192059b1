"""The twins of the hub's clients on disk: one SQLite file, a row for each.

twins      identity id -> the record of actors/hub/twin_record.py
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from messaging.errors import StoreDamaged, StoreError
from runtime.storage import sqlite_file
from runtime.storage.sqlite_tables import SharedTable

log = logging.getLogger(__name__)

_WHAT: Final = "twin database"
_MIGRATIONS: Final = ("CREATE TABLE twins (key TEXT PRIMARY KEY, value BLOB)",)


class TwinDb:
    """Implements `actors.ports.TwinStore`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Take over a connection to a prepared file."""
        self._connection = connection
        self._path = path
        self._twins = SharedTable(connection, path, "twins")

    @classmethod
    def open(cls, path: Path) -> TwinDb:
        """Open the file, made if there is none; one that is damaged is put aside.

        Nothing is salvaged of it: desired properties come again from deployment or cloud, reported ones from
        the clients, as after their first start.

        Raises:
            StoreError: it is of a newer release, or cannot be opened.
        """
        try:
            return cls._open(path)
        except StoreDamaged as exc:
            aside = sqlite_file.put_aside(path)
            log.error("%s; it was put aside as %s, and the twins of all clients start empty", exc, aside)
            return cls._open(path)

    @classmethod
    def _open(cls, path: Path) -> TwinDb:
        with sqlite_file.opened(path, _WHAT, _MIGRATIONS) as connection:
            return cls(connection, path)

    def load(self, identity: str) -> bytes | None:
        """Return what was saved for an identity, None when nothing was."""
        try:
            found: bytes | None = self._twins.get(identity)
        except sqlite3.Error as exc:
            raise self._translated(exc, "read a twin") from exc
        return found

    def save(self, twins: Mapping[str, bytes]) -> None:
        """Replace twins; on return all of them are on disk, else none."""
        with self._transaction("store a twin"):
            for identity, record in twins.items():
                self._twins[identity] = record

    def remove(self, identity: str) -> None:
        """Forget the twin of an identity, if there is one; on return that is on disk."""
        with self._transaction("forget a twin"), suppress(KeyError):
            del self._twins[identity]

    def identities(self) -> list[str]:
        """Return all identities that have a twin."""
        try:
            return list(self._twins.keys())
        except sqlite3.Error as exc:
            raise self._translated(exc, "list the twins") from exc

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        self._connection.close()

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        try:
            with sqlite_file.transaction(self._connection):
                yield
        except sqlite3.Error as exc:
            raise self._translated(exc, doing) from exc

    def _translated(self, exc: sqlite3.Error, doing: str) -> StoreError:
        return sqlite_file.translated(exc, self._path, _WHAT, doing)
