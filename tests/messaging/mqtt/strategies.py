"""Hypothesis strategies for valid MQTT packets, and the shortest way to decode one."""

from __future__ import annotations

from hypothesis import strategies as st

from messaging.mqtt import wire
from messaging.mqtt.packets import (
    FIRST_BYTES,
    SUBSCRIPTION_FAILURE,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)


def decode(packet: bytes, behind: bytes = b"") -> Packet:
    """Decode exactly one packet, in a receive buffer where `behind` follows it."""
    length, start = wire.read_length(packet, 1)
    stop = start + length
    assert stop == len(packet), "the vector of this test has a wrong remaining length"
    return FIRST_BYTES[packet[0]].decode(packet[0], packet + behind, start, stop)


def raw(first: int, body: bytes) -> bytes:
    """Frame a body that our encoders would refuse."""
    return bytes((first,)) + wire.encode_length(len(body)) + body


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=40)
levels = st.one_of(st.sampled_from(["+", "", "a", "b", "$SYS"]), st.text("abü", max_size=3))
filters = st.builds(
    lambda parts, rest: "/".join([*parts, "#"] if rest else parts),
    st.lists(levels, min_size=1, max_size=5),
    st.booleans(),
).filter(bool)
packet_ids = st.integers(1, 65_535)
qos = st.sampled_from([0, 1, 2])
binary = st.binary(max_size=40)

wills = st.builds(Will, topics, binary, qos, st.booleans())
connects = st.builds(
    lambda client_id, clean_session, keep_alive_s, login, will: Connect(
        client_id, clean_session or not client_id, keep_alive_s, login[0], login[1], will
    ),
    text,
    st.booleans(),
    st.integers(0, 65_535),
    st.one_of(st.just((None, None)), st.tuples(text, st.none() | binary)),
    st.none() | wills,
)
connacks = st.one_of(
    st.builds(ConnAck, st.just(ReturnCode.ACCEPTED), st.booleans()),
    st.builds(ConnAck, st.sampled_from(ReturnCode)),
)
publishes = st.one_of(
    st.builds(
        lambda topic, payload, retain: Publish(topic, payload, retain=retain), topics, binary, st.booleans()
    ),
    st.builds(Publish, topics, binary, st.sampled_from([1, 2]), packet_ids, st.booleans(), st.booleans()),
    st.builds(Publish, topics, st.binary(min_size=100, max_size=300), st.just(1), packet_ids),
)
subscribes = st.builds(
    Subscribe, packet_ids, st.lists(st.tuples(filters, qos), min_size=1, max_size=4).map(tuple)
)
subacks = st.builds(
    SubAck,
    packet_ids,
    st.lists(st.sampled_from([0, 1, 2, SUBSCRIPTION_FAILURE]), min_size=1, max_size=4).map(tuple),
)
unsubscribes = st.builds(Unsubscribe, packet_ids, st.lists(filters, min_size=1, max_size=4).map(tuple))

both_ways = st.one_of(
    publishes,
    st.builds(PubAck, packet_ids),
    st.builds(PubRec, packet_ids),
    st.builds(PubRel, packet_ids),
    st.builds(PubComp, packet_ids),
)
from_client = st.one_of(both_ways, subscribes, unsubscribes, st.just(PingReq()))
from_server = st.one_of(both_ways, subacks, st.builds(UnsubAck, packet_ids), st.just(PingResp()))
packets = st.one_of(connects, connacks, from_client, from_server, st.just(Disconnect()))
