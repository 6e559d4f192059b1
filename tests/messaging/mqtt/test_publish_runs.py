"""PUBLISHes to one topic that follow one another are read, and written, as one; the slow way is oracle."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RemoteProtocolError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    Packet,
    PingReq,
    Publish,
    Publishes,
    encode_publish,
    encode_publishes,
)
from tests.messaging.mqtt import strategies
from tests.messaging.mqtt.connected import connected, spread

LIMIT_BYTES = 20_000
TOPICS = ("a", "a/b", "devices/d/messages/events/%24.on=out1", "dévices")
# Often the same twice, and lengths around those at which the remaining length takes another byte.
LENGTHS = st.sampled_from([0, 1, 2, 100, 110, 119, 120, 121, 122, 256, 16_370, 16_380])
RUN = st.tuples(st.sampled_from(TOPICS), LENGTHS, st.integers(1, 80))


def stream_of(runs: list[tuple[str, int, int]]) -> list[Packet]:
    """Return the packets of some runs: topic, length of the payloads, how many."""
    ids = itertools.cycle(range(1, 65_536))
    return [
        Publish(topic, bytes((number & 255,)) * size, 1, next(ids))
        for topic, size, count in runs
        for number in range(count)
    ]


def received(server: ServerConnection, stream: bytes, cuts: list[int]) -> tuple[list[Packet], str]:
    """Return the packets of a stream that is read in pieces, and how the connection ended."""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    packets: list[Packet] = []
    try:
        for begin, end in itertools.pairwise(edges):
            packets += server.receive_data(stream[begin:end])
    except RemoteProtocolError as exc:
        return spread(packets), str(exc)
    return spread(packets), str(server.offence or "")


def test_publishes_of_one_read_to_one_topic_are_one_packet() -> None:
    sent = [Publish("t", b"one", 1, 7), Publish("t", b"two", 1, 65_535), Publish("t", b"three", 1, 1)]

    [run] = connected(LIMIT_BYTES).receive_data(b"".join(packet.encode() for packet in sent))

    assert run == Publishes("t", [b"one", b"two", b"three"], [7, 65_535, 1])


@pytest.mark.parametrize(
    "other",
    [
        Publish("u", b"x", 1, 9),
        Publish("t", b"x", 0),
        Publish("t", b"x", 2, 9),
        Publish("t", b"x", 1, 9, dup=True),
        Publish("t", b"x", 1, 9, retain=True),
        PingReq(),
    ],
    ids=["another topic", "QoS 0", "QoS 2", "a duplicate", "retained", "another packet"],
)
def test_a_run_ends_where_something_else_comes(other: Packet) -> None:
    first, second = Publish("t", b"x", 1, 1), Publish("t", b"y", 1, 2)
    data = b"".join(packet.encode() for packet in (first, second, other, first, second))

    run = Publishes("t", [b"x", b"y"], [1, 2])
    assert connected(LIMIT_BYTES).receive_data(data) == [run, other, run]


@given(st.lists(RUN, max_size=6), st.lists(st.integers(0, 100_000), max_size=8))
def test_runs_say_what_was_sent_however_they_are_cut(
    runs: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    sent = stream_of(runs)
    stream = b"".join(packet.encode() for packet in sent)

    assert received(connected(LIMIT_BYTES), stream, cuts) == (sent, "")


@given(st.lists(strategies.from_client, max_size=20), st.lists(st.integers(0, 2000)))
def test_whatever_a_client_sends_means_the_same_in_runs(sent: list[Packet], cuts: list[int]) -> None:
    stream = b"".join(packet.encode() for packet in sent)

    in_runs = received(connected(LIMIT_BYTES), stream, cuts)

    assert in_runs == received(connected(LIMIT_BYTES, takes_runs=False), stream, cuts)


@given(
    st.lists(RUN, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damage_means_the_same_in_runs(
    runs: list[tuple[str, int, int]], damage: list[tuple[int, int]]
) -> None:
    stream = bytearray(b"".join(packet.encode() for packet in stream_of(runs)))
    for at, byte in damage:
        stream[at % len(stream)] = byte

    in_runs = received(connected(LIMIT_BYTES), bytes(stream), [])

    assert in_runs == received(connected(LIMIT_BYTES, takes_runs=False), bytes(stream), [])


@pytest.mark.parametrize("size", [1, 300, 17_000], ids=["short", "two length bytes", "three length bytes"])
@pytest.mark.parametrize("at", [1, 2, 40, 99])
def test_packet_id_0_in_a_run_ends_the_connection_behind_what_was_sound(size: int, at: int) -> None:
    sent = stream_of([("t", size, 100)])
    good = [packet.encode() for packet in sent]
    id_at = len(good[at]) - size - 2
    good[at] = good[at][:id_at] + b"\0\0" + good[at][id_at + 2 :]

    assert received(connected(LIMIT_BYTES), b"".join(good), []) == (sent[:at], "packet id is 0")


def test_a_packet_over_the_limit_in_a_run_is_refused() -> None:
    sent = [Publish("t", b"x" * size, 1, 1) for size in (15_000, 16_000, LIMIT_BYTES)]

    packets, end = received(connected(LIMIT_BYTES), b"".join(packet.encode() for packet in sent), [])

    assert packets == sent[:2]
    assert "the limit is 20000" in end


@given(
    st.sampled_from(["t", "t" * 200]),
    st.lists(LENGTHS, max_size=40) | st.tuples(LENGTHS, st.integers(0, 40)).map(lambda a: [a[0]] * a[1]),
    st.integers(1, 65_000),
)
def test_a_run_is_written_as_its_packets_are(topic: str, sizes: list[int], first_id: int) -> None:
    payloads = [bytes((size & 255,)) * size for size in sizes]
    ids = range(first_id, first_id + len(payloads))

    frames = encode_publishes(topic.encode(), payloads, ids)

    assert frames == [
        encode_publish(topic.encode(), payload, packet_id, 1)
        for payload, packet_id in zip(payloads, ids, strict=True)
    ]


def test_a_run_shows_no_payload() -> None:
    assert "secret" not in repr(Publishes("t", [b"secret"], [1]))
