"""Disks of other moments of a life: what is wrong with one is found, and only that."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.store.stored import DEFAULT_PRIORITY, Match, Segment, position_of
from runtime.faults import moments, schema
from runtime.faults.books import Books
from runtime.faults.findings import Findings
from runtime.faults.stamps import Key, body_of
from runtime.home import Home
from runtime.storage.message_db import MessageDb

SCRIPT = """\
version: 1
about: One route.
edge:
  routes:
    all: {output: out, into: near}
    up: {output: out, into: $upstream}
load:
  rate: 10/s
  consumers: {near: always}
steps:
  - {at: 1 s, fault: power cut, moments: 3}
expect:
  lost: 0
"""
ENDPOINT = "edge1/near/all"
SENT = 10
CUT_S = 100.0


def body(sequence: int) -> bytes:
    return body_of(Key(1, 0, sequence), 64)


def image_of(folder: Path, *sequences: int, delivered: Sequence[int] = ()) -> dict[str, bytes]:
    """Return the database of a store that took messages of publisher 1, and delivered some of them."""
    path = folder / "hub.db"
    store = MessageDb.open(path)
    with store.transaction():
        segment = Segment(
            (Match(ENDPOINT, DEFAULT_PRIORITY, None),), (b"header",), tuple((0, body(n)) for n in sequences)
        )
        first = store.append([segment], 1000.0)
    with store.transaction():
        positions = [position_of(DEFAULT_PRIORITY, first + sequences.index(one)) for one in delivered]
        store.delivered({ENDPOINT: [(position, position) for position in positions]})
    store.close()
    return {"hub.db": path.read_bytes(), "keys.json": b"not of the store"}


def looked(
    folder: Path, image: Mapping[str, bytes], *, told: Sequence[int], arrived: Sequence[int] = ()
) -> Findings:
    """Look into a disk twice: with and without nonsense in the place of the shared memory."""
    path = folder / "script.yaml"
    path.write_text(SCRIPT, encoding="utf-8")
    books = Books()
    for sequence in arrived:
        books.note(Key(1, 0, sequence))
    books.mark(CUT_S)
    findings = Findings("test", 0)
    scene = SimpleNamespace(
        findings=findings,
        folder=folder,
        edge=SimpleNamespace(place=Home(folder / "home")),
        scenario=schema.load(path),
        publishers=[SimpleNamespace(number=1, sent=SENT, told=[(CUT_S, [n]) for n in told])],
        consumers={"near": SimpleNamespace(books={"all": books})},
    )
    for seed in range(2):
        moments.look_into(scene, image, CUT_S, random.Random(seed))  # type: ignore[arg-type]
    return findings


def test_a_disk_has_what_was_told_to_be_stored_and_has_not_arrived(tmp_path: Path) -> None:
    image = image_of(tmp_path, 1, 2, 3, 4, delivered=[1, 2])

    findings = looked(tmp_path, image, told=[1, 2, 3], arrived=[1, 2])

    assert (findings.moments, findings.waiting, findings.lost, findings.details) == (2, 4, 0, [])
    assert (findings.out_of_order, findings.imbalances, findings.failures) == (0, [], [])
    assert list(tmp_path.glob("disk-*")) == []


def test_a_disk_without_a_message_that_was_told_to_be_stored_is_a_loss_and_kept(tmp_path: Path) -> None:
    image = image_of(tmp_path, 1, 3)

    findings = looked(tmp_path, image, told=[1, 2, 3, 4])

    assert findings.lost == 2 * 2
    assert findings.details[0] == (
        "disk-1, route all: of 4 acknowledged messages 2 are gone and the ledger excuses 0: number 2 of "
        "publisher 1"
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "disk-1").iterdir()} == {
        "hub.db": image["hub.db"]
    }


def test_a_message_that_is_deleted_before_its_consumer_had_it_is_a_loss(tmp_path: Path) -> None:
    findings = looked(tmp_path, image_of(tmp_path, 1, 2, delivered=[1]), told=[1, 2])

    assert findings.lost == 2
    assert findings.imbalances == [f"disk-{n}, all: 1 delivered, and 0 arrived" for n in (1, 2)]


def test_messages_that_wait_in_the_wrong_order_are_told(tmp_path: Path) -> None:
    findings = looked(tmp_path, image_of(tmp_path, 1, 3, 2, 3), told=[1, 2, 3])

    assert findings.out_of_order == 2
    assert findings.details[0] == "disk-1, route all: 3 waits before 2 of publisher 1"
    assert findings.lost == 0


def test_what_arrived_and_waits_again_has_no_place_in_the_order(tmp_path: Path) -> None:
    assert looked(tmp_path, image_of(tmp_path, 2, 3, 1), told=[1, 2, 3], arrived=[1]).out_of_order == 0


def test_a_disk_that_cannot_be_opened_breaks_the_ledger(tmp_path: Path) -> None:
    findings = looked(tmp_path, {"hub.db": b"no database" * 1000}, told=[1])

    assert len(findings.imbalances) == 2
    assert all("disk-" in what for what in findings.imbalances)


def test_an_empty_disk_is_right_as_long_as_nobody_was_told_anything(tmp_path: Path) -> None:
    assert looked(tmp_path, {}, told=[]).lost == 0
    assert looked(tmp_path, {}, told=[1]).lost == 2


def test_a_message_that_nobody_sent_is_told(tmp_path: Path) -> None:
    findings = looked(tmp_path, image_of(tmp_path, SENT + 1), told=[])

    assert findings.failures == [f"disk-{n}, route all: it holds what was never sent" for n in (1, 2)]


@pytest.mark.parametrize(("count", "chosen"), [(0, 0), (3, 3), (20, 8)])
def test_so_many_moments_are_chosen_as_there_are(count: int, chosen: int) -> None:
    ended_s = [float(n) for n in range(8)]

    found = moments.choose(ended_s, [2.5, 90.0], count, random.Random(1))

    assert len(found) == chosen
    assert found <= set(range(8))


def test_half_of_the_moments_are_right_behind_an_acknowledgement() -> None:
    ended_s = [float(n) for n in range(10_000)]
    told_s = [n + 0.5 for n in range(0, 10_000, 100)]

    found = moments.choose(ended_s, told_s, 40, random.Random(1))

    assert 10 <= sum(place % 100 == 1 for place in found) <= 30
