"""Small documents by kind and key: configurations, enrollments and the like. For jobs of `CloudDb`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import msgpack

Document = dict[str, Any]


def get(connection: sqlite3.Connection, kind: str, key: str) -> Document | None:
    """Return a document, None when there is none."""
    row = connection.execute("SELECT data FROM documents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
    return None if row is None else msgpack.unpackb(row[0])


def all_of(connection: sqlite3.Connection, kind: str) -> dict[str, Document]:
    """Return all documents of a kind by key, in order of their keys."""
    rows = connection.execute(
        "SELECT key, data FROM documents WHERE kind = ? ORDER BY key", (kind,)
    ).fetchall()
    return {key: msgpack.unpackb(data) for key, data in rows}


def save(connection: sqlite3.Connection, kind: str, key: str, content: Mapping[str, Any]) -> None:
    """Keep a document in place of the one with its key."""
    row = (kind, key, msgpack.packb(dict(content)))
    connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", row)


def delete(connection: sqlite3.Connection, kind: str, key: str) -> bool:
    """Delete a document; False when there was none."""
    return connection.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key)).rowcount > 0
