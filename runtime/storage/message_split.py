"""Gives each sender to the cloud a queue of its own in a database in which they shared one.

Releases before schema version 2 had one queue `iothub`. What waits in it keeps its position, and so its
order, and its time to live.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from messaging.errors import EnvelopeError
from messaging.message import decode_header, sender_of
from messaging.upstream_queues import UPSTREAM, upstream_queue
from runtime.storage.message_bodies import BodyReader
from runtime.storage.message_ledger import Account, Accounts
from runtime.storage.message_queues import QueueRow, Queues

log = logging.getLogger(__name__)

SLICE_ROWS: Final = 500
_ROWS: Final = (
    "SELECT key, count, first_seq, expires_at FROM queue WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
)


def split_upstream(
    connection: sqlite3.Connection, accounts: Accounts, queues: Queues, bodies: BodyReader
) -> bool:
    """Move what waits in the queue `iothub`, as a part of the open transaction; was there anything?

    Raises:
        StoreDamaged: A message is not there.
    """
    old = accounts.find(UPSTREAM)
    moved = poison = 0
    while old is not None:
        rows: list[QueueRow] = connection.execute(_ROWS, (old.first_key, old.last_key, SLICE_ROWS)).fetchall()
        if not rows:
            break
        accounts.change(UPSTREAM)
        parts = []
        for row in rows:
            for source, first_key, count in _by_sender(old, row, bodies):
                account = accounts.change(upstream_queue(source))
                key = account.first_key + first_key - old.first_key
                parts.append((key, count, row[2], row[3]))
                account.accepted += count
                old.accepted -= count
                moved += count
        poison += queues.replace(rows, parts)
    if old is not None and poison:
        old.drop("poison", poison)
        log.error("%d messages to the cloud name no sender and are dropped", poison)
    if moved:
        log.info("%d messages to the cloud were moved to queues of their senders", moved)
    return bool(moved or poison)


def _by_sender(old: Account, row: QueueRow, bodies: BodyReader) -> Iterator[tuple[str, int, int]]:
    """Cut a row where the sender changes: sender, first key, number of messages. Not of those without one."""
    key, count, first_seq, _ = row
    first = key - old.first_key
    for run in bodies.runs(first_seq, first, first + count - 1):
        senders = [_sender_in(header) for header in run.headers]
        places = enumerate(senders[index] for index, _ in run.entries)
        for source, same in groupby(places, lambda place: place[1]):
            offsets = [offset for offset, _ in same]
            if source:
                yield source, old.first_key + run.first_position + offsets[0], len(offsets)


def _sender_in(header: bytes) -> str:
    try:
        return sender_of(decode_header(header, b"").system_properties)
    except EnvelopeError:
        return ""
