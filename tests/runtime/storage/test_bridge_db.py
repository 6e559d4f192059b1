"""The queues of bridges on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.ports.bridges import QueueState, Waiting
from messaging.broker.bridges import Direction
from messaging.errors import StoreError, StoreFull
from messaging.mqtt.packets import Publish
from runtime.storage import bridge_salvage
from runtime.storage.bridge_db import MESSAGE_BYTES, BridgeDb

OUT, IN = Direction.OUT, Direction.IN


def numbered(*numbers: int) -> list[Publish]:
    return [Publish(f"t/{number}", b"%d" % number, 1) for number in numbers]


def bodies(waiting: list[Waiting]) -> list[bytes]:
    return [one.message.payload for one in waiting]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


@pytest.fixture
def db(path: Path) -> Iterator[BridgeDb]:
    db = BridgeDb.open(path)
    yield db
    db.close()


def test_messages_come_out_as_they_went_in_and_in_order(db: BridgeDb) -> None:
    messages = [Publish("ä/1", b"\0\xff", 1, retain=True), Publish("b", b"", 0), Publish("c", b"x", 1)]

    assert db.append("site", OUT, messages) == 3

    read = db.read("site", OUT, -1, 100)
    assert [one.message for one in read] == messages
    assert [one.number for one in read] == [0, 1, 2]
    assert db.read("site", OUT, 0, 1) == [read[1]]


def test_queues_know_nothing_of_each_other(db: BridgeDb) -> None:
    db.append("site", OUT, numbered(1))
    db.append("site", IN, numbered(2))
    db.append("other", OUT, numbered(3))

    db.forwarded("site", OUT, [0])

    assert bodies(db.read("site", OUT, -1, 9)) == []
    assert bodies(db.read("site", IN, -1, 9)) == [b"2"]
    assert bodies(db.read("other", OUT, -1, 9)) == [b"3"]
    assert set(db.endpoints()) == {"site", "other"}


def test_everything_is_there_after_a_restart(path: Path) -> None:
    db = BridgeDb.open(path)
    db.append("site", OUT, numbered(1, 2, 3))
    db.forwarded("site", OUT, [0])
    db.dropped("site", OUT, 4)
    db.save_held("site", {"a/#": True, "b": False})
    before = db.state("site", OUT)
    db.close()

    db = BridgeDb.open(path)

    assert bodies(db.read("site", OUT, -1, 9)) == [b"2", b"3"]
    assert db.state("site", OUT) == before
    assert db.held("site") == {"a/#": True, "b": False}
    db.append("site", OUT, numbered(4))
    assert bodies(db.read("site", OUT, -1, 9)) == [b"2", b"3", b"4"]
    db.close()


def test_what_was_forwarded_twice_counts_once(db: BridgeDb) -> None:
    db.append("site", OUT, numbered(1, 2))

    db.forwarded("site", OUT, [0, 0])
    db.forwarded("site", OUT, [0])

    state = db.state("site", OUT)
    assert (state.messages, state.forwarded) == (1, 1)
    assert state.bytes == len("t/2") + len(b"2") + MESSAGE_BYTES


def test_a_queue_takes_no_more_bytes_than_it_may_hold(path: Path) -> None:
    db = BridgeDb.open(path, max_bytes=3 * (len("t/1") + 1 + MESSAGE_BYTES))

    assert db.append("site", OUT, numbered(1, 2, 3, 4)) == 3
    assert db.append("site", OUT, numbered(5)) == 0
    db.forwarded("site", OUT, [0])
    assert db.append("site", OUT, numbered(6, 7)) == 1
    assert bodies(db.read("site", OUT, -1, 9)) == [b"2", b"3", b"6"]
    assert db.append("site", IN, numbered(8)) == 1, "each direction has room of its own"
    db.close()


def test_a_queue_takes_no_more_messages_than_it_may_hold(path: Path) -> None:
    db = BridgeDb.open(path, max_messages=2)

    assert db.append("site", OUT, numbered(1, 2, 3)) == 2
    db.close()


def test_what_is_forgotten_of_a_bridge_is_gone(db: BridgeDb) -> None:
    db.append("site", OUT, numbered(1, 2))
    db.append("site", IN, numbered(3))
    db.append("other", OUT, numbered(4))
    db.save_held("site", {"a": True})

    assert db.forget("site") == 3

    assert db.endpoints() == ("other",)
    assert db.held("site") == {}
    assert db.state("site", OUT) == QueueState()
    db.append("site", OUT, numbered(5))
    assert bodies(db.read("site", OUT, -1, 9)) == [b"5"]


def test_a_batch_is_kept_whole_or_not_at_all_when_the_disk_is_full(db: BridgeDb) -> None:
    db.append("site", OUT, numbered(1))
    [(pages,)] = db._connection.execute("PRAGMA page_count").fetchall()
    db._connection.execute(f"PRAGMA max_page_count={pages + 4}")

    with pytest.raises(StoreFull, match="no space left to store messages"):
        db.append("site", OUT, [Publish("t", bytes(1000), 1) for _ in range(100)])

    assert bodies(db.read("site", OUT, -1, 9)) == [b"1"]
    assert db.state("site", OUT).messages == 1
    db.forwarded("site", OUT, [0])
    assert db.append("site", OUT, numbered(2)) == 1


def damage(path: Path, pages: range) -> None:
    """Overwrite pages of the file."""
    content = bytearray(path.read_bytes())
    for page in pages:
        content[4096 * page : 4096 * (page + 1)] = b"\xff" * 4096
    path.write_bytes(content)


def filled(path: Path) -> None:
    """Make a file of some 120 pages, nearly all of them messages."""
    db = BridgeDb.open(path)
    for first in range(0, 300, 50):
        db.append("site", OUT, [Publish("t", b"%4d" % n + bytes(1000), 1) for n in range(first, first + 50)])
    db.append("other", IN, numbered(1, 2))
    db.forwarded("site", OUT, [0, 1])
    db.dropped("site", OUT, 5)
    db.save_held("site", {"a/#": True})
    db.close()


def test_of_a_damaged_file_is_kept_what_can_be_read_and_the_file_is_put_aside(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    damage(path, range(30, 40))

    db = BridgeDb.open(path)

    kept = [int(body[:4]) for body in bodies(db.read("site", OUT, -1, 1000))]
    assert 200 < len(kept) < 298
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(2, 300))
    assert db.state("site", OUT) == QueueState(len(kept), len(kept) * (1005 + MESSAGE_BYTES), 2, 5)
    assert db.held("site") == {"a/#": True}
    assert f"the {len(kept) + 2} waiting messages that could be read" in caplog.text
    assert "bridge.db-damaged-1" in caplog.text
    assert db.append("site", OUT, numbered(1000)) == 1
    assert bodies(db.read("site", OUT, kept[-1], 9))[-1] == b"1000"
    db.close()
    assert sorted(one.name for one in path.parent.iterdir() if "salvage" in one.name) == []


@pytest.mark.parametrize("pages", [range(1), range(200), range(1, 12)], ids=["head", "all", "tables"])
def test_bridges_start_whatever_is_damaged(
    path: Path, pages: range, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    damage(path, pages)

    db = BridgeDb.open(path)

    assert len(bodies(db.read("site", OUT, -1, 1000))) < 298
    assert "bridge.db-damaged-1" in caplog.text
    assert db.append("site", OUT, numbered(1)) == 1
    db.close()


def test_a_salvage_that_a_crash_has_interrupted_is_gone_on_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    damage(path, range(30, 40))

    def crash(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bridge_salvage.sqlite_file, "put_aside", crash)
        with pytest.raises(KeyboardInterrupt):
            BridgeDb.open(path)
    db = BridgeDb.open(path)

    assert 200 < len(bodies(db.read("site", OUT, -1, 1000))) < 298
    assert path.with_name("bridge.db-damaged-1").exists()
    db.close()


def test_a_file_of_a_newer_release_is_refused(path: Path) -> None:
    BridgeDb.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()

    with pytest.raises(StoreError, match="newer"):
        BridgeDb.open(path)


def test_the_file_is_its_owners_alone(db: BridgeDb, path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0
    [(level,)] = db._connection.execute("PRAGMA synchronous").fetchall()
    assert level == 2, "FULL: what is committed is on disk"


def test_free_space_goes_back_to_the_file_system(db: BridgeDb, path: Path) -> None:
    db.append("site", OUT, [Publish("t", bytes(10_000), 1) for _ in range(200)])
    db.forwarded("site", OUT, range(200))
    [(before,)] = db._connection.execute("PRAGMA page_count").fetchall()

    for _ in range(4):
        db.tidy()

    [(after,)] = db._connection.execute("PRAGMA page_count").fetchall()
    assert after < before / 4
