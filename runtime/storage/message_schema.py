"""The schema of the message database, and its errors. What it shares with other files: sqlite_file.py."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from messaging.errors import EdgeError, StoreDamaged, StoreError
from runtime.storage import sqlite_file
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)

WHAT = "message database"

# One script per schema version, in order: the first makes an empty file version 1. A release that changes the
# schema appends a script; what is here stays as it is, because files of every version are out there.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE bodies (first_seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE held (first_seq INTEGER PRIMARY KEY, left INTEGER NOT NULL);
    CREATE TABLE queue (
        key INTEGER PRIMARY KEY, count INTEGER NOT NULL, first_seq INTEGER NOT NULL, expires_at REAL
    );
    CREATE INDEX queue_by_expiry ON queue (expires_at) WHERE expires_at IS NOT NULL;
    """,
    # The same tables. But a release that knows one queue to the cloud would give up those of the senders.
    "",
    # NULL in the rows of earlier releases: nobody can tell any more whether they are what was stored.
    "ALTER TABLE bodies ADD COLUMN checksum INTEGER",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; see `sqlite_file.connect`."""
    return sqlite_file.connect(path, WHAT)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check, set up and migrate the file; see `sqlite_file.prepare`."""
    try:
        sqlite_file.prepare(connection, path, WHAT, MIGRATIONS)
    except StoreDamaged as exc:
        raise damaged(path, exc.finding) from exc


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of the file, 0 for an empty one; see `sqlite_file.version_of`."""
    return sqlite_file.version_of(connection, path, WHAT, len(MIGRATIONS))


def marker_of(path: Path) -> Path:
    """Return the file that says that the database was found damaged; the next start salvages it."""
    return path.with_name(path.name + "-damaged")


def salvaged_of(path: Path) -> Path:
    """Return the file in which a salvage has put what could be read; it takes the place of the database."""
    return path.with_name(path.name + "-salvaged")


def condemn(path: Path, finding: str) -> None:
    """Write down that the file is damaged, so that the next start does not need to find out."""
    try:
        write_private_file(marker_of(path), finding.encode())
    except (OSError, EdgeError) as exc:  # the damage is told all the same, and found again
        log.error("message database %s: its damage cannot be written down: %s", path, exc)


def damaged(path: Path, finding: str) -> StoreDamaged:
    """Return the error that names a damaged file; the way out is taken at the next start."""
    return StoreDamaged(
        f"{WHAT} {path}: damaged ({finding}); what can be read of it is salvaged when the hub starts again",
        finding,
    )


def translated(exc: sqlite3.Error, path: Path, doing: str) -> StoreError:
    """Return what an error of SQLite means for a user who wanted `doing`."""
    if isinstance(exc, sqlite3.IntegrityError):
        # Nothing that anybody sends can violate a constraint: the tables do not fit each other any more.
        return damaged(path, str(exc))
    error = sqlite_file.translated(exc, path, WHAT, doing)
    return damaged(path, error.finding) if isinstance(error, StoreDamaged) else error
