"""What the message database does with its file: settings, versions, damage, space, other readers."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgpack
import pytest

from actors.hub.c2d_queues import is_c2d_queue
from actors.store.stored import MAX_SEQ, EndpointLedger, Ledger, Totals, position_of
from messaging.errors import StoreDamaged, StoreError, StoreFull
from messaging.upstream_queues import upstream_queue
from runtime.storage import message_ledger, message_schema, sqlite_file
from runtime.storage.message_db import MessageDb
from runtime.storage.message_ledger import read_ledger
from tests.runtime.message_stores import (
    NOW_S,
    append,
    bodies,
    joined,
    make_older,
    message,
    one_by_one,
    positions,
    ranges,
    seqs,
    to,
    waiting,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages.db"


@pytest.fixture
def db(path: Path) -> Iterator[MessageDb]:
    db = MessageDb.open(path)
    yield db
    db.close()


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def fill(db: MessageDb, count: int, body_bytes: int = 1000) -> None:
    for start in range(0, count, 100):
        append(db, *(message("x" * body_bytes, to("a")) for _ in range(start, min(start + 100, count))))


# Settings


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [
        pytest.param("journal_mode", "wal", id="write-ahead log"),
        pytest.param("synchronous", 2, id="synchronous FULL"),
        pytest.param("auto_vacuum", 2, id="auto_vacuum INCREMENTAL"),
        pytest.param("secure_delete", 2, id="freed pages are not written again"),
        pytest.param("wal_autocheckpoint", 1000, id="checkpoint at 1000 pages"),
    ],
)
def test_the_settings_hold_for_a_new_file_and_when_it_is_opened_again(
    path: Path, pragma: str, expected: object
) -> None:
    for _ in range(2):
        db = MessageDb.open(path)
        append(db, message("x", to("a")))

        assert db._connection.execute(f"PRAGMA {pragma}").fetchone() == (expected,)
        db.close()


def test_only_the_owner_can_read_the_file_and_its_log(db: MessageDb, path: Path) -> None:
    append(db, message("x", to("a")))

    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("size", [1, 512])
@pytest.mark.parametrize("segments", ["in one segment", "one by one"])
def test_a_batch_is_a_few_statements_however_many_messages_it_has(
    db: MessageDb, size: int, segments: str
) -> None:
    messages = [message("x", to("a", ttl_s=9)) for _ in range(size)]
    batch = joined(messages) if segments == "in one segment" else messages
    append(db, *batch)
    places = positions(waiting(db, "a"))
    statements: list[str] = []
    db._connection.set_trace_callback(statements.append)

    with db.transaction():
        db.append(batch, NOW_S)
        db.delivered({"a": ranges(places)})

    assert len(statements) == 11, statements


def test_a_transaction_that_changed_nothing_writes_nothing(db: MessageDb, path: Path) -> None:
    append(db, message("x", to("a", ttl_s=9)))
    before = log_of(path).read_bytes()

    with db.transaction():
        assert db.expire(NOW_S) == {}
        assert db.delivered({"a": [(0, 9)]}) == 0

    assert log_of(path).read_bytes() == before


# Versions


def test_a_file_of_an_older_release_is_migrated_and_keeps_its_messages(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = MessageDb.open(path)
    append(db, message("old", to("a")))
    db.close()
    newer = (*message_schema.MIGRATIONS, "ALTER TABLE queue ADD COLUMN tries INTEGER; CREATE TABLE more (x);")
    monkeypatch.setattr(message_schema, "MIGRATIONS", newer)

    with pytest.raises(StoreError, match="older release; start the edge once"):
        read_ledger(path)
    for _ in range(2):
        db = MessageDb.open(path)
        assert bodies(waiting(db, "a")) == ["old"]
        assert db._connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
        assert db._connection.execute("SELECT tries FROM queue").fetchall() == [(None,)]
        db.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = MessageDb.open(path)
    append(db, message("old", to("a")))
    db.close()
    with monkeypatch.context() as patch:
        failing = (
            *message_schema.MIGRATIONS,
            "ALTER TABLE queue ADD COLUMN tries INTEGER; DROP TABLE absent;",
        )
        patch.setattr(message_schema, "MIGRATIONS", failing)
        with pytest.raises(StoreError, match="no such table"):
            MessageDb.open(path)

    db = MessageDb.open(path)

    assert bodies(waiting(db, "a")) == ["old"]
    assert "tries" not in [row[1] for row in db._connection.execute("PRAGMA table_info(queue)")]
    db.close()


def a_newer_file(path: Path) -> None:
    MessageDb.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=7")
    connection.close()


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()


def no_database(path: Path) -> None:
    path.write_bytes(b"these are not the bytes of a database" * 200)


def a_damaged_page(path: Path) -> None:
    db = MessageDb.open(path)
    fill(db, 200)
    db.close()
    with path.open("r+b") as file:
        file.seek(30 * 4096)
        file.write(b"\xee" * 4096)


def a_file_cut_short(path: Path) -> None:
    db = MessageDb.open(path)
    fill(db, 200)
    db.close()
    os.truncate(path, 20 * 4096)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(a_newer_file, "schema version 7 is newer than 3", id="newer release"),
        pytest.param(another_database, "some other SQLite database; move it away", id="some other database"),
        pytest.param(no_database, "damaged (file is not a database); what can be read", id="not a database"),
        pytest.param(a_damaged_page, "damaged (", id="damaged page"),
        pytest.param(a_file_cut_short, "damaged (", id="cut short"),
        pytest.param(Path.mkdir, "cannot be opened", id="a folder"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""

    with pytest.raises(StoreError) as refused:
        MessageDb.open(path)

    assert str(path) in str(refused.value)
    assert said in str(refused.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere.*No such file or directory"):
        MessageDb.open(tmp_path / "nowhere" / "messages.db")


def test_damage_found_while_reading_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_damaged_page(path)
    monkeypatch.setattr(sqlite_file, "CHECKED_WHOLE_BYTES", 0)  # as for a large file
    db = MessageDb.open(path)

    with pytest.raises(StoreError, match="damaged"):
        waiting(db, "a")

    db.close()


def test_a_queued_message_without_its_body_is_damage_and_not_skipped(db: MessageDb) -> None:
    first = append(db, message("1", to("a")), message("2", to("a")))
    db._connection.execute("DELETE FROM bodies")

    with pytest.raises(StoreError, match=f"damaged .message {first} is queued but not there"):
        waiting(db, "a")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(msgpack.packb([]), "message 1 is queued but not there", id="no piece"),
        pytest.param(
            msgpack.packb([[[b"h"], [[0, b"1"]]]]), "message 2 is queued but not there", id="one is missing"
        ),
        pytest.param(b"", "messages from 1 on cannot be decoded", id="empty"),
        pytest.param(b"\x92\xc1", "messages from 1 on cannot be decoded", id="not msgpack"),
        pytest.param(msgpack.packb(7), "messages from 1 on cannot be decoded", id="a number"),
        pytest.param(msgpack.packb([7]), "messages from 1 on cannot be decoded", id="a piece is a number"),
        pytest.param(msgpack.packb([[[], 7]]), "messages from 1 on cannot be decoded", id="no entries"),
    ],
)
def test_a_row_of_bodies_without_a_checksum_that_makes_no_sense_is_damage(
    db: MessageDb, data: bytes, said: str
) -> None:
    append(db, message("1", to("a")), message("2", to("a")))
    db._connection.execute("UPDATE bodies SET data = ?, checksum = NULL", (data,))

    with pytest.raises(StoreError, match=f"damaged .*{said}"):
        waiting(db, "a")


@pytest.mark.parametrize("body_bytes", [10, 3000, 60_000], ids=["short", "of pages", "over several slices"])
def test_a_bit_that_flipped_in_a_row_of_bodies_is_damage_wherever_it_is(
    db: MessageDb, body_bytes: int
) -> None:
    append(db, *(message(f"{number:0{body_bytes}d}", to("a")) for number in range(3)))
    ((data,),) = db._connection.execute("SELECT data FROM bodies").fetchall()
    chance = random.Random(body_bytes)

    for at in [0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(20))]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        db._connection.execute("UPDATE bodies SET data = ?", (bytes(flipped),))
        db._bodies.forget()
        with pytest.raises(StoreDamaged, match="messages from 1 on are not what was stored"):
            waiting(db, "a")

    db._connection.execute("UPDATE bodies SET data = ?", (data,))
    assert len(waiting(db, "a")) == 3


def test_a_row_in_the_place_of_another_is_damage(db: MessageDb) -> None:
    append(db, message("1", to("a")))
    append(db, message("2", to("b")))
    (row,) = db._connection.execute("SELECT data, checksum FROM bodies WHERE first_seq = 1").fetchall()
    db._connection.execute("UPDATE bodies SET data = ?, checksum = ? WHERE first_seq = 2", row)

    with pytest.raises(StoreDamaged, match="messages from 2 on are not what was stored"):
        waiting(db, "b")


def test_messages_of_a_release_without_checksums_are_read_and_new_ones_have_one(path: Path) -> None:
    db = MessageDb.open(path)
    append(db, message("old", to("a")))
    db.close()
    make_older(path, 2)

    db = MessageDb.open(path)
    append(db, message("new", to("a")))

    assert bodies(waiting(db, "a")) == ["old", "new"]
    checksums = db._connection.execute("SELECT checksum FROM bodies ORDER BY first_seq").fetchall()
    assert [checksum is None for (checksum,) in checksums] == [True, False]
    db.close()


def test_one_endpoint_too_many_is_refused_by_name(db: MessageDb, monkeypatch: pytest.MonkeyPatch) -> None:
    append(db, message("x", to("a", "b")))
    monkeypatch.setattr(message_ledger, "MAX_ENDPOINT_NUMBER", 2)

    with pytest.raises(StoreError, match="'c' is one too many"):
        append(db, message("x", to("a", "c")))

    assert db.ledger().endpoints == {name: EndpointLedger(accepted=1, pending=1) for name in ("a", "b")}


def come_and_go(db: MessageDb, *queues: str) -> None:
    """Have a message stored for each of these queues, and delivered."""
    for name in queues:
        append(db, message("x", to(name)))
        with db.transaction():
            db.delivered({name: ranges(positions(waiting(db, name)))})


def test_nothing_is_left_of_senders_and_devices_that_came_and_went_but_their_counts(
    db: MessageDb, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_ledger, "FOLD_AT", 10)
    db.close()
    db = MessageDb.open(path)
    append(db, message("stays", to(upstream_queue("busy"), "slow/$c2d", "edge/filter/in")))

    for number in range(100):
        come_and_go(db, upstream_queue(f"leaf{number}"), f"leaf{number}/$c2d")

    for _ in range(2):
        assert len(db.endpoint_ids()) < 15
        assert max(account.number for _, account in db._accounts.all()) < 15
        ledger = db.ledger()
        assert ledger.imbalances() == []
        assert ledger.endpoints["iothub"] == EndpointLedger(accepted=101, delivered=100, pending=1)
        devices = [row for name, row in ledger.endpoints.items() if is_c2d_queue(name)]
        assert sum(row.delivered for row in devices) == 100
        for name in (upstream_queue("busy"), "slow/$c2d", "edge/filter/in"):
            assert bodies(waiting(db, name)) == ["stays"]
        assert read_ledger(path).endpoints == ledger.endpoints
        db.close()
        db = MessageDb.open(path)
    db.close()


def test_a_sender_that_comes_back_after_its_queue_was_closed_gets_the_order_it_had(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_ledger, "FOLD_AT", 2)
    db = MessageDb.open(path)
    come_and_go(db, *(upstream_queue(name) for name in ("a", "b", "c", "d")))
    assert upstream_queue("a") not in db.endpoint_ids()

    append(db, message("1", to(upstream_queue("a"))), message("2", to(upstream_queue("a"))))

    assert bodies(waiting(db, upstream_queue("a"))) == ["1", "2"]
    assert waiting(db, upstream_queue("b")) == []
    assert db.ledger().endpoints == {"iothub": EndpointLedger(accepted=6, delivered=4, pending=2)}
    db.close()


def test_queues_closed_in_a_transaction_that_is_undone_are_there_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_ledger, "FOLD_AT", 3)
    db = MessageDb.open(path)
    come_and_go(db, *(upstream_queue(name) for name in "abc"))
    before = db.ledger()

    with suppress(ZeroDivisionError), db.transaction():
        db.append([message("x", to(upstream_queue("d")))], NOW_S)
        closed = db.endpoint_ids()
        raise ZeroDivisionError

    assert closed == ("iothub", upstream_queue("d"))
    assert set(db.endpoint_ids()) == {upstream_queue(name) for name in "abc"}
    assert db.ledger() == before
    db.close()


def test_appending_is_refused_when_the_sequence_numbers_are_used_up(db: MessageDb) -> None:
    with db.transaction():
        db._accounts.next_seq = MAX_SEQ - 1
        db.append([message("last", to("a"))], NOW_S)

    with pytest.raises(StoreError, match="sequence numbers are used up"):
        append(db, message("one too many", to("a")))

    assert seqs(waiting(db, "a")) == [MAX_SEQ - 1]


# Space


class NoCommit:
    """A connection whose COMMIT fails as on a dying disk: the transaction stays open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, parameters)


