"""How messages lie in the rows of `bodies`, and how they are read back.

A row is a msgpack array of pieces, a piece is [headers, [index of its header, body] per message]; the
messages of a row have consecutive sequence numbers and go to the same endpoints, so that a row is forgotten
as a whole as soon as each of them has it. A slow endpoint keeps no message that is not its own.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgpack

from actors.stored import MAX_SEQ, Match, Run, Segment, with_its_headers
from runtime import message_schema

ROW_MESSAGES = 512  # at most in one row …
ROW_BYTES = 256 * 1024  # … and at most this many bytes of headers and bodies, but one message in any case
ROWS_REMEMBERED = 8  # decoded rows, for readers that take a row in several bites

Piece = tuple[Sequence[bytes], Sequence[tuple[int, bytes]]]


def rows_of(segments: Iterable[Segment]) -> Iterator[tuple[tuple[Match, ...], list[Piece], int]]:
    """Put neighbours for the same endpoints into rows: (matches, pieces, number of messages)."""
    pieces: list[Piece] = []
    row_matches: tuple[Match, ...] = ()
    row_count = row_bytes = 0
    for segment in segments:
        for headers, entries, size_bytes in _pieces_of(segment):
            if pieces and (
                segment.matches != row_matches
                or row_count + len(entries) > ROW_MESSAGES
                or row_bytes + size_bytes > ROW_BYTES
            ):
                yield row_matches, pieces, row_count
                pieces, row_count, row_bytes = [], 0, 0
            row_matches = segment.matches
            pieces.append((headers, entries))
            row_count += len(entries)
            row_bytes += size_bytes
    if pieces:
        yield row_matches, pieces, row_count


def _pieces_of(segment: Segment) -> Iterator[tuple[Sequence[bytes], Sequence[tuple[int, bytes]], int]]:
    """Cut a segment into pieces that fit into a row, each with its bytes; mostly it is one."""
    _, headers, entries = segment
    size_bytes = sum(map(len, headers)) + sum(len(body) for _, body in entries)
    if len(entries) <= ROW_MESSAGES and (size_bytes <= ROW_BYTES or len(entries) == 1):
        if entries:
            yield headers, entries, size_bytes
        return
    start = size_bytes = 0
    used: set[int] = set()
    for number, (index, body) in enumerate(entries):
        more_bytes = len(body) + (0 if index in used else len(headers[index]))
        if number - start == ROW_MESSAGES or (number > start and size_bytes + more_bytes > ROW_BYTES):
            yield *with_its_headers(headers, entries[start:number]), size_bytes
            start, size_bytes, used = number, 0, set()
            more_bytes = len(body) + len(headers[index])
        size_bytes += more_bytes
        used.add(index)
    yield *with_its_headers(headers, entries[start:]), size_bytes


class BodyReader:
    """Reads rows of bodies, and remembers the last few."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._decoded: OrderedDict[int, tuple[int, list[Piece]]] = OrderedDict()  # first seq → (last, pieces)

    def forget(self) -> None:
        """Forget all rows: after a transaction was undone their numbers are given again."""
        self._decoded.clear()

    def runs(self, first_position: int, last_position: int) -> Iterator[Run]:
        """Read positions of one priority, all of which are in the queue.

        Raises:
            StoreError: A message is not there, or its row cannot be decoded.
        """
        base = first_position & ~MAX_SEQ
        position = first_position
        while position <= last_position:
            row_seq, last_seq, pieces = self._row(position - base)
            start = base + row_seq
            for headers, entries in pieces:
                part = Run(start, headers, entries).cut(position, last_position)
                if part is not None:
                    yield part
                start += len(entries)
            position = base + last_seq + 1

    def _row(self, seq: int) -> tuple[int, int, list[Piece]]:
        """Return the row with the message `seq`: its first and last number, and its pieces."""
        for row_seq, (last_seq, pieces) in self._decoded.items():
            if row_seq <= seq <= last_seq:
                self._decoded.move_to_end(row_seq)
                return row_seq, last_seq, pieces
        found = self._connection.execute(
            "SELECT first_seq, data FROM bodies WHERE first_seq <= ? ORDER BY first_seq DESC LIMIT 1", (seq,)
        ).fetchone()
        if found is not None:
            row_seq, data = found
            pieces, count = self._decode(row_seq, data)
            if seq < row_seq + count:
                self._decoded[row_seq] = row_seq + count - 1, pieces
                if len(self._decoded) > ROWS_REMEMBERED:
                    self._decoded.popitem(last=False)
                return row_seq, row_seq + count - 1, pieces
        raise message_schema.damaged(self._path, f"message {seq} is queued but not there")

    def _decode(self, row_seq: int, data: bytes) -> tuple[list[Piece], int]:
        try:
            pieces = [(headers, entries) for headers, entries in msgpack.unpackb(data, use_list=False)]
            return pieces, sum(len(entries) for _, entries in pieces)
        except (ValueError, TypeError) as exc:
            raise message_schema.damaged(
                self._path, f"the messages from {row_seq} on cannot be decoded: {exc}"
            ) from exc
