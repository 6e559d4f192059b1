"""A durable SQLite file: its versions, its settings, and what its errors mean to a user."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from messaging.errors import StoreDamaged, StoreError, StoreFull

WAL_PAGES = 1000  # the write-ahead log is copied into the database whenever it holds this many pages
WAL_KEPT_BYTES = 8 << 20  # and is cut to this size after a transaction made it larger
CHECKED_WHOLE_BYTES = 16 << 20  # a file up to this size is checked page by page when opened, at about 1 GB/s


def connect(path: Path, what: str) -> sqlite3.Connection:
    """Open the file at `path`, made readable for its owner only if there is none.

    Raises:
        StoreError: It cannot be opened.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return sqlite3.connect(path, isolation_level=None)
    except (OSError, sqlite3.Error) as exc:
        raise StoreError(f"{what} {path}: cannot be opened: {exc}") from exc


def prepare(connection: sqlite3.Connection, path: Path, what: str, migrations: Sequence[str]) -> None:
    """Check the file, apply our settings and migrate the schema. On return a transaction is open.

    Args:
        what: What the file is to a user: `message database`.
        migrations: One script per schema version, in order: the first makes an empty file version 1.

    Raises:
        StoreError: It is damaged, is some other database, is of a newer release, or its file system is unfit.
        sqlite3.Error: What else SQLite has against it; see `translated`.
    """
    run = connection.execute
    version = version_of(connection, path, what, len(migrations))
    if version == 0:
        run("PRAGMA auto_vacuum=INCREMENTAL")  # has no effect after the first table, nor after WAL
    (mode,) = run("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise StoreError(
            f"{what} {path}: this file system does not support a write-ahead log "
            f"(journal mode {mode!r}); choose a home on a local disk"
        )
    run("PRAGMA synchronous=FULL")
    run(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    run(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
    # Some builds of SQLite overwrite freed pages with zeros by default: each body would be written twice.
    run("PRAGMA secure_delete=FAST")
    run("PRAGMA temp_store=MEMORY")  # deleting must not need a temporary file on a full disk
    if path.stat().st_size <= CHECKED_WHOLE_BYTES:
        (verdict,) = run("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(path, what, verdict)
    run("BEGIN IMMEDIATE")
    for script in migrations[version:]:
        for statement in script.split(";"):
            run(statement)
    if version < len(migrations):  # else opening writes nothing, which works with a full disk too
        run(f"PRAGMA user_version={len(migrations)}")


@contextmanager
def opened(path: Path, what: str, migrations: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """Open, check and migrate a file for the block, which takes it over unless it fails; see `prepare`.

    Raises:
        StoreError: It cannot be opened, or what the block did with it failed.
    """
    connection = connect(path, what)
    try:
        prepare(connection, path, what, migrations)
        connection.execute("COMMIT")
        yield connection
    except sqlite3.Error as exc:
        connection.close()
        raise translated(exc, path, what, "open it") from exc
    except StoreError:
        connection.close()
        raise


def version_of(connection: sqlite3.Connection, path: Path, what: str, newest: int) -> int:
    """Return the schema version of the file, 0 for an empty one.

    Raises:
        StoreError: It is not ours, or of a newer release.
    """
    version: int
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (version == 0) != (tables == 0):
        raise StoreError(f"{what} {path}: this is some other SQLite database; move it away to start empty")
    if version > newest:
        raise StoreError(
            f"{what} {path}: its schema version {version} is newer than {newest}, "
            "which this release knows; install the newer release again, or move the file away to start empty"
        )
    return version


def damaged(path: Path, what: str, finding: str) -> StoreDamaged:
    """Return the error that names a damaged file and the way out."""
    return StoreDamaged(
        f"{what} {path}: damaged ({finding}); move it away together with {path.name}-wal and "
        f"{path.name}-shm to start empty; what is in it stays behind in it",
        finding,
    )


def translated(exc: sqlite3.Error, path: Path, what: str, doing: str) -> StoreError:
    """Return what an error of SQLite means for a user who wanted `doing`."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the upper bytes only tell more of the same
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"{what} {path}: no space left to {doing}; free some on its disk")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, what, str(exc))
    return StoreError(f"{what} {path}: cannot {doing}: {exc}")


def put_aside(path: Path) -> Path:
    """Move a database away, under the first name that is free; the log first, which means nothing alone."""
    names = (path.with_name(f"{path.name}-damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    for ending in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    return aside


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block did, with one sync to disk; undo all of it when anything in it failed."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise
