"""The message stores that the contract tests run against: the one on SQLite and the one in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from actors.ports.storage import MessageStore
from actors.store.stored import DEFAULT_PRIORITY, Match, Run, Segment, seq_of
from runtime.storage.message_db import MessageDb
from tests.fakes.message_db import MemoryDisk, MemoryMessageDb

NOW_S = 1_700_000_000.0


class StoreKind(Protocol):
    def open(self) -> MessageStore: ...

    def use_up_space(self) -> None: ...

    def make_space(self) -> None: ...


class OnSqlite:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "messages.db"
        self._db: MessageDb | None = None

    def open(self) -> MessageStore:
        self._db = MessageDb.open(self.path)
        return self._db

    def use_up_space(self) -> None:
        self._limit_pages(1)  # SQLite takes the present number of pages for any lower limit

    def make_space(self) -> None:
        self._limit_pages(1_000_000)

    def _limit_pages(self, pages: int) -> None:
        assert self._db is not None
        self._db._connection.execute(f"PRAGMA max_page_count={pages}").fetchall()


def make_older(path: Path, version: int) -> None:
    """Make the file of a closed database one of the release that had this schema version, 1 or 2."""
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE bodies DROP COLUMN checksum")
    connection.execute(f"PRAGMA user_version={version}")
    connection.commit()
    connection.close()


class InMemory:
    def __init__(self) -> None:
        self._disk = MemoryDisk()

    def open(self) -> MessageStore:
        return MemoryMessageDb(self._disk)

    def use_up_space(self) -> None:
        self._disk.full = True

    def make_space(self) -> None:
        self._disk.full = False


def to(*endpoint_ids: str, priority: int = DEFAULT_PRIORITY, ttl_s: float | None = None) -> list[Match]:
    return [Match(endpoint_id, priority, ttl_s) for endpoint_id in endpoint_ids]


def message(text: str, matches: Sequence[Match], header: bytes = b"h") -> Segment:
    """Return a segment of one message."""
    return Segment(tuple(matches), (header,), ((0, text.encode()),))


def joined(messages: Sequence[Segment]) -> list[Segment]:
    """Join neighbours that go to the same endpoints, as a batch from a publisher is."""
    found: list[Segment] = []
    for matches, headers, entries in messages:
        if found and found[-1].matches == matches:
            _, before, known = found.pop()
            entries = (*known, *((len(before) + index, body) for index, body in entries))
            headers = (*before, *headers)
        found.append(Segment(matches, headers, entries))
    return found


def append(store: MessageStore, *messages: Segment, now_s: float = NOW_S) -> int:
    """Append messages in a transaction of their own, joined to segments."""
    with store.transaction():
        return store.append(joined(messages), now_s)


class Stored(NamedTuple):
    """One message of a run."""

    position: int
    header: bytes
    body: bytes


def one_by_one(runs: Iterable[Run]) -> list[Stored]:
    """Return each message of some runs."""
    return [
        Stored(position, run.headers[index], body)
        for run in runs
        for position, (index, body) in enumerate(run.entries, run.first_position)
    ]


def waiting(
    store: MessageStore, endpoint_id: str, after_position: int = -1, now_s: float = NOW_S
) -> list[Stored]:
    return one_by_one(
        store.read(endpoint_id, after_position, max_count=100_000, max_bytes=1 << 40, now_s=now_s)
    )


def bodies(stored: Sequence[Stored]) -> list[str]:
    return [one.body.decode() for one in stored]


def seqs(stored: Sequence[Stored]) -> list[int]:
    return [seq_of(one.position) for one in stored]


def positions(stored: Sequence[Stored]) -> list[int]:
    return [one.position for one in stored]


def ranges(places: Iterable[int]) -> list[tuple[int, int]]:
    """Join positions that follow each other to ranges, in the order given."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1] = found[-1][0], place
        else:
            found.append((place, place))
    return found
