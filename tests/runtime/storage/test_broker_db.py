"""The broker's database: what is written is there again, or the reason is told."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from messaging.broker.journal import Changes, Kept
from messaging.errors import StoreError
from runtime.storage.broker_db import BrokerDb

EMPTY = Kept([], {}, [], [], {})


def written(path: Path, *changes: Changes) -> Kept:
    """Write, and return what a later process finds."""
    db = BrokerDb.open(path)
    for change in changes:
        db.write(change)
    db.close()
    db = BrokerDb.open(path)
    kept = db.load()
    db.close()
    return kept


FIRST = Changes(
    sessions={1: ("a", None), 2: ("b", 5.0)},
    bodies=[(1, b"one"), (2, b"two")],
    queued=[(1, 1, 40_000, 1), (1, 2, 40_001, 2), (2, 2, 40_001, 5)],
    incoming={(1, 7): True, (2, 8): True},
    retained={"t": b"kept", "u": b"kept too"},
)


def test_what_is_written_is_there_again(tmp_path: Path) -> None:
    assert written(tmp_path / "broker.db", FIRST) == Kept(
        [(1, "a", None), (2, "b", 5.0)],
        {1: b"one", 2: b"two"},
        [(1, 1, 40_000, 1, False), (1, 2, 40_001, 2, False), (2, 2, 40_001, 5, False)],
        [(1, 7), (2, 8)],
        {"t": b"kept", "u": b"kept too"},
    )


def test_what_is_done_is_gone_and_what_changed_is_changed(tmp_path: Path) -> None:
    later = Changes(
        sessions={1: ("a", 9.0)},
        renamed=[(50_000, 2, 2)],
        received=[(1, 2)],
        done=[(1, 1)],
        gone_bodies=[1],
        incoming={(1, 7): False},
        retained={"t": b"newer", "u": None},
    )

    assert written(tmp_path / "broker.db", FIRST, later) == Kept(
        [(1, "a", 9.0), (2, "b", 5.0)],
        {2: b"two"},
        [(1, 2, 40_001, 2, True), (2, 2, 50_000, 5, False)],
        [(2, 8)],
        {"t": b"newer"},
    )


def test_with_a_session_goes_all_that_it_has(tmp_path: Path) -> None:
    gone = Changes(sessions={1: None, 2: None}, gone_bodies=[1, 2], retained={"t": None, "u": None})

    assert written(tmp_path / "broker.db", FIRST, gone) == EMPTY


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    db = BrokerDb.open(path)
    with pytest.raises(StoreError, match="broker database"):
        db.write(Changes(retained={"t": b"x"}, bodies=[(1, b"x"), (1, b"the same number")]))
    db.close()

    assert written(path) == EMPTY


def test_a_damaged_file_is_put_aside_and_the_broker_starts_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(b"this is no database at all" * 1000)

    with caplog.at_level(logging.ERROR):
        kept = written(path)

    assert kept == EMPTY
    assert "put aside as" in caplog.text
    assert list(tmp_path.glob("broker.db-damaged-*"))


def test_only_its_owner_can_read_it_and_every_commit_is_synced(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    db = BrokerDb.open(path)
    (level,) = db._connection.execute("PRAGMA synchronous").fetchone()
    db.tidy()
    db.close()

    assert level == 2
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
