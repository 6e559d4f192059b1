"""A database of a release with one queue to the cloud: what waits in it goes to queues of its senders."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from actors.store.stored import EndpointLedger, Segment
from messaging import system_properties as names
from messaging.message import encode_header
from messaging.upstream_queues import UPSTREAM, upstream_queue
from runtime.storage.message_db import MessageDb
from runtime.storage.message_ledger import read_ledger
from runtime.storage.message_salvage import make_sound
from runtime.storage.message_schema import condemn
from tests.runtime.message_stores import NOW_S, bodies, make_older, ranges, to, waiting

MODULE = {names.CONNECTION_DEVICE_ID: "edge", names.CONNECTION_MODULE_ID: "a"}
A = encode_header("/messages/modules/a/", {}, MODULE)
LEAF = encode_header("/messages/", {"k": "v"}, {names.CONNECTION_DEVICE_ID: "leaf"})
NOBODY = encode_header("/messages/", {}, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


def old_database(path: Path, *segments: Segment) -> None:
    """Write a database as a release before version 2 left it."""
    db = MessageDb.open(path)
    for one in segments:
        with db.transaction():
            db.append([one], NOW_S)
    db.close()
    make_older(path, 1)


def segment(
    *messages: tuple[bytes, str], endpoints: tuple[str, ...] = (UPSTREAM,), **match: float
) -> Segment:
    headers = tuple(dict.fromkeys(header for header, _ in messages))
    entries = tuple((headers.index(header), body.encode()) for header, body in messages)
    return Segment(tuple(to(*endpoints, **match)), headers, entries)  # type: ignore[arg-type]


def test_each_sender_gets_what_waits_of_it_in_order_of_priority_and_time(path: Path) -> None:
    mixed = segment((A, "a1"), (A, "a2"), (LEAF, "l1"), (A, "a3"), (LEAF, "l2"), (LEAF, "l3"))
    old_database(path, mixed, segment((LEAF, "first"), priority=0), segment((A, "a4")))

    for _ in range(2):
        db = MessageDb.open(path)
        assert bodies(waiting(db, upstream_queue("edge/a"))) == ["a1", "a2", "a3", "a4"]
        assert bodies(waiting(db, upstream_queue("leaf"))) == ["first", "l1", "l2", "l3"]
        assert waiting(db, UPSTREAM) == []
        assert db.ledger().imbalances() == []
        assert db.ledger().endpoints == {UPSTREAM: EndpointLedger(accepted=8, pending=8)}
        db.close()


def test_what_was_done_before_stays_counted_and_what_is_shared_stays_for_the_others(path: Path) -> None:
    both = segment((A, "1"), (LEAF, "2"), (A, "3"), endpoints=(UPSTREAM, "edge/filter/in"))
    old_database(path, both)
    db = MessageDb.open(path)
    first = waiting(db, upstream_queue("edge/a"))[0].position
    with db.transaction():
        db.delivered({upstream_queue("edge/a"): [(first, first)]})
    assert bodies(waiting(db, "edge/filter/in")) == ["1", "2", "3"]
    for name in (upstream_queue("edge/a"), upstream_queue("leaf"), "edge/filter/in"):
        with db.transaction():
            db.delivered({name: ranges(one.position for one in waiting(db, name))})

    assert db._connection.execute("SELECT count(*) FROM bodies").fetchone() == (0,)
    assert db.ledger().endpoints[UPSTREAM] == EndpointLedger(accepted=3, delivered=3)
    db.close()


def test_the_time_to_live_stays(path: Path) -> None:
    old_database(path, segment((A, "1"), (LEAF, "2"), ttl_s=10.0))

    db = MessageDb.open(path)

    assert bodies(waiting(db, upstream_queue("leaf"), now_s=NOW_S + 9)) == ["2"]
    with db.transaction():
        assert db.expire(NOW_S + 10) == {upstream_queue("edge/a"): 1, upstream_queue("leaf"): 1}
    db.close()


@pytest.mark.parametrize("header", [b"\xc1 damaged", NOBODY], ids=["not readable", "names nobody"])
def test_a_message_that_has_no_sender_is_dropped_as_poison_and_told(
    path: Path, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    old_database(path, segment((A, "1"), (header, "?"), (A, "2")), segment((header, "?")))

    db = MessageDb.open(path)

    assert bodies(waiting(db, upstream_queue("edge/a"))) == ["1", "2"]
    assert db.ledger().imbalances() == []
    assert db.ledger().endpoints == {
        UPSTREAM: EndpointLedger(accepted=4, dropped=2, dropped_by_reason={"poison": 2}, pending=2)
    }
    assert db._connection.execute("SELECT count(*) FROM bodies").fetchone() == (1,)
    assert "2 messages to the cloud name no sender" in caplog.text
    db.close()


def test_a_long_backlog_is_moved_whole(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    senders = {number: LEAF if number % 3 == 0 else A for number in range(12_000)}
    every = [(header, str(number)) for number, header in senders.items()]
    old_database(path, *(segment(*every[start : start + 20]) for start in range(0, len(every), 20)))

    with caplog.at_level(logging.INFO):
        db = MessageDb.open(path)

    assert "12000 messages to the cloud were moved" in caplog.text
    for queue, header in ((upstream_queue("leaf"), LEAF), (upstream_queue("edge/a"), A)):
        assert bodies(waiting(db, queue)) == [str(n) for n, sender in senders.items() if sender == header]
    db.close()
    assert read_ledger(path).imbalances() == []


def test_a_damaged_one_is_salvaged_first(path: Path) -> None:
    old_database(path, segment((A, "1"), (LEAF, "2"), (A, "3")))
    condemn(path, "told so")

    epoch = make_sound(path, NOW_S)

    assert epoch is not None
    assert (epoch.salvaged, epoch.lost) == (3, 0)
    db = MessageDb.open(path)
    assert bodies(waiting(db, upstream_queue("edge/a"))) == ["1", "3"]
    assert db.ledger().endpoints == {UPSTREAM: EndpointLedger(accepted=3, pending=3)}
    db.close()
