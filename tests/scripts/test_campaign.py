"""A short seeded campaign against a real edge, and that its books find what they are there to find."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench.mqtt_link import Target
from scripts.bench.mqtt_wire import STAMP, BadPacket, PublishReader, packet, string
from scripts.campaign.clients import Consumer, Publisher
from scripts.campaign.run import Report, run
from scripts.campaign.run import _compare as compare

NOWHERE = Target("127.0.0.1", 1)


class Wire:
    """In the place of a connection."""

    unsent = b""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes | memoryview) -> None:
        self.written += bytes(data)


def delivery(publisher: int, sequence: int) -> bytes:
    return packet(0x32, string("t") + b"\0\1" + STAMP.pack(sequence, publisher, 0))


def books(acknowledged: int, *received: int) -> Report:
    publisher = Publisher(NOWHERE, dict, "t", 1, 100.0)
    publisher.acknowledged = acknowledged
    consumer, report = Consumer(NOWHERE, dict), Report(seed=0)
    for sequence in received:
        consumer._received(Wire(), delivery(1, sequence))  # type: ignore[arg-type]
    compare([publisher], consumer, report)
    return report


def test_nothing_acknowledged_is_lost_when_agent_and_hub_are_killed_again_and_again(tmp_path: Path) -> None:
    report = run(kills=12, seed=2024, folder=tmp_path)

    print(report.text())
    assert report.problems == [], report.text()
    assert sum(report.kills.values()) == 12
    assert min(report.kills[target] for target in ("agent", "hub", "both")) > 0
    assert report.acknowledged > 1000
    assert report.lost == 0
    assert report.received >= report.acknowledged


def test_books_that_agree_show_no_problem() -> None:
    report = books(3, 1, 2, 3, 4)

    assert report.problems == []
    assert (report.acknowledged, report.received, report.duplicates, report.lost) == (3, 4, 0, 0)


def test_an_acknowledged_message_that_never_came_is_a_loss() -> None:
    report = books(4, 1, 3)

    assert report.lost == 2
    assert report.problems == ["publisher 1: 2 acknowledged messages never came, the first is 2"]


def test_a_message_that_comes_again_is_a_duplicate_and_no_change_of_order() -> None:
    report = books(3, 1, 2, 3, 2, 3)

    assert (report.duplicates, report.problems) == (2, [])


def test_a_message_that_comes_for_the_first_time_after_a_later_one_is_told() -> None:
    report = books(3, 1, 3, 2)

    assert report.problems == ["publisher 1: 3 came before 2"]


def test_a_publisher_sends_again_in_order_what_was_not_acknowledged() -> None:
    publisher = Publisher(NOWHERE, dict, "t", 1, 1e9)
    first, second = Wire(), Wire()
    publisher._connected(first, b"")  # type: ignore[arg-type]
    publisher._turn(first)  # type: ignore[arg-type]
    publisher._received(first, b"\x40\x02\x00\x01\x40\x02\x00\x02\x40")  # type: ignore[arg-type]
    assert (publisher.acknowledged, publisher.sent) == (2, 200)

    publisher._connected(second, b"")  # type: ignore[arg-type]
    publisher._turn(second)  # type: ignore[arg-type]

    rows, _ = PublishReader().receive(second.written)
    assert [(packet_id, sequence) for packet_id, sequence, _, _ in rows[:3]] == [(3, 3), (4, 4), (5, 5)]
    assert publisher.sent_again == 198


def test_an_acknowledgement_out_of_turn_is_a_broken_promise() -> None:
    publisher = Publisher(NOWHERE, dict, "t", 1, 1e9)
    publisher._connected(Wire(), b"")  # type: ignore[arg-type]

    with pytest.raises(BadPacket, match="not the PUBACK of 1"):
        publisher._received(Wire(), b"\x40\x02\x00\x02")  # type: ignore[arg-type]
