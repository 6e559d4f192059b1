"""The message stores that the contract tests run against: the one on SQLite and the one in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from actors.ports import MessageStore
from actors.stored import DEFAULT_PRIORITY, Match, NewMessage, StoredMessage, seq_of
from runtime.message_db import MessageDb
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


def message(text: str, matches: Sequence[Match], header: bytes = b"h") -> NewMessage:
    return NewMessage(header, text.encode(), tuple(matches))


def append(store: MessageStore, *messages: NewMessage, now_s: float = NOW_S) -> int:
    with store.transaction():
        return store.append(messages, now_s)


def waiting(
    store: MessageStore, endpoint_id: str, after_position: int = -1, now_s: float = NOW_S
) -> list[StoredMessage]:
    return store.read(endpoint_id, after_position, max_count=100_000, max_bytes=1 << 40, now_s=now_s)


def bodies(stored: Sequence[StoredMessage]) -> list[str]:
    return [bytes(one.body).decode() for one in stored]


def seqs(stored: Sequence[StoredMessage]) -> list[int]:
    return [seq_of(one.position) for one in stored]


def positions(stored: Sequence[StoredMessage]) -> list[int]:
    return [one.position for one in stored]
