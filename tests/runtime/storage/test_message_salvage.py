"""A damaged message database: what can be read of it goes on, and what became of it is told."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from actors.store.stored import DEFAULT_PRIORITY, EndpointLedger, Epoch, Match, Segment, Totals
from messaging.errors import EnvironmentFault, StoreDamaged, StoreError
from runtime.storage import message_salvage, message_schema, sqlite_file
from runtime.storage.message_db import MessageDb
from runtime.storage.message_ledger import read_ledger
from runtime.storage.message_salvage import make_sound
from tests.runtime.message_stores import (
    NOW_S,
    append,
    bodies,
    make_older,
    message,
    positions,
    ranges,
    to,
    waiting,
)

PAGE = 4096
COUNT = 3000
BODY = 400  # bytes: rows of one message, ten on a page
STAMP = "20231114T221320Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


def text(number: int) -> str:
    return f"{number:0{BODY}d}"


def filled(path: Path, count: int = COUNT) -> None:
    """Write a database as a killed hub leaves it: messages of two endpoints and three priorities."""
    db = MessageDb.open(path)
    for number in range(count):
        priority = (0, 5, DEFAULT_PRIORITY)[number % 3]
        endpoints = ("a", "b") if number % 2 else ("a",)
        with db.transaction():
            db.append([message(text(number), to(*endpoints, priority=priority, ttl_s=3600))], NOW_S)
    with db.transaction():
        db.delivered({"a": ranges(positions(waiting(db, "a"))[:100])})
        db.save_session("edge/a", b"session")
    db.close()


def pages_of(path: Path, table: str, kind: str = "leaf") -> list[int]:
    """Return the numbers of the b-tree pages of a table that have no children, or that have."""
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    data = path.read_bytes()
    leaves, interior, todo = [], [], [root]
    while todo:
        number = todo.pop()
        page = data[(number - 1) * PAGE : number * PAGE]
        if page[0] == 0x0D:  # a leaf of a table; file format of SQLite, section 1.6
            leaves.append(number)
            continue
        interior.append(number)
        cells = int.from_bytes(page[3:5], "big")
        pointers = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
        todo += [int.from_bytes(page[at : at + 4], "big") for at in pointers]
        todo.append(int.from_bytes(page[8:12], "big"))
    return sorted(leaves if kind == "leaf" else interior)


def destroy(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for number in pages:
            file.seek((number - 1) * PAGE)
            file.write(b"\xff" * PAGE)


def queues(path: Path) -> dict[str, list[tuple[int, str]]]:
    db = MessageDb.open(path)
    found = {name: [(one.position, one.body.decode()) for one in waiting(db, name)] for name in ("a", "b")}
    db.close()
    return found


def test_a_sound_database_is_left_as_it_is(path: Path) -> None:
    filled(path, 30)
    before = path.read_bytes()

    assert make_sound(path, NOW_S) is None
    assert path.read_bytes() == before


def test_no_database_yet_is_sound(path: Path) -> None:
    assert make_sound(path, NOW_S) is None
    assert read_ledger(path).total == Totals()


def test_the_rest_of_a_damaged_database_goes_on_in_order_and_the_loss_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    before = queues(path)
    old = read_ledger(path)
    leaves = pages_of(path, "bodies")
    destroy(path, leaves[len(leaves) // 2])
    damaged = path.read_bytes()

    epoch = make_sound(path, NOW_S)

    after = queues(path)
    for name in ("a", "b"):
        kept = set(after[name])
        assert [one for one in before[name] if one in kept] == after[name]  # nothing else, and in order
    waited = sum(len(queue) for queue in before.values())
    salvaged = sum(len(queue) for queue in after.values())
    assert 0 < waited - salvaged < 40
    quarantine = path.parent / f"hub.db-quarantine-{STAMP}"
    assert epoch is not None
    assert (epoch.number, epoch.salvaged, epoch.lost) == (2, salvaged, waited - salvaged)
    assert epoch.quarantine == str(quarantine)
    assert (quarantine / "hub.db").read_bytes() == damaged
    assert f"{salvaged} salvaged, {waited - salvaged} lost" in caplog.text
    ledger = read_ledger(path)
    assert ledger.epoch == epoch
    assert ledger.imbalances() == []
    assert ledger.endpoints["a"] == EndpointLedger(accepted=len(after["a"]), pending=len(after["a"]))
    assert old.endpoints["a"].pending == len(before["a"])
    db = MessageDb.open(path)
    assert db.sessions() == {"edge/a": b"session"}
    assert append(db, message("new", to("a"))) > COUNT  # no number is given twice
    with db.transaction():
        assert db.expire(NOW_S + 7200, 100_000) == {name: len(after[name]) for name in ("a", "b")}
    db.close()


def salvage_after(path: Path, damage: Callable[[], None]) -> Epoch:
    damage()
    epoch = make_sound(path, NOW_S)
    assert epoch is not None
    assert read_ledger(path).imbalances() == []
    return epoch


def test_of_rows_with_many_messages_only_the_damaged_ones_are_lost(path: Path) -> None:
    db = MessageDb.open(path)
    match = (Match("a", DEFAULT_PRIORITY, None),)
    for batch in range(40):
        with db.transaction():
            db.append(
                [Segment(match, (b"h",), tuple((0, b"%05d" % (batch * 100 + n)) for n in range(100)))], NOW_S
            )
    with db.transaction():
        db.delivered({"a": [(positions(waiting(db, "a"))[50], positions(waiting(db, "a"))[149])]})
    db.close()

    epoch = salvage_after(path, lambda: destroy(path, pages_of(path, "bodies")[3]))

    assert epoch.lost is not None
    assert epoch.lost % 50 == 0
    assert 0 < epoch.lost <= 600
    db = MessageDb.open(path)
    found = [int(body) for body in bodies(waiting(db, "a"))]
    db.close()
    assert found == sorted(found)
    assert len(found) == epoch.salvaged == 3900 - epoch.lost
    assert not set(range(50, 150)) & set(found)


def test_without_the_queue_all_that_waited_is_counted_as_lost(path: Path) -> None:
    filled(path, 300)
    expected = sum(row.pending for row in read_ledger(path).endpoints.values())

    epoch = salvage_after(path, lambda: destroy(path, *pages_of(path, "queue")))

    assert (epoch.salvaged, epoch.lost) == (0, expected)


def test_without_the_ledger_messages_go_on_and_the_loss_is_unknown(path: Path) -> None:
    filled(path, 300)
    before = queues(path)

    epoch = salvage_after(path, lambda: destroy(path, *pages_of(path, "ledger")))

    assert epoch.lost is None
    assert queues(path) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(os.urandom(50_000)), id="random bytes"),
        pytest.param(lambda path: destroy(path, 1), id="the first page"),
        pytest.param(lambda path: os.truncate(path, 5 * PAGE), id="cut off"),
        pytest.param(lambda path: path.write_bytes(b"SQLite format 3\0"), id="a header alone"),
    ],
)
def test_whatever_is_left_the_hub_has_a_database_again(path: Path, damage: Callable[[Path], object]) -> None:
    filled(path, 300)

    epoch = salvage_after(path, lambda: (damage(path), None)[1])

    assert epoch.number == 2
    db = MessageDb.open(path)
    append(db, message("x", to("a")))
    db.close()


def test_damage_in_many_places_loses_only_what_is_there(path: Path) -> None:
    filled(path)
    before = queues(path)
    leaves = pages_of(path, "bodies")
    chosen = random.Random(3).sample(leaves, 20)

    epoch = salvage_after(path, lambda: destroy(path, *chosen))

    after = queues(path)
    assert epoch.lost is not None
    assert sum(map(len, before.values())) - sum(map(len, after.values())) == epoch.lost
    assert epoch.lost < 20 * 12 * 2
    assert set(after["a"]) < set(before["a"])


def test_damage_above_the_leaves_is_gone_around(path: Path) -> None:
    filled(path, 12_000)
    _, *others = sorted(pages_of(path, "bodies", "interior"))
    assert others

    epoch = salvage_after(path, lambda: destroy(path, others[-1]))

    assert epoch.salvaged > 0
    assert epoch.lost


def test_damage_that_was_found_while_running_is_salvaged_at_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKED_WHOLE_BYTES", 0)  # as for a large file
    filled(path, 200)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE bodies SET data = x'c1' WHERE first_seq = 150")
    connection.commit()
    connection.close()
    db = MessageDb.open(path)
    with pytest.raises(StoreDamaged):
        waiting(db, "b")
    db.close()

    epoch = make_sound(path, NOW_S)

    assert epoch is not None
    assert "messages from 150 on are not what was stored" in epoch.reason
    assert epoch.lost in (1, 2)
    assert make_sound(path, NOW_S) is None


@pytest.mark.parametrize("is_seen_at_the_start", [False, True], ids=["large: when read", "at the start"])
def test_messages_in_which_a_bit_flipped_are_lost_and_counted_and_the_others_go_on(
    path: Path,
    is_seen_at_the_start: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db = MessageDb.open(path)
    for first in range(1, 1001, 50):
        append(db, *(message(text(number), to("a", "b")) for number in range(first, first + 50)))
    db.close()
    content = bytearray(path.read_bytes())
    for first in (101, 751):
        places = (content.find(text(number).encode()) for number in range(first, first + 50))
        content[next(place for place in places if place >= 0) + 7] ^= 1  # of one that is whole on a page
    path.write_bytes(content)
    if not is_seen_at_the_start:
        monkeypatch.setattr(sqlite_file, "CHECKED_WHOLE_BYTES", 0)
        assert make_sound(path, NOW_S) is None
        db = MessageDb.open(path)
        with pytest.raises(StoreDamaged, match="messages from 101 on are not what was stored"):
            waiting(db, "b")
        db.close()

    epoch = make_sound(path, NOW_S)

    assert epoch is not None
    assert (epoch.salvaged, epoch.lost) == (2 * 900, 2 * 100)
    assert "checksum differs: 2 of its rows of messages, the first one from message 101 on" in caplog.text
    kept = [text(number) for number in range(1, 1001) if (number - 1) // 50 not in (2, 15)]
    assert [[body for _, body in queue] for queue in queues(path).values()] == [kept, kept]
    assert read_ledger(path).imbalances() == []


def test_a_damaged_database_of_an_earlier_release_is_salvaged_and_migrated(path: Path) -> None:
    filled(path, 300)
    before = queues(path)
    make_older(path, 2)
    message_schema.condemn(path, "damaged")

    epoch = make_sound(path, NOW_S)

    assert epoch is not None
    assert epoch.lost == 0
    assert queues(path) == before


@pytest.mark.parametrize("seed", range(20))
def test_wherever_a_bit_flips_no_message_is_delivered_that_was_not_sent(path: Path, seed: int) -> None:
    db = MessageDb.open(path)
    for first in range(0, 200, 40):
        append(db, *(message(text(number), to("a", "b")) for number in range(first, first + 40)))
    db.close()
    sent = {name: set(queue) for name, queue in queues(path).items()}
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    content[chance.randrange(PAGE, len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)

    make_sound(path, NOW_S)
    found = queues(path)

    for name, queue in found.items():
        assert {text for _, text in queue} <= {text for _, text in sent[name]}
    assert read_ledger(path).imbalances() == []


def put_counts_back(path: Path, next_seq: int) -> None:
    """Let the counts be those of an earlier moment, as after a disk that lost a page it had synced."""
    connection = sqlite3.connect(path)
    ((value,),) = connection.execute("SELECT value FROM ledger WHERE key = 'total'").fetchall()
    total = msgpack.unpackb(value) | {"next_seq": next_seq}
    connection.execute("UPDATE ledger SET value = ? WHERE key = 'total'", (msgpack.packb(total),))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "next_seq",
    [
        pytest.param(101, id="at the first message of a row"),
        pytest.param(150, id="inside of a row, which no constraint would find"),
        pytest.param(200, id="at the last message"),
        pytest.param(1, id="at the beginning"),
    ],
)
def test_counts_behind_the_messages_are_damage_that_costs_no_message(
    path: Path, next_seq: int, caplog: pytest.LogCaptureFixture
) -> None:
    db = MessageDb.open(path)
    for first in (1, 101):
        append(db, *(message(text(number), to("a")) for number in range(first, first + 100)))
    db.close()
    put_counts_back(path, next_seq)

    epoch = make_sound(path, NOW_S)

    assert epoch is not None
    assert (epoch.salvaged, epoch.lost) == (200, 0)
    assert f"its counts end before message {next_seq}, its messages with 200" in caplog.text
    db = MessageDb.open(path)
    assert append(db, message("new", to("a"))) == 201
    assert bodies(waiting(db, "a")) == [text(number) for number in range(1, 201)] + ["new"]
    db.close()
    assert read_ledger(path).imbalances() == []
    assert make_sound(path, NOW_S) is None


@pytest.mark.parametrize("table", ["bodies", "held", "queue"])
def test_tables_that_do_not_fit_each_other_are_salvaged_at_the_next_start_and_not_refused_for_ever(
    path: Path, table: str
) -> None:
    db = MessageDb.open(path)
    append(db, message("1", to("a")))
    blank = {"bodies": "2, x''", "held": "2, 1", "queue": "key + 1, 1, 2, NULL"}[table]
    source = " FROM queue" if table == "queue" else ""
    columns = {"bodies": "first_seq, data", "held": "first_seq, left"}.get(table)
    into = f"{table} ({columns})" if columns else table
    db._connection.execute(f"INSERT INTO {into} SELECT {blank}{source}")

    with pytest.raises(StoreDamaged, match=f"UNIQUE constraint failed: {table}"):
        append(db, message("2", to("a")))
    db.close()
    epoch = make_sound(path, NOW_S)

    assert epoch is not None
    assert (epoch.salvaged, epoch.lost) == (1, 0)
    assert f"UNIQUE constraint failed: {table}" in epoch.reason
    db = MessageDb.open(path)
    append(db, message("2", to("a")))
    assert bodies(waiting(db, "a")) == ["1", "2"]
    db.close()


def test_damage_twice_counts_on(path: Path) -> None:
    filled(path, 300)
    salvage_after(path, lambda: destroy(path, pages_of(path, "bodies")[0]))

    message_schema.condemn(path, "again")
    epoch = make_sound(path, NOW_S + 60)

    assert epoch is not None
    assert (epoch.number, epoch.reason, epoch.lost) == (3, "again", 0)
    assert len(list(path.parent.glob("hub.db-quarantine-*"))) == 2


STEPS = ("rename", "unlink")


class Crash(BaseException):
    """The process was killed."""


@pytest.mark.parametrize("at", range(9))
def test_a_crash_at_any_step_of_a_salvage_only_costs_time(
    path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 300)
    before = queues(path)
    db = MessageDb.open(path)
    append(db, message("in the log", to("a")))
    shutil.copytree(path.parent, path.parent / "killed")  # with its log, which a clean end would fold in
    db.close()
    path = path.parent / "killed" / "hub.db"
    message_schema.condemn(path, "damaged")
    steps = iter(range(100))

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def step(*arguments: object, **options: object) -> None:
            if next(steps) == at:
                raise Crash
            real(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(message_salvage.os, "rename", counted(os.rename))
        patch.setattr(message_salvage, "sync_folder", counted(message_salvage.sync_folder))
        try:
            make_sound(path, NOW_S)
        except Crash:
            pass
    make_sound(path, NOW_S)

    after = queues(path)
    assert after["b"] == before["b"]
    assert [body for _, body in after["a"] if len(body) == BODY] == [body for _, body in before["a"]]
    assert len(after["a"]) == len(before["a"]) + 1
    assert read_ledger(path).epoch.number == 2
    assert not message_schema.marker_of(path).exists()


def test_a_salvage_without_space_is_refused_and_the_file_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 300)
    message_schema.condemn(path, "damaged")

    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(message_salvage, "_insert", full)
    with pytest.raises(EnvironmentFault, match="about as much space"):
        make_sound(path, NOW_S)
    monkeypatch.undo()

    epoch = make_sound(path, NOW_S)
    assert epoch is not None
    assert epoch.lost == 0


def test_what_is_no_damage_is_not_salvaged(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (text)")
    other.close()

    with pytest.raises(StoreError, match="some other SQLite database"):
        make_sound(path, NOW_S)
    assert path.exists()
