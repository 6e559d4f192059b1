"""The limit of the message database and its reserve; a full disk is in test_message_db.py and integration."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from messaging.errors import StoreFull
from runtime.storage import store_space
from runtime.storage.message_db import MessageDb
from runtime.storage.store_space import RESERVE_BYTES, default_max_bytes
from tests.runtime.message_stores import append, message, positions, ranges, to, waiting

DISK_BYTES = 1 << 40


class Disk:
    """What the file system says of itself, to be set by a test."""

    def __init__(self) -> None:
        self.free_bytes = 1 << 30

    def statvfs(self, path: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=self.free_bytes // 4096, f_frsize=4096, f_blocks=DISK_BYTES // 4096)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(store_space.os, "statvfs", made.statvfs)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


def reserve_bytes(path: Path) -> int:
    reserve = path.with_name("hub.db-reserve")
    return reserve.stat().st_blocks * 512 if reserve.exists() else 0


def test_the_default_limit_is_half_of_what_the_disk_has_for_it(path: Path, disk: Disk) -> None:
    before = default_max_bytes(path)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)

    assert (before, default_max_bytes(path)) == (1 << 29, (1 << 29) + (1 << 19))


def test_a_reserve_is_made_once_and_takes_real_space(path: Path, disk: Disk) -> None:
    MessageDb.open(path).close()
    made = path.with_name("hub.db-reserve").stat()
    MessageDb.open(path).close()

    assert reserve_bytes(path) >= RESERVE_BYTES
    assert path.with_name("hub.db-reserve").stat().st_ino == made.st_ino
    assert made.st_mode & 0o777 == 0o600


def test_without_room_for_the_reserve_nothing_is_stored_until_there_is(path: Path, disk: Disk) -> None:
    disk.free_bytes = 2 * RESERVE_BYTES - 4096
    db = MessageDb.open(path)

    with pytest.raises(StoreFull, match=r"disk is full, nothing new is stored until 16\.0 MiB are free"):
        append(db, message("x", to("a")))
    disk.free_bytes = 2 * RESERVE_BYTES
    append(db, message("y", to("a")))

    assert [one.body for one in waiting(db, "a")] == [b"y"]
    assert reserve_bytes(path) >= RESERVE_BYTES
    db.close()


def test_an_idle_store_gets_its_reserve_back_as_well(path: Path, disk: Disk) -> None:
    disk.free_bytes = 0
    db = MessageDb.open(path)
    before = reserve_bytes(path)
    disk.free_bytes = 1 << 30

    db.tidy()

    assert (before, reserve_bytes(path) >= RESERVE_BYTES) == (0, True)
    db.close()


def test_the_limit_counts_what_is_used_and_not_the_file(path: Path, disk: Disk) -> None:
    db = MessageDb.open(path, max_bytes=1_000_000)
    stored, refused = 0, ""
    while not refused:
        try:
            append(db, *(message("x" * 1000, to("a")) for _ in range(10)))
            stored += 10
        except StoreFull as exc:
            refused = str(exc)

    with db.transaction():
        db.delivered({"a": ranges(positions(waiting(db, "a"))[:500])})
    append(db, *(message("x" * 1000, to("a")) for _ in range(400)))

    assert "at most 1.0 MiB" in refused
    assert "maxSizeBytes" in refused
    assert 700 < stored < 1000
    assert path.stat().st_size <= 1_000_000
    assert reserve_bytes(path) >= RESERVE_BYTES  # it is not the disk that is full
    db.close()


def test_one_append_larger_than_the_limit_is_refused_before_it_is_written(path: Path, disk: Disk) -> None:
    db = MessageDb.open(path, max_bytes=100_000)
    before = path.stat().st_size

    with pytest.raises(StoreFull):
        append(db, *(message("x" * 1000, to("a")) for _ in range(200)))

    assert path.stat().st_size == before
    db.close()


def test_messages_that_go_nowhere_need_no_space(path: Path, disk: Disk) -> None:
    db = MessageDb.open(path, max_bytes=1)

    append(db, message("x" * 100_000, []))

    assert db.ledger().total.unrouted == 1
    db.close()
