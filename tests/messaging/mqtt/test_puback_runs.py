"""PUBACKs that follow one another are read as one packet, wherever a read cuts them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RemoteProtocolError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    PubAcks,
    PubComp,
    PubRec,
    PubRel,
    ReturnCode,
    encode_answers,
    encode_puback_many,
)
from messaging.mqtt.publish import MOST_REMEMBERED_READS
from tests.messaging.mqtt import strategies
from tests.messaging.mqtt.connected import connected, spread

IDS = st.integers(1, 65_535)


def test_pubacks_of_one_read_are_one_packet_up_to_what_is_something_else() -> None:
    data = encode_puback_many([7, 256, 65_535]) + PubRel(3).encode() + encode_puback_many([9])

    assert connected().receive_data(data) == [PubAcks((7, 256, 65_535)), PubRel(3), PubAcks((9,))]


def test_before_connack_they_are_packets_as_any() -> None:
    server = ServerConnection(takes_runs=True)
    server.receive_data(Connect("d").encode() + encode_puback_many([1, 2]))
    server.send(ConnAck(ReturnCode.ACCEPTED))

    assert spread(server.authenticated()) == [PubAck(1), PubAck(2)]


@given(st.lists(strategies.from_client | st.builds(PubAck, IDS), max_size=20), st.lists(st.integers(0, 2000)))
def test_whatever_a_client_sends_means_the_same_in_runs(sent: list[Packet], cuts: list[int]) -> None:
    stream = b"".join(packet.encode() for packet in sent)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    server = connected()

    packets: list[Packet] = []
    for begin, end in itertools.pairwise(edges):
        packets += server.receive_data(stream[begin:end])

    assert spread(packets) == sent


@pytest.mark.parametrize("bad", [b"\x40\x02\x00\x00", b"\x40\x03\x00\x01\x00", b"\x41\x02\x00\x01"])
def test_a_puback_that_is_not_sound_ends_the_connection_behind_those_that_are(bad: bytes) -> None:
    server = connected()

    assert server.receive_data(encode_puback_many([1, 2]) + bad) == [PubAcks((1, 2))]
    assert server.offence is not None
    with pytest.raises(RemoteProtocolError):
        server.receive_data(b"")


def test_what_others_have_acknowledged_before_changes_nothing() -> None:
    first, second = connected(), connected()

    for number in range(1, 2 * MOST_REMEMBERED_READS):
        data = encode_puback_many([number, number + 1])
        assert first.receive_data(data) == second.receive_data(data) == [PubAcks((number, number + 1))]


def test_pubacks_behind_disconnect_are_refused_though_they_are_remembered() -> None:
    server = connected()
    assert server.receive_data(encode_puback_many([5])) == [PubAcks((5,))]
    server.receive_data(Disconnect().encode())

    with pytest.raises(RemoteProtocolError):
        server.receive_data(encode_puback_many([5]))


@pytest.mark.parametrize("before", [b"", encode_puback_many([4])], ids=["alone", "behind others"])
def test_a_puback_behind_disconnect_in_the_same_read_acknowledges_nothing(before: bytes) -> None:
    """A client that leaves may still acknowledge what it will never look at [MQTT-3.14.4-2]."""
    server = connected()

    packets = server.receive_data(before + Disconnect().encode() + encode_puback_many([5, 6]))

    assert spread(packets) == [*([PubAck(4)] if before else []), Disconnect()]
    assert server.offence is not None


def test_answers_are_their_packets_in_order() -> None:
    data = encode_answers([PUBACK | 1, PUBREC | 2, PUBCOMP | 65_535, PUBACK | 256])

    assert data == b"".join(
        packet.encode() for packet in (PubAck(1), PubRec(2), PubComp(65_535), PubAck(256))
    )
