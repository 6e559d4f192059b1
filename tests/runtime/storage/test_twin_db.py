"""The twins on disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from messaging.errors import StoreError
from runtime.storage.twin_db import TwinDb


def test_what_was_saved_is_there_after_the_file_was_opened_again(tmp_path: Path):
    path = tmp_path / "twins.db"
    store = TwinDb.open(path)
    store.save({"edge1/a": b"one", "leaf": b"two"})
    store.save({"leaf": b"three"})
    store.close()

    again = TwinDb.open(path)

    assert (again.load("edge1/a"), again.load("leaf"), again.load("nobody")) == (b"one", b"three", None)
    assert sorted(again.identities()) == ["edge1/a", "leaf"]
    again.close()


def test_a_save_is_synced_to_disk(tmp_path: Path):
    store = TwinDb.open(tmp_path / "twins.db")
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_a_save_that_fails_keeps_nothing_of_it_and_the_next_one_works(tmp_path: Path):
    store = TwinDb.open(tmp_path / "twins.db")
    connection = store._connection
    connection.execute(
        "CREATE TRIGGER no BEFORE INSERT ON twins WHEN NEW.key = 'b' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )

    with pytest.raises(StoreError, match=r"twin database .*twins\.db: cannot store a twin: no"):
        store.save({"a": b"1", "b": b"2"})

    assert store.identities() == []
    store.save({"a": b"1"})
    assert store.load("a") == b"1"
    store.close()


def test_some_other_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "twins.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE strangers (name TEXT)")

    with pytest.raises(StoreError, match="some other SQLite database"):
        TwinDb.open(path)


def test_a_damaged_file_is_put_aside_and_twins_start_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "twins.db"
    contents = [b"no database at all" * 100, b"nor this" * 100]
    for content in contents:
        path.write_bytes(content)
        store = TwinDb.open(path)
        assert store.identities() == []
        store.save({"leaf": b"twin"})
        store.close()

    aside = [tmp_path / f"twins.db-damaged-{number}" for number in (1, 2)]
    assert [file.read_bytes() for file in aside] == contents
    assert f"put aside as {aside[1]}" in caplog.text


def test_a_twin_that_was_removed_is_gone_for_good_and_removing_it_again_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "twins.db"
    store = TwinDb.open(path)
    store.save({"edge1/a": b"one", "leaf": b"two"})
    store.remove("leaf")
    store.remove("leaf")
    store.close()

    again = TwinDb.open(path)
    assert again.identities() == ["edge1/a"]
    again.close()
