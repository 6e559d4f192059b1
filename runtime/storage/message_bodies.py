"""How messages lie in the rows of `bodies`, and how they are read back.

A row is a msgpack array of pieces, a piece is [headers, [index of its header, body] per message]; the
messages of a row have consecutive sequence numbers and go to the same endpoints, so that a row is forgotten
as a whole as soon as each of them has it. A slow endpoint keeps no message that is not its own.

A row has a checksum, because SQLite notices damage to its own structures alone and hands out a body in which
a bit has flipped: 80 ns a message of 256 bytes in rows of a hundred, when it is written and when it is read.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgpack

from actors.store.stored import MAX_SEQ, Match, Run, Segment, bodies_bytes, seq_of, with_its_headers
from runtime.storage import message_schema

ROW_MESSAGES = 512  # at most in one row …
ROW_BYTES = 256 * 1024  # … and at most this many bytes of headers and bodies, but one message in any case
ROWS_REMEMBERED = 8  # decoded rows, for readers that take a row in several bites

_SLICE_BYTES = 5 * 1024  # zlib lets go of the interpreter for more, and would have to wait to get it back

Piece = tuple[Sequence[bytes], Sequence[tuple[int, bytes]]]


def checksum(first_seq: int, data: bytes) -> int:
    """Return what a row of bodies is checked with: its CRC-32, begun with where it belongs."""
    value = first_seq & 0xFFFFFFFF
    if len(data) <= _SLICE_BYTES:
        return zlib.crc32(data, value)
    view = memoryview(data)
    for start in range(0, len(data), _SLICE_BYTES):
        value = zlib.crc32(view[start : start + _SLICE_BYTES], value)
    return value


def is_trusted(first_seq: int, data: object, stored: object) -> bool:
    """Say whether a row is what was stored; one of an earlier release has no checksum and is believed."""
    if type(data) is not bytes:
        return False
    return stored is None or stored == checksum(first_seq, data)


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
    size_bytes = sum(map(len, headers)) + bodies_bytes(entries)
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
        self._decoded: OrderedDict[int, list[Piece]] = OrderedDict()  # by first seq

    def forget(self) -> None:
        """Forget all rows: after a transaction was undone their numbers are given again."""
        self._decoded.clear()

    def runs(self, first_seq: int, first_position: int, last_position: int) -> Iterator[Run]:
        """Read positions of one priority whose messages are in one row.

        Raises:
            StoreDamaged: The row or one of the messages is not there, it is not what was stored, or it
                cannot be decoded.
        """
        start = (first_position & ~MAX_SEQ) + first_seq
        for headers, entries in self._row(first_seq):
            part = Run(start, headers, entries).cut(first_position, last_position)
            if part is not None:
                yield part
            start += len(entries)
        if start <= last_position:
            raise message_schema.damaged(self._path, f"message {seq_of(start)} is queued but not there")

    def check(self) -> None:
        """See that all rows are what was stored: when one is found by its reader, the hub has to end.

        Raises:
            StoreDamaged: One is not.
        """
        for row in self._connection.execute("SELECT first_seq, data, checksum FROM bodies"):
            self._check(*row)

    def _check(self, first_seq: int, data: object, stored: object) -> None:
        if not is_trusted(first_seq, data, stored):
            raise message_schema.damaged(
                self._path, f"the messages from {first_seq} on are not what was stored: the checksum differs"
            )

    def count(self, first_seq: int) -> int:
        """Return how many messages were stored in a row.

        Raises:
            StoreDamaged: The row is not there, not what was stored, or it cannot be decoded.
        """
        return sum(len(entries) for _, entries in self._row(first_seq))

    def _row(self, first_seq: int) -> list[Piece]:
        pieces = self._decoded.get(first_seq)
        if pieces is not None:
            self._decoded.move_to_end(first_seq)
            return pieces
        found = self._connection.execute(
            "SELECT data, checksum FROM bodies WHERE first_seq = ?", (first_seq,)
        ).fetchone()
        if found is None:
            raise message_schema.damaged(self._path, f"message {first_seq} is queued but not there")
        self._check(first_seq, *found)
        try:
            pieces = [(headers, entries) for headers, entries in msgpack.unpackb(found[0], use_list=False)]
            for _, entries in pieces:
                len(entries)
        except (ValueError, TypeError) as exc:
            raise message_schema.damaged(
                self._path, f"the messages from {first_seq} on cannot be decoded: {exc}"
            ) from exc
        self._decoded[first_seq] = pieces
        if len(self._decoded) > ROWS_REMEMBERED:
            self._decoded.popitem(last=False)
        return pieces
