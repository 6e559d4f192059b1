"""What a client is sent and acknowledges, in runs; doing it message by message is the oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.heads.mqtt_client import MOST_PACKET_IDS, MqttClient, add_position
from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import ConnAck, Connect, Publish, ReturnCode, encode_publish
from tests.fakes.transport import MemoryTransport

NOW_S = 5.0
# (endpoint, how many, of how many topics, length of the bodies)
RUN = st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(1, 2), st.integers(0, 300))
STEP = st.tuples(RUN, st.lists(st.integers(0, 200), max_size=60))


def client_near_the_last_packet_id(left: int) -> MqttClient:
    """Return a client whose next packet ids begin anew after so many."""
    client = MqttClient(1, MemoryTransport("p"), NOW_S)
    client._last_packet_id = MOST_PACKET_IDS - left
    return client


def entries_of(count: int, topics: int, size: int) -> list[tuple[int, bytes]]:
    return [
        (number % topics, bytes((number,)) * (size + number % 2 * (topics - 1))) for number in range(count)
    ]


@given(st.integers(0, 100), st.lists(STEP, max_size=8))
def test_packet_ids_are_given_in_turn_and_taken_back_by_what_acknowledges_them(
    left: int, steps: list[tuple[tuple[str, int, int, int], list[int]]]
) -> None:
    client = client_near_the_last_packet_id(left)
    expected: dict[int, tuple[str, int, bytes, float]] = {}
    last, position = MOST_PACKET_IDS - left, 0

    for (endpoint_id, count, topics, size), picks in steps:
        frames: list[bytes] = []
        names = [b"t%d" % number for number in range(topics)]
        entries = entries_of(count, topics, size)
        assert client.frame_run(endpoint_id, position, names, entries, NOW_S, frames)
        for offset, (index, body) in enumerate(entries):
            last = last % MOST_PACKET_IDS + 1
            while last in expected:
                last = last % MOST_PACKET_IDS + 1
            frame = encode_publish(names[index], body, last, 1)
            expected[last] = (endpoint_id, position + offset, frame, NOW_S)
            assert frames[offset] == frame
        position += count
        assert client.in_flight == expected

        known = list(expected)
        acknowledged = [known[pick] if pick < len(known) else pick + 40 for pick in picks]
        ranges: dict[str, list[tuple[int, int]]] = {}
        client.take_acknowledged(acknowledged, ranges)
        slowly: dict[str, list[tuple[int, int]]] = {}
        for packet_id in acknowledged:
            sent = expected.pop(packet_id, None)
            if sent is not None:
                add_position(slowly, sent[0], sent[1])
        assert ranges == slowly
        assert client.in_flight == expected


def test_packet_ids_that_are_not_acknowledged_are_passed_over() -> None:
    client = client_near_the_last_packet_id(0)
    client.frame_run("a", 0, [b"t"], [(0, b"x")] * 3, NOW_S, [])
    client.take_acknowledged([1, 3], {})
    client._last_packet_id = MOST_PACKET_IDS - 1
    frames: list[bytes] = []

    assert client.frame_run("a", 3, [b"t"], [(0, b"y")] * 4, NOW_S, frames)

    codec = ClientConnection()
    codec.send(Connect("c"))
    codec.receive_data(ConnAck(ReturnCode.ACCEPTED).encode())
    packets = codec.receive_data(b"".join(frames))
    assert [packet.packet_id for packet in packets if isinstance(packet, Publish)] == [
        MOST_PACKET_IDS,
        1,
        3,
        4,
    ]


def test_without_enough_packet_ids_nothing_is_sent() -> None:
    client = client_near_the_last_packet_id(0)
    assert client.frame_run("a", 0, [b"t"], [(0, b"")] * (MOST_PACKET_IDS - 1), NOW_S, [])
    frames: list[bytes] = []

    assert not client.frame_run("a", 0, [b"t"], [(0, b"")] * 2, NOW_S, frames)
    assert frames == []
    assert client.frame_run("a", 0, [b"t"], [(0, b"")], NOW_S, frames)
