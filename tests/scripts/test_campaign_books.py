"""The books of publishers, consumers and disks find what they are there to find."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.stored import DEFAULT_PRIORITY, EndpointLedger, Ledger, Match, Segment, Totals, position_of
from runtime.message_db import MessageDb
from scripts.bench.mqtt_link import Target
from scripts.bench.mqtt_wire import STAMP, BadPacket, PublishReader, packet, string
from scripts.campaign.books import Findings, add_clients, compare
from scripts.campaign.clients import TURNS, Consumer, Key, Publisher, output_of
from scripts.campaign.power import Arrived, Cut, look_into
from scripts.campaign.scenario import Kill, Load, RouteOfLoad, Scenario, Spread, Step

NOWHERE = Target("127.0.0.1", 1)
ENDPOINT = "edge1/near/in1"
BRIEF_TTL_S = 1


def scenario(*, brief: bool = False) -> Scenario:
    """Return one output into one consumer; with `brief`, a second one that expires."""
    routes = {"lasting": RouteOfLoad("a", "near")}
    if brief:
        routes["brief"] = RouteOfLoad("b", "near", ttl_s=BRIEF_TTL_S)
    step = Step(Spread(1.0), 1, Kill(("hub",), 1.0))
    return Scenario("test", "", routes, Load(1, 1.0, {"near": None}), step, {}, ())


class Socket:
    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 40_000


class Wire:
    """In the place of a connection."""

    unsent = b""
    socket = Socket()

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes | memoryview) -> None:
        self.written += bytes(data)


def delivery(publisher: int, sequence: int) -> bytes:
    return packet(0x32, string("t") + b"\0\1" + STAMP.pack(sequence, publisher, 0))


def publisher(outputs: Sequence[str] = ("t",)) -> Publisher:
    return Publisher(NOWHERE, dict, outputs, 1, 1e9)


def connected(consumer: Any, *received: int) -> None:
    """Let messages of publisher 1 come over one connection."""
    wire = Wire()
    consumer._connected(wire, b"")
    for sequence in received:
        consumer._received(wire, delivery(1, sequence))


def books(
    acknowledged: int,
    *connections: Sequence[int],
    again: Sequence[tuple[int, int]] = (),
    window: int = 3000,
    brief: bool = False,
    expired: int = 0,
    row: Mapping[str, int] | None = None,
) -> Findings:
    """Compare what a publisher knows with what came over each connection of its only consumer."""
    of_load = scenario(brief=brief)
    sender = publisher(of_load.outputs)
    sender.acknowledged = acknowledged
    sender.again = list(again)
    consumer = Consumer(NOWHERE, dict, outputs=len(of_load.outputs), window=window)
    for received in connections:
        connected(consumer, *received)
    delivered = sum(map(len, connections))
    counts = EndpointLedger(
        **(row or {"accepted": delivered + expired, "delivered": delivered, "expired": expired})
    )
    ledger = Ledger(Totals(counts.accepted, 0, counts.accepted), {ENDPOINT: counts})
    findings = Findings("test", 0)
    compare(findings, of_load, [sender], {"near": consumer}, ledger)
    add_clients(findings, [sender], {"near": consumer})
    return findings


def test_books_that_agree_show_no_problem() -> None:
    findings = books(3, [1, 2, 3, 4])

    assert (findings.acknowledged, findings.received, findings.lost) == (3, 4, 0)
    assert (findings.duplicates, findings.out_of_order, findings.imbalances, findings.details) == (
        0,
        0,
        0,
        [],
    )


def test_an_acknowledged_message_that_never_came_is_a_loss() -> None:
    findings = books(4, [1, 3])

    assert findings.lost == 2
    assert findings.details == [
        "near: 2 acknowledged messages are gone, the first is number 2 of publisher 1"
    ]


def test_what_came_over_an_earlier_connection_may_be_delivered_again() -> None:
    findings = books(3, [1, 2, 3], [2, 3], [3])

    assert (findings.redelivered, findings.duplicates, findings.out_of_order) == (3, 0, 0)


def test_what_comes_twice_over_one_connection_has_no_reason() -> None:
    findings = books(3, [1, 2, 3, 2])

    assert (findings.redelivered, findings.duplicates) == (0, 1)
    assert "number 2 of publisher 1 came 1 times more" in findings.details[0]


def test_what_is_older_than_the_window_may_not_be_delivered_again() -> None:
    assert books(4, [1, 2, 3, 4], [3, 4], window=2).duplicates == 0
    assert books(4, [1, 2, 3, 4], [2, 3, 4], window=2).duplicates == 1


def test_what_a_publisher_sent_again_may_be_stored_twice_and_both_be_delivered_again() -> None:
    findings = books(3, [1, 2, 2, 3], [2, 2, 3], again=[(2, 2)])

    assert (findings.stored_twice, findings.redelivered, findings.duplicates) == (1, 3, 0)
    assert books(3, [1, 2, 2, 2, 3], again=[(2, 2)]).duplicates == 1


def test_a_message_that_comes_for_the_first_time_after_a_later_one_is_told() -> None:
    findings = books(3, [1, 3, 2])

    assert findings.out_of_order == 1
    assert findings.details == ["near: publisher 1: 3 came before 2"]


def test_messages_of_different_outputs_may_overtake_each_other() -> None:
    findings = books(TURNS + 1, [TURNS + 1, *range(1, TURNS + 1)], brief=True)

    assert (findings.out_of_order, findings.lost) == (0, 0)


def test_a_message_that_expired_is_no_loss_as_long_as_the_ledger_has_it() -> None:
    lasting = list(range(1, TURNS + 1))

    assert books(TURNS + 3, lasting, brief=True, expired=3).lost == 0
    assert books(TURNS + 3, lasting, brief=True, expired=2).lost == 1
    assert books(TURNS + 3, lasting[1:], brief=True, expired=4).lost == 1
    row = {"accepted": 13, "delivered": 10, "expired": 2, "pending": 1}
    assert books(TURNS + 3, lasting, brief=True, row=row).lost == 0
    assert books(TURNS + 4, lasting, brief=True, row=row).lost == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"accepted": 3, "delivered": 2}, "accepted 3 is not"),
        ({"accepted": 3, "delivered": 3}, "3 delivered to near, which took 2"),
        ({"accepted": 3, "delivered": 2, "expired": 1}, "1 messages for near expired, which have no time"),
        ({"accepted": 2, "delivered": 1, "dropped": 1}, "1 messages for near dropped"),
    ],
    ids=["equation", "delivered", "expired", "dropped"],
)
def test_a_ledger_that_is_not_right_is_told(row: dict[str, int], problem: str) -> None:
    findings = books(2, [1, 2], row=row)

    assert findings.imbalances > 0
    assert any(problem in detail for detail in findings.details)


def test_a_publisher_sends_again_in_order_what_was_not_acknowledged() -> None:
    sender: Any = publisher()
    first, second = Wire(), Wire()
    sender._connected(first, b"")
    sender._turn(first)
    sender._received(first, b"\x40\x02\x00\x01\x40\x02\x00\x02\x40")
    assert (sender.acknowledged, sender.sent) == (2, 50)

    sender._connected(second, b"")
    sender._turn(second)

    rows, _ = PublishReader().receive(second.written)
    assert [(packet_id, sequence) for packet_id, sequence, _, _ in rows[:3]] == [(3, 3), (4, 4), (5, 5)]
    assert sender.again == [(3, 50)]
    assert sender.links == [(40_000, 1), (40_000, 3)]


def test_a_publisher_sends_on_its_outputs_in_turn() -> None:
    sender: Any = publisher(["one", "two"])
    wire = Wire()
    sender._connected(wire, b"")

    sender._turn(wire)

    assert [output_of(sequence, 2) for sequence in (1, TURNS, TURNS + 1, 2 * TURNS + 1)] == [0, 0, 1, 0]
    assert (wire.written.count(b"one"), wire.written.count(b"two")) == (30, 20)


def test_an_acknowledgement_out_of_turn_is_a_broken_promise() -> None:
    sender: Any = publisher()
    sender._connected(Wire(), b"")

    with pytest.raises(BadPacket, match="not the PUBACK of 1"):
        sender._received(Wire(), b"\x40\x02\x00\x02")


# Disks after a power cut.


def image_of(tmp_path: Path, *sequences: int, delivered: Sequence[int] = ()) -> dict[str, bytes]:
    """Return the database of a store that took messages of publisher 1, and delivered some again."""
    path = tmp_path / "hub.db"
    store = MessageDb.open(path)
    match = Match(ENDPOINT, DEFAULT_PRIORITY, None)
    with store.transaction():
        entries = tuple((0, STAMP.pack(sequence, 1, 0)) for sequence in sequences)
        first = store.append([Segment((match,), (b"header",), entries)], 1000.0)
    with store.transaction():
        positions = [position_of(DEFAULT_PRIORITY, first + sequences.index(one)) for one in delivered]
        store.delivered({ENDPOINT: [(position, position) for position in positions]})
    store.close()
    return {"hub.db": path.read_bytes()}


def looked(
    tmp_path: Path, image: Mapping[str, bytes], *, acknowledged: int, arrived: Sequence[int] = ()
) -> Findings:
    sender = publisher()
    sender.sent = 10
    findings = Findings("test", 0)
    cut = Cut(0.0, image, {1: acknowledged})
    had: set[Key] = {(1, sequence) for sequence in arrived}
    for seed in range(2):  # with and without nonsense in the place of the shared memory
        look_into(
            cut,
            tmp_path / "image",
            scenario(),
            [sender],
            {"near": had},
            {"near": len(had)},
            findings,
            random.Random(seed),
        )
    assert not (tmp_path / "image").exists()
    return findings


def test_a_disk_has_what_was_acknowledged_and_not_delivered(tmp_path: Path) -> None:
    findings = looked(
        tmp_path, image_of(tmp_path, 1, 2, 3, 4, delivered=[1, 2]), acknowledged=3, arrived=[1, 2]
    )

    assert (findings.images, findings.waiting, findings.lost, findings.details) == (2, 4, 0, [])
    assert (findings.out_of_order, findings.imbalances, findings.failures) == (0, 0, [])
    assert sorted(path.name for path in tmp_path.glob("disk-*")) == []


def test_a_disk_without_an_acknowledged_message_is_a_loss_and_kept(tmp_path: Path) -> None:
    image = image_of(tmp_path, 1, 3)

    findings = looked(tmp_path, image, acknowledged=4)

    assert findings.lost == 2 * 2
    assert findings.details[0] == (
        "disk 1, near: 2 acknowledged messages are gone, the first is number 2 of publisher 1"
    )
    assert (tmp_path / "disk-1" / "hub.db").read_bytes() == image["hub.db"]


def test_a_message_deleted_before_its_consumer_took_it_is_a_loss(tmp_path: Path) -> None:
    findings = looked(tmp_path, image_of(tmp_path, 1, 2, delivered=[1]), acknowledged=2)

    assert findings.lost == 2
    assert findings.imbalances == 2


def test_messages_that_wait_in_the_wrong_order_are_told(tmp_path: Path) -> None:
    findings = looked(tmp_path, image_of(tmp_path, 1, 3, 2, 3), acknowledged=3)

    assert findings.out_of_order == 2
    assert findings.lost == 0


def test_a_disk_that_cannot_be_opened_has_lost_everything(tmp_path: Path) -> None:
    findings = looked(tmp_path, {"hub.db": b"no database" * 1000}, acknowledged=3, arrived=[1])

    assert findings.lost == 2 * 2


def test_an_empty_disk_is_right_as_long_as_nothing_was_acknowledged(tmp_path: Path) -> None:
    assert looked(tmp_path, {}, acknowledged=0).lost == 0
    assert looked(tmp_path, {}, acknowledged=1).lost == 2


def test_a_disk_with_a_message_that_nobody_sent_is_told(tmp_path: Path) -> None:
    findings = looked(tmp_path, image_of(tmp_path, 11), acknowledged=0)

    assert findings.failures == [
        "disk 1, near: holds what was never sent",
        "disk 2, near: holds what was never sent",
    ]


def test_what_a_consumer_had_grows_with_the_time_of_the_cut() -> None:
    consumer = Consumer(NOWHERE, dict)
    consumer.acknowledgements = [(1.0, ((1, 1), (1, 2))), (2.0, ((1, 2),)), (3.0, ((1, 3),))]
    arrived = Arrived({"near": consumer})

    assert arrived.by(0.5) == {"near": set()}
    assert arrived.by(2.0) == {"near": {(1, 1), (1, 2)}}
    assert arrived.copies == {"near": 3}
    assert arrived.by(float("inf")) == {"near": {(1, 1), (1, 2), (1, 3)}}


def test_what_has_a_higher_priority_pushes_nothing_out_of_the_window() -> None:
    consumer = Consumer(NOWHERE, dict, outputs=2, window=TURNS)
    low, high = range(1, TURNS + 1), range(TURNS + 1, 2 * TURNS + 1)

    connected(consumer, *low, *high)
    connected(consumer, *low)

    assert (consumer.redelivered, consumer.repeated.total()) == (TURNS, 0)


def test_only_so_many_details_are_kept() -> None:
    findings = Findings("test", 0)
    for number in range(100):
        findings.note(str(number))

    assert len(findings.details) == 20
    assert dataclasses.asdict(findings)["details"][0] == "0"
