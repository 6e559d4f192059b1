"""Reads what can still be read of a damaged SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

SLICE_ROWS: Final = 500
LAST_ROWID: Final = (1 << 63) - 1


def readable_rows(connection: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Return rowid and columns of all rows that can be read, in order, around those that cannot."""
    sql = f"SELECT rowid, {columns} FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT ?"

    def rows_from(rowid: int, limit: int) -> list[tuple[Any, ...]] | None:
        try:
            rows = connection.execute(sql, (rowid, limit)).fetchall()
        except (sqlite3.Error, OverflowError):
            return None
        ids = [row[0] for row in rows]
        return rows if ids == sorted(set(ids)) and (not ids or ids[0] >= rowid) else None

    rowid = 0
    while rowid <= LAST_ROWID:
        rows = rows_from(rowid, SLICE_ROWS)
        if rows is None:  # up to the damage one by one
            rows = rows_from(rowid, 1)
            if rows is None:
                behind = _behind_damage(lambda at: rows_from(at, 1) is not None, rowid)
                if behind is None:
                    return
                rowid = behind
                continue
        if not rows:
            return
        yield from rows
        rowid = rows[-1][0] + 1


def _behind_damage(can_read: Callable[[int], bool], rowid: int) -> int | None:
    """Return the first rowid behind one that cannot be read from which on reading works again."""
    step = 1
    while not can_read(rowid + step):
        step *= 2
        if rowid + step > LAST_ROWID:
            return None
    bad, good = rowid + step // 2 if step > 1 else rowid, rowid + step
    while good - bad > 1:
        middle = (bad + good) // 2
        if can_read(middle):
            good = middle
        else:
            bad = middle
    return good
