"""The load generator sees every loss, duplicate and reordering; otherwise its figures would mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import load_clients
from scripts.bench.load_clients import Publisher, Subscriber
from scripts.bench.mqtt_load import Load, summary
from scripts.bench.mqtt_wire import (
    BadPacket,
    JsonPublishBuffer,
    PublishBuffer,
    PublishReader,
    connect,
    frame,
    pubacks,
    subscribe,
)

ROOT = Path(__file__).resolve().parents[2]
PUBLISHER, SENT_NS = 7, 123_456_789


class SilentLink:
    """Takes what a client writes and keeps it."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def publishes(sequences: list[int], *, topic: str = "t/1", publisher: int = PUBLISHER) -> bytes:
    buffer = PublishBuffer(topic, 64, publisher, 1)
    return b"".join(bytes(buffer.fill(range(n + 1, n + 2), n, SENT_NS)) for n in sequences)


def row(sequence: int, publisher: int = PUBLISHER) -> tuple[int, int, int, int]:
    return sequence + 1, sequence, publisher, SENT_NS


def test_connect_is_encoded_as_the_standard_lays_it_out() -> None:
    encoded = connect("c", "u", "p", clean_session=True)

    assert encoded == b"\x10\x13\x00\x04MQTT\x04\xc2\x02\x58\x00\x01c\x00\x01u\x00\x01p"


def test_subscribe_asks_for_qos_1_on_every_filter() -> None:
    assert subscribe(1, ["a", "b/#"]) == b"\x82\x0c\x00\x01\x00\x01a\x01\x00\x03b/#\x01"


def test_a_filled_buffer_holds_whole_publish_packets() -> None:
    buffer = PublishBuffer("t", 24, PUBLISHER, 4)

    filled = bytes(buffer.fill(range(9, 11), 100, SENT_NS))

    stamp = PUBLISHER.to_bytes(8, "big") + SENT_NS.to_bytes(8, "big")
    assert filled == b"".join(
        b"\x32\x1d\x00\x01t" + packet_id.to_bytes(2, "big") + sequence.to_bytes(8, "big") + stamp
        for packet_id, sequence in ((9, 100), (10, 101))
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"\x40", None, id="no length yet"),
        pytest.param(b"\x40\x02\x00", None, id="body incomplete"),
        pytest.param(b"\x40\x02\x00\x01", (2, 4), id="whole"),
        pytest.param(b"\x30\x80", None, id="length incomplete"),
        pytest.param(b"\x30\x80\x01" + bytes(128), (3, 131), id="length of two bytes"),
    ],
)
def test_a_frame_is_found_once_it_is_complete(data: bytes, expected: tuple[int, int] | None) -> None:
    assert frame(data, 0) == expected


def test_a_remaining_length_of_five_bytes_is_refused() -> None:
    with pytest.raises(BadPacket, match="longer than four bytes"):
        frame(b"\x30\x80\x80\x80\x80\x01", 0)


EQUAL = publishes([0, 1, 2, 3])
MIXED = publishes([0]) + publishes([0], topic="another/topic", publisher=8) + publishes([1])
MIXED_ROWS = [row(0), row(0, 8), row(1)]


@pytest.mark.parametrize("step", [1, 7, 80, 1000])
@pytest.mark.parametrize(
    ("data", "rows"),
    [
        pytest.param(EQUAL, [row(n) for n in range(4)], id="packets of equal size"),
        pytest.param(MIXED, MIXED_ROWS, id="packets of different size"),
        pytest.param(
            EQUAL.replace(b"\x32", b"\x3a", 1), [row(n) for n in range(4)], id="first is marked DUP"
        ),
    ],
)
def test_a_reader_finds_every_packet_however_the_bytes_are_cut(
    data: bytes, rows: list[tuple[int, int, int, int]], step: int
) -> None:
    reader = PublishReader()

    results = [reader.receive(data[at : at + step]) for at in range(0, len(data), step)]

    assert [found for part, _ in results for found in part] == rows
    assert b"".join(acks for _, acks in results) == b"".join(pubacks(found[0], 1) for found in rows)


def test_a_message_of_qos_0_is_read_but_not_acknowledged() -> None:
    stamp = (5).to_bytes(8, "big") + PUBLISHER.to_bytes(8, "big") + SENT_NS.to_bytes(8, "big")

    rows, acks = PublishReader().receive(b"\x30\x1b\x00\x01t" + stamp)

    assert (rows, acks) == ([(0, 5, PUBLISHER, SENT_NS)], b"")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xd0\x00", id="a packet nobody asked for"),
        pytest.param(b"\x32\x06\x00\x01t\x00\x01x", id="a payload without a stamp"),
        pytest.param(b"\x34\x1d\x00\x01t\x00\x01" + bytes(24), id="QoS 2"),
    ],
)
def test_what_cannot_be_a_message_of_the_run_is_refused(data: bytes) -> None:
    with pytest.raises(BadPacket):
        PublishReader().receive(data)


