"""Replaces a damaged database of bridges by a sound one with everything that can still be read of it.

    bridge.db-salvage      being made
    bridge.db-salvaged     made; takes the place of bridge.db
    bridge.db-damaged-<n>  the damaged one, kept

A crash in between costs the time alone.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from messaging.broker.bridges import Direction
from runtime.storage import sqlite_file
from runtime.storage.atomic_file import sync_folder
from runtime.storage.readable_rows import readable_rows

_DIRECTIONS: Final = tuple(Direction)


def salvage(path: Path, what: str, migrations: Sequence[str], shift: int) -> int:
    """Make the sound one; return how many messages are in it. `finish` puts it in its place.

    Args:
        path: The damaged database.
        what: What it is to a user.
        migrations: What makes an empty one.
        shift: How many bits of a message's key are its number in its queue.

    Raises:
        StoreError: it cannot be written.
    """
    work = path.with_name(f"{path.name}-salvage")
    for ending in ("", "-wal", "-shm"):
        Path(f"{work}{ending}").unlink(missing_ok=True)
    source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        with sqlite_file.opened(work, what, migrations) as target:
            with sqlite_file.transaction(target):
                queues = list(_queues(source))
                target.executemany("INSERT OR IGNORE INTO queues VALUES (?, ?, ?, ?, ?)", queues)
                target.executemany("INSERT OR IGNORE INTO held VALUES (?, ?)", _held(source))
                numbers = {number for (number,) in target.execute("SELECT number FROM queues")}
                messages = _messages(source, numbers, shift)
                target.executemany("INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?)", messages)
            (count,) = target.execute("SELECT count(*) FROM messages").fetchone()
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            target.close()  # now all of it is in one file
    finally:
        source.close()
    os.rename(work, _made(path))
    sync_folder(path.parent)
    return int(count)


def finish(path: Path) -> Path | None:
    """Put what was made in the place of the damaged one; return where that is now, None: nothing was made."""
    made = _made(path)
    if not made.exists():
        return None
    aside = sqlite_file.put_aside(path)
    sync_folder(path.parent)
    os.rename(made, path)
    sync_folder(path.parent)
    return aside


def _made(path: Path) -> Path:
    return path.with_name(f"{path.name}-salvaged")


def _queues(source: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    rows = readable_rows(source, "queues", "endpoint, direction, forwarded, dropped")
    for number, endpoint, direction, forwarded, dropped in rows:
        if isinstance(endpoint, str) and direction in _DIRECTIONS:
            counts = (count if isinstance(count, int) else 0 for count in (forwarded, dropped))
            yield number, endpoint, direction, *counts


def _held(source: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    for _, endpoint, filters in readable_rows(source, "held", "endpoint, filters"):
        try:
            makes_sense = isinstance(endpoint, str) and isinstance(msgpack.unpackb(filters), dict)
        except (ValueError, TypeError):
            continue
        if makes_sense:
            yield endpoint, filters


def _messages(
    source: sqlite3.Connection, numbers: set[int], shift: int
) -> Iterator[tuple[int, int, int, str, bytes]]:
    for key, qos, retain, topic, payload in readable_rows(source, "messages", "qos, retain, topic, payload"):
        is_sound = qos in (0, 1, 2) and isinstance(topic, str) and topic and isinstance(payload, bytes)
        if is_sound and key >> shift in numbers:
            yield key, qos, 1 if retain else 0, topic, payload
