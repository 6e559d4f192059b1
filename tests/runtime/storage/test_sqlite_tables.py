from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.storage.sqlite_tables import SharedTable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tables.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture
def table(connection: sqlite3.Connection, path: Path) -> SharedTable:
    return SharedTable(connection, path, "things")


@pytest.mark.parametrize("value", [0, -1, 1 << 60, 1.5, "ä", b"\0\xff", None, [1, "x"], {"a": {"b": [b"c"]}}])
def test_a_value_comes_back_as_it_was(table: SharedTable, value: object) -> None:
    table["key"] = value

    assert table["key"] == value


def test_a_table_is_a_dict(table: SharedTable) -> None:
    table.update({"b": 2, "a": 1, "c": 3})
    table["b"] = 4
    del table["c"]

    assert dict(table.items()) == {"a": 1, "b": 4}
    assert sorted(table) == ["a", "b"]
    assert (len(table), bool(table), "a" in table, "c" in table) == (2, True, True, False)
    assert (table.get("c"), table.pop("c", "none"), table.pop("a")) == (None, "none", 1)
    with pytest.raises(KeyError):
        table["a"]
    with pytest.raises(KeyError):
        del table["a"]
    table.clear()
    assert (len(table), bool(table)) == (0, False)


def test_tables_share_the_transaction_of_their_connection(
    connection: sqlite3.Connection, path: Path, table: SharedTable
) -> None:
    other = SharedTable(connection, path, "others")
    table["kept"] = 1

    connection.execute("BEGIN")
    table["gone"] = 2
    other["gone"] = 2
    del table["kept"]
    table.commit()  # as SqliteDict does by itself here and there
    third = SharedTable(connection, path, "made and undone")
    assert third is not None
    connection.execute("ROLLBACK")

    assert (dict(table.items()), dict(other.items())) == ({"kept": 1}, {})
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name LIKE 'made%'").fetchone() == (0,)


def test_values_are_msgpack_in_the_file(connection: sqlite3.Connection, table: SharedTable) -> None:
    table["key"] = {"a": 1}

    assert connection.execute("SELECT value FROM things").fetchall() == [(b"\x81\xa1a\x01",)]


def test_a_failed_statement_is_reported_where_it_failed(
    connection: sqlite3.Connection, table: SharedTable
) -> None:
    connection.execute("DROP TABLE things")

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        table["key"] = 1


def test_the_connection_outlives_its_tables(connection: sqlite3.Connection, path: Path) -> None:
    table = SharedTable(connection, path, "things")
    table["key"] = 1
    table.close()
    del table
    gc.collect()

    assert SharedTable(connection, path, "things")["key"] == 1


def test_going_through_a_table_leaves_no_cursor_open(
    connection: sqlite3.Connection, path: Path, table: SharedTable
) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    table.update({str(number): number for number in range(500)})

    keys = iter(table)
    assert next(keys) == "0"
    other = sqlite3.connect(path, timeout=0)
    busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    other.close()

    assert not busy
    assert len(list(keys)) == 499