@pytest.mark.parametrize(
    ("sequences", "received", "missing", "duplicated", "out_of_order"),
    [
        pytest.param([0, 1, 2], 3, 0, 0, 0, id="in order"),
        pytest.param([0, 2, 3], 3, 1, 0, 0, id="one lost"),
        pytest.param([0, 1, 1, 2], 3, 0, 1, 0, id="one twice"),
        pytest.param([0, 2, 1, 3], 4, 0, 0, 1, id="two changed places"),
        pytest.param([0, 2, 1, 1, 0], 3, 0, 2, 1, id="late, then again"),
    ],
)
def test_a_subscriber_tells_loss_duplicates_and_order_apart(
    sequences: list[int], received: int, missing: int, duplicated: int, out_of_order: int
) -> None:
    subscriber = Subscriber(SilentLink(), {PUBLISHER: 0})  # type: ignore[arg-type]

    subscriber.receive(publishes(sequences))

    assert (subscriber.received, len(subscriber.missing)) == (received, missing)
    assert (subscriber.duplicated, subscriber.out_of_order) == (duplicated, out_of_order)


def test_a_message_of_an_earlier_run_is_acknowledged_and_set_apart() -> None:
    link = SilentLink()
    subscriber = Subscriber(link, {PUBLISHER: 0})  # type: ignore[arg-type]

    subscriber.receive(publishes([3], publisher=PUBLISHER + 1))

    assert (subscriber.received, subscriber.foreign, link.written) == (0, 1, pubacks(4, 1))


def test_a_summary_gives_the_middle_and_the_tail_in_ms() -> None:
    assert summary([n * 1_000_000 for n in range(100, -1, -1)]) == {"p50": 50.0, "p99": 99.0, "max": 100.0}


def test_a_publisher_with_a_pace_sends_by_the_clock_as_far_as_its_window_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = [0]
    monkeypatch.setattr(load_clients, "clock_ns", lambda: now_ns[0])
    link = SilentLink()
    buffer = PublishBuffer("t", 24, PUBLISHER, 10)
    paced = Publisher(link, buffer, b"", 10, 0, 10, per_s=100.0, began_ns=5_000_000)  # type: ignore[arg-type]

    sent = []
    for at_ms in (0, 16, 16, 45, 1000):
        now_ns[0] = at_ms * 1_000_000
        paced.publish()
        sent.append(paced.sent)

    assert sent == [0, 1, 1, 4, 10]


def test_with_a_pace_a_latency_counts_from_when_the_message_was_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = [0]
    monkeypatch.setattr(load_clients, "clock_ns", lambda: now_ns[0])
    link = SilentLink()
    buffer = PublishBuffer("t", 24, PUBLISHER, 10)
    acks = pubacks(1, 20)
    paced = Publisher(link, buffer, acks, 10, 0, 10, per_s=100.0, recording=True)  # type: ignore[arg-type]

    now_ns[0] = 45_000_000  # due were those of 10, 20, 30 and 40 ms
    paced.publish()
    link.read = lambda: pubacks(1, 1)  # type: ignore[attr-defined]
    paced.receive()
    now_ns[0] = 50_000_000
    link.read = lambda: pubacks(2, 3)  # type: ignore[attr-defined]
    paced.receive()

    assert [late / 1e6 for late in paced.lates_ns] == [35, 25, 15, 5]
    assert [latency / 1e6 for latency in paced.latencies_ns] == [35, 30, 20, 10]
    rows, _ = PublishReader().receive(link.written)
    assert [sent_ns / 1e6 for _, _, _, sent_ns in rows] == [10, 20, 30, 40]


@pytest.mark.parametrize("step", [1, 7, 256, 1000])
def test_json_bodies_carry_the_stamp_however_the_bytes_are_cut(step: int) -> None:
    buffer = JsonPublishBuffer("t", 256, PUBLISHER, 4)
    data = bytes(buffer.fill(range(1, 5), 0, SENT_NS))
    reader = PublishReader()

    results = [reader.receive(data[at : at + step]) for at in range(0, len(data), step)]

    assert [found for part, _ in results for found in part] == [row(n) for n in range(4)]
    body = json.loads(data[: len(data) // 4][-256:])
    assert body["level"] == 7


def test_a_subscriber_that_takes_what_was_left_learns_where_each_publisher_begins() -> None:
    subscriber = Subscriber(SilentLink(), {}, takes_earlier=True)  # type: ignore[arg-type]

    subscriber.receive(publishes([5, 6]) + publishes([3], publisher=8) + publishes([7, 9]))

    assert subscriber.received == 5
    assert subscriber.missing == {(PUBLISHER, 8)}
    assert subscriber.foreign == 0


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="mode is 'both'"):
        Load.from_json(
            '{"target": {"host": "h", "port": 1}, "publishers": [], "subscribers": [], "mode": "both"}'
        )


def run_load(config: dict[str, object]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.bench.mqtt_load"]
    return subprocess.run(
        command, cwd=ROOT, input=json.dumps(config), capture_output=True, text=True, timeout=60, check=False
    )


def test_a_broker_that_is_not_there_ends_with_status_2_and_a_sentence() -> None:
    config = {
        "target": {"host": "127.0.0.1", "port": 1},
        "publishers": [],
        "subscribers": [{"client_id": "s"}],
    }

    result = run_load(config)

    assert (result.returncode, result.stdout) == (2, "")
    assert "Connection refused" in result.stderr