def test_a_failed_commit_is_undone_and_the_next_one_works(
    db: MessageDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = append(db, message("1", to("a")))
    with monkeypatch.context() as patch:
        patch.setattr(db, "_connection", NoCommit(db._connection))
        for _ in range(3):
            with pytest.raises(StoreError, match="cannot commit: disk I/O error"):
                append(db, message("2", to("a", "b")))
        assert db.ledger() == Ledger(Totals(1, 0, 1), {"a": EndpointLedger(accepted=1, pending=1)})

    assert append(db, message("3", to("b"))) == first + 1
    assert bodies(waiting(db, "a")) == ["1"]
    assert bodies(waiting(db, "b")) == ["3"]


def test_counts_that_could_not_be_read_after_a_failure_are_read_before_the_next_transaction(
    db: MessageDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = append(db, message("1", to("a")))

    def unreadable(accounts: message_ledger.Accounts) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(db, "_connection", NoCommit(db._connection))
        patch.setattr(message_ledger.Accounts, "load", unreadable)
        for _ in range(2):
            with pytest.raises(StoreError, match="disk I/O error"):
                append(db, message("2", to("b")))

    assert append(db, message("3", to("a"))) == first + 1
    assert db.ledger() == Ledger(Totals(2, 0, 2), {"a": EndpointLedger(accepted=2, pending=2)})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed test leaves its file open


def test_on_a_full_disk_nothing_is_kept_by_half_and_all_goes_on_with_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (1 << 20))
    path = small_disk / "messages.db"
    db = MessageDb.open(path)
    stored = 0

    refused = ""
    while not refused:
        try:
            append(db, *(message("x" * 500, to("a", "b")) for _ in range(10)))
            stored += 10
        except StoreFull as error:
            refused = str(error)
    for _ in range(20):
        with pytest.raises(StoreFull):
            append(db, *(message("x" * 500, to("a", "c")) for _ in range(200)))

    assert str(path) in refused
    row = EndpointLedger(accepted=stored, pending=stored)
    assert db.ledger() == Ledger(Totals(stored, 0, stored), {"a": row, "b": row})
    ballast.unlink()
    append(db, *(message("x" * 500, to("c")) for _ in range(10)))
    with db.transaction():
        assert db.delivered({"a": ranges(positions(waiting(db, "a")))}) == stored
    assert db.ledger().imbalances() == []
    ledger = db.ledger()
    db.close()
    assert read_ledger(path) == ledger


def test_the_log_is_cut_again_after_a_large_transaction(db: MessageDb, path: Path) -> None:
    with db.transaction():
        for _ in range(12):
            db.append(joined([message("x" * 256_000, to("a")) for _ in range(10)]), NOW_S)
    largest = log_of(path).stat().st_size

    for _ in range(3):
        append(db, message("x", to("a")))

    assert largest > 3 * sqlite_file.WAL_KEPT_BYTES
    assert log_of(path).stat().st_size <= sqlite_file.WAL_KEPT_BYTES


def test_the_log_stays_small_under_steady_traffic(db: MessageDb, path: Path) -> None:
    largest = 0
    for _ in range(300):
        fill(db, 100)
        found = one_by_one(db.read("a", -1, max_count=50, max_bytes=10_000, now_s=NOW_S))  # ends at the bytes
        with db.transaction():
            db.delivered({"a": ranges(positions(waiting(db, "a")))})
        largest = max(largest, log_of(path).stat().st_size)

    assert len(found) < 50
    assert largest < 2 * sqlite_file.WAL_PAGES * 4096


def test_a_read_that_stopped_early_leaves_nothing_open(db: MessageDb, path: Path) -> None:
    fill(db, 100)
    db.read("a", -1, max_count=50, max_bytes=3000, now_s=NOW_S)

    other = sqlite3.connect(path)
    busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    other.close()

    assert not busy


def test_tidying_gives_the_space_of_deleted_messages_back_in_slices(db: MessageDb, path: Path) -> None:
    fill(db, 3000)
    assert db.tidy() == 0
    full = path.stat().st_size
    while True:
        with db.transaction():
            if db.drop_queue("a", "limit") < 1000:
                break

    left = [db.tidy()]
    while left[-1]:
        left.append(db.tidy())

    assert len(left) > 2
    assert {before - after for before, after in pairwise(left[:-1])} == {256 * 4096}
    assert path.stat().st_size < full / 10
    append(db, message("x", to("a")))
    assert db.pending("a") == 1


# The ledger read by others


def known(db: MessageDb) -> Ledger:
    append(db, *(message(str(number), to("a", "b")) for number in range(8)), message("-", []))
    with db.transaction():
        db.delivered({"a": ranges(positions(waiting(db, "a"))[:3])})
        db.dropped("a", ranges(positions(waiting(db, "a"))[:1]), "poison")
    return Ledger(
        Totals(received=9, unrouted=1, routed=8),
        {
            "a": EndpointLedger(
                accepted=8, delivered=3, dropped=1, dropped_by_reason={"poison": 1}, pending=4
            ),
            "b": EndpointLedger(accepted=8, pending=8),
        },
    )


def read_in_another_process(path: Path) -> str:
    code = (
        "import sys, pathlib; from runtime.storage.message_ledger import read_ledger; "
        "print(read_ledger(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["messages.db", "100% öl? #1&mode=rw.db"], ids=["plain", "odd name"])
def test_the_ledger_of_a_stopped_edge_is_read_without_a_trace(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    db = MessageDb.open(path)
    expected = known(db)
    db.close()
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}

    ledger = read_ledger(path)

    assert ledger == expected
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    assert set(before) == {name, f"{name}-reserve"}


def test_the_ledger_is_read_beside_a_running_edge_by_another_process(db: MessageDb, path: Path) -> None:
    expected = known(db)

    assert read_in_another_process(path) == str(expected)
    with db.transaction():
        db.append([message("x", to("a"))], NOW_S)
        assert read_in_another_process(path) == str(expected)
    assert read_in_another_process(path) == str(db.ledger()) != str(expected)


def test_the_ledger_is_read_while_a_salvaged_database_takes_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = MessageDb.open(path)
    expected = known(db)
    db.close()
    made = path.rename(message_schema.salvaged_of(path))
    assert read_ledger(path) == expected
    read = message_ledger._read

    def too_late(place: Path, how: str) -> Ledger:
        if place == made:
            made.rename(path)
        return read(place, how)

    monkeypatch.setattr(message_ledger, "_read", too_late)
    assert read_ledger(path) == expected


def test_the_ledger_of_a_file_that_is_only_being_made_is_empty(path: Path) -> None:
    path.touch()

    assert read_ledger(path) == Ledger(Totals(), {})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda path: None, "there is none; the first run", id="missing"),
        pytest.param(a_newer_file, "newer than 3", id="newer release"),
        pytest.param(another_database, "some other SQLite database", id="some other database"),
        pytest.param(no_database, "file is not a database", id="not a database"),
        pytest.param(Path.mkdir, "cannot read the ledger: unable to open", id="a folder"),
    ],
)
def test_a_ledger_that_cannot_be_read_names_the_file_and_why(
    path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(path)

    with pytest.raises(StoreError) as refused:
        read_ledger(path)

    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_positions_of_a_large_file_stay_apart_by_endpoint(db: MessageDb) -> None:
    append(db, message("0", to("a")))
    with db.transaction():
        db._accounts.next_seq = 1 << 44
        db.append([message("1", to("a", priority=0)), message("2", to("b"))], NOW_S)

    assert bodies(waiting(db, "a")) == ["1", "0"]
    assert positions(waiting(db, "b")) == [position_of(2_000_000_000, (1 << 44) + 1)]
    with db.transaction():
        assert db.drop_queue("a", "removed") == 2
    assert db.pending("b") == 1
