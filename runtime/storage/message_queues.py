"""The queues in the message database: what waits for whom, and how much holds each row of bodies.

A key is (endpoint number, priority, seq) in one integer. A row of `queue` stands for the keys of consecutive
messages that lie in one row of `bodies`; when some of them leave, it is replaced by what is left of it. A row
of `held` counts how many keys hold a row of `bodies`; with the last of them both go.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from actors.store.stored import MAX_POSITION, positions_of_rank, rank_of

LIVE_ROWS = 32  # read at once
POSITION_BITS = MAX_POSITION.bit_length()  # of a key; the number of the endpoint is above them

QueueRow = tuple[int, int, int, float | None]
"""First key, how many, first seq of their row of bodies, when they expire (seconds since 1970) or None."""

# Rows that have a part in a range of keys, and perhaps one that ends before it.
_REACHING = (
    "SELECT key, count, first_seq, expires_at FROM queue"
    " WHERE key BETWEEN ifnull((SELECT max(key) FROM queue WHERE key <= ?1), ?1) AND ?2"
)
_LIVE = f"{_REACHING} AND (expires_at IS NULL OR expires_at > ?3) ORDER BY key LIMIT ?4"
# Of those of which the last key has gone; `held` tells which these are.
_DELETE_BODIES = (
    "DELETE FROM bodies WHERE first_seq = ?1 AND NOT EXISTS (SELECT 1 FROM held WHERE first_seq = ?1)"
)


class Queues:
    """All queues of one database. Whatever changes them happens inside a transaction of their owner.

    Every batch is a few statements, however many messages or rows it has.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def insert(self, rows: Sequence[QueueRow]) -> None:
        """Add messages; their rows of bodies are new."""
        run = self._connection.executemany
        run("INSERT INTO queue VALUES (?, ?, ?, ?)", rows)
        run("INSERT INTO held VALUES (?, ?)", _by_body(rows).items())

    def release(self, ranges: Iterable[tuple[int, int]]) -> dict[int, int]:
        """Delete ranges of keys, and the rows of bodies that nothing holds any more.

        Args:
            ranges: First and last key, both included. They may overlap and span what is not there.

        Returns:
            How many keys were there, for the number of each endpoint that had one.
        """
        released: dict[int, int] = {}
        touched: list[QueueRow] = []
        parts: list[QueueRow] = []
        for first, last in apart(ranges):
            rows = self._reaching(first, last)
            if touched and rows and rows[0] == touched[-1]:  # the range before ended in the same row
                self.replace(touched, parts)
                touched, parts = [], []
                rows = self._reaching(first, last)
            for row in rows:
                kept = _without(row, first, last)
                if kept is not None:
                    touched.append(row)
                    parts += kept
                    number, left = row[0] >> POSITION_BITS, sum(part[1] for part in kept)
                    released[number] = released.get(number, 0) + row[1] - left
        if touched:
            self.replace(touched, parts)
        return released

    def _reaching(self, first_key: int, last_key: int) -> list[QueueRow]:
        return self._connection.execute(f"{_REACHING} ORDER BY key", (first_key, last_key)).fetchall()

    def replace(self, rows: Sequence[QueueRow], parts: Sequence[QueueRow]) -> int:
        """Put the parts in the place of the rows; return how many keys are fewer."""
        fewer = _by_body(rows)
        for _, count, first_seq, _ in parts:
            fewer[first_seq] -= count
        run = self._connection.executemany
        run("DELETE FROM queue WHERE key = ?", [(key,) for key, _, _, _ in rows])
        if parts:
            run("INSERT INTO queue VALUES (?, ?, ?, ?)", parts)
        counts = [(count, first_seq) for first_seq, count in fewer.items()]
        gone = run("DELETE FROM held WHERE left <= ? AND first_seq = ?", counts).rowcount
        if gone < len(counts):
            run("UPDATE held SET left = left - ? WHERE first_seq = ?", counts)
        if gone:
            run(_DELETE_BODIES, [(first_seq,) for first_seq in fewer])
        return sum(fewer.values())

    def live(self, first_key: int, last_key: int, now_s: float) -> Iterator[QueueRow]:
        """Return the rows in a range that have not expired, in order; the first may begin before it."""
        while True:
            rows = self._connection.execute(_LIVE, (first_key, last_key, now_s, LIVE_ROWS)).fetchall()
            yield from (row for row in rows if row[0] + row[1] > first_key)
            if len(rows) < LIVE_ROWS:
                return
            first_key = rows[-1][0] + rows[-1][1]

    def has_live(self, first_key: int, last_key: int, now_s: float) -> bool:
        """Say whether some row that begins in a range has not expired."""
        (found,) = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM queue WHERE key BETWEEN ? AND ?"
            " AND (expires_at IS NULL OR expires_at > ?))",
            (first_key, last_key, now_s),
        ).fetchone()
        return bool(found)

    def next(self, first_key: int, last_key: int, limit: int) -> list[tuple[int, int]]:
        """Return the first `limit` keys in a range that rows begin in, as ranges."""
        rows = self._connection.execute(
            "SELECT key, count FROM queue WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?",
            (first_key, last_key, limit),
        ).fetchall()
        return _first_of(rows, limit)

    def oldest_of_lowest(self, first_key: int, last_key: int) -> int | None:
        """Return the position of the oldest message of the lowest priority in a queue; None: it is empty."""
        run = self._connection.execute
        (newest,) = run(
            "SELECT max(key) FROM queue WHERE key BETWEEN ? AND ?", (first_key, last_key)
        ).fetchone()
        if newest is None:
            return None
        first, last = positions_of_rank(rank_of(newest - first_key))
        (oldest,) = run(
            "SELECT min(key) FROM queue WHERE key BETWEEN ? AND ?", (first_key + first, first_key + last)
        ).fetchone()
        position: int = oldest - first_key
        return position

    def due(self, now_s: float, limit: int) -> list[tuple[int, int]]:
        """Return `limit` keys whose time has come, those that expired first before others, as ranges."""
        return _first_of([row[:2] for row in self.due_rows(now_s, limit)], limit)

    def due_rows(self, now_s: float, limit: int) -> list[tuple[int, int, int]]:
        """Return rows whose time has come, `limit` at most: key, count, first seq of their bodies."""
        return self._connection.execute(
            "SELECT key, count, first_seq FROM queue WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
            (now_s, limit),
        ).fetchall()


def apart(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort ranges, and join those that overlap or follow each other, so that none says a key twice."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        elif first <= last:
            found.append((first, last))
    return found


def _first_of(rows: Iterable[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Return the first `limit` keys of some rows (key, count), as sorted ranges."""
    ranges = []
    for key, count in rows:
        count = min(count, limit)
        ranges.append((key, key + count - 1))
        limit -= count
    return apart(ranges)


def _without(row: QueueRow, first_key: int, last_key: int) -> list[QueueRow] | None:
    """Return what is left of a row without a range of keys; None when it has none of them."""
    key, count, first_seq, expires_at = row
    end = key + count
    if end <= first_key or key > last_key:
        return None
    left = ((key, first_key - key), (last_key + 1, end - last_key - 1))
    return [(start, length, first_seq, expires_at) for start, length in left if length > 0]


def _by_body(rows: Iterable[QueueRow]) -> dict[int, int]:
    """Return how many keys hold which row of bodies."""
    counts: dict[int, int] = {}
    for _, count, first_seq, _ in rows:
        counts[first_seq] = counts.get(first_seq, 0) + count
    return counts
