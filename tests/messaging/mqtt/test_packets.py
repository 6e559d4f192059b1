"""Every packet as bytes: exact vectors in both directions, what is refused, and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt import wire
from messaging.mqtt.packets import (
    FIRST_BYTES,
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
    encode_puback_many,
    encode_publish,
)
from tests.messaging.mqtt import strategies
from tests.messaging.mqtt.strategies import decode, raw

VECTORS = {
    "connect, least": (Connect("d"), b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01d"),
    "connect without client id": (Connect(""), b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"),
    "connect, session kept": (
        Connect("d", clean_session=False, keep_alive_s=65_535),
        b"\x10\x0d\x00\x04MQTT\x04\x00\xff\xff\x00\x01d",
    ),
    "connect with user name": (
        Connect("d", user_name="ü"),
        b"\x10\x11\x00\x04MQTT\x04\x82\x00\x3c\x00\x01d\x00\x02\xc3\xbc",
    ),
    "connect with user name and empty password": (
        Connect("d", user_name="u", password=b""),
        b"\x10\x12\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01d\x00\x01u\x00\x00",
    ),
    "connect with everything": (
        Connect("d", True, 240, "u", b"p\x00", Will("w", b"\xff", 2, True)),
        b"\x10\x1a\x00\x04MQTT\x04\xf6\x00\xf0\x00\x01d\x00\x01w\x00\x01\xff\x00\x01u\x00\x02p\x00",
    ),
    "connect with empty will": (
        Connect("d", will=Will("w", b"", 1)),
        b"\x10\x12\x00\x04MQTT\x04\x0e\x00\x3c\x00\x01d\x00\x01w\x00\x00",
    ),
    "connack accepted": (ConnAck(ReturnCode.ACCEPTED), b"\x20\x02\x00\x00"),
    "connack, session present": (ConnAck(ReturnCode.ACCEPTED, True), b"\x20\x02\x01\x00"),
    "connack refused": (ConnAck(ReturnCode.NOT_AUTHORIZED), b"\x20\x02\x00\x05"),
    "publish at QoS 0": (Publish("a/b", b"hot"), b"\x30\x08\x00\x03a/bhot"),
    "publish, empty payload": (Publish("a", b""), b"\x30\x03\x00\x01a"),
    "publish at QoS 1": (Publish("a", b"x", 1, 10), b"\x32\x06\x00\x01a\x00\x0ax"),
    "publish, QoS 1, empty payload": (Publish("a", b"", 1, 65_535), b"\x32\x05\x00\x01a\xff\xff"),
    "publish at QoS 2": (Publish("a", b"x", 2, 256), b"\x34\x06\x00\x01a\x01\x00x"),
    "publish again": (Publish("a", b"x", 1, 10, dup=True), b"\x3a\x06\x00\x01a\x00\x0ax"),
    "publish to be retained": (Publish("a", b"x", retain=True), b"\x31\x04\x00\x01ax"),
    "publish, all flags": (Publish("a", b"x", 2, 1, True, True), b"\x3d\x06\x00\x01a\x00\x01x"),
    "publish, length of two bytes": (Publish("a", bytes(125)), b"\x30\x80\x01\x00\x01a" + bytes(125)),
    "publish, length of three bytes": (
        Publish("a", bytes(16_381)),
        b"\x30\x80\x80\x01\x00\x01a" + bytes(16_381),
    ),
    "publish, topic of two-byte characters": (Publish("ü", b"x"), b"\x30\x05\x00\x02\xc3\xbcx"),
    "publish, topic with byte order mark": (Publish("\ufeffa", b""), b"\x30\x06\x00\x04\xef\xbb\xbfa"),
    "puback": (PubAck(1), b"\x40\x02\x00\x01"),
    "pubrec": (PubRec(0x1234), b"\x50\x02\x12\x34"),
    "pubrel": (PubRel(65_535), b"\x62\x02\xff\xff"),
    "pubcomp": (PubComp(7), b"\x70\x02\x00\x07"),
    "subscribe": (Subscribe(1, (("a/#", 1),)), b"\x82\x08\x00\x01\x00\x03a/#\x01"),
    "subscribe to three": (
        Subscribe(2, (("a", 0), ("+", 1), ("#", 2))),
        b"\x82\x0e\x00\x02\x00\x01a\x00\x00\x01+\x01\x00\x01#\x02",
    ),
    "suback": (SubAck(1, (1,)), b"\x90\x03\x00\x01\x01"),
    "suback for four": (SubAck(9, (0, 1, 2, 0x80)), b"\x90\x06\x00\x09\x00\x01\x02\x80"),
    "unsubscribe": (Unsubscribe(3, ("a", "b/+")), b"\xa2\x0a\x00\x03\x00\x01a\x00\x03b/+"),
    "unsuback": (UnsubAck(3), b"\xb0\x02\x00\x03"),
    "pingreq": (PingReq(), b"\xc0\x00"),
    "pingresp": (PingResp(), b"\xd0\x00"),
    "disconnect": (Disconnect(), b"\xe0\x00"),
}


@pytest.mark.parametrize(("packet", "data"), VECTORS.values(), ids=VECTORS)
def test_a_packet_encodes_to_the_exact_bytes(packet: Packet, data: bytes) -> None:
    assert packet.encode() == data


@pytest.mark.parametrize("behind", [b"", b"\xff" * 9], ids=["last", "more behind"])
@pytest.mark.parametrize(("packet", "data"), VECTORS.values(), ids=VECTORS)
def test_the_exact_bytes_decode_to_the_packet(packet: Packet, data: bytes, behind: bytes) -> None:
    decoded = decode(data, behind)

    assert decoded == packet
    assert type(decoded) is type(packet)


@given(strategies.packets)
def test_every_packet_survives_encode_and_decode(packet: Packet) -> None:
    decoded = decode(packet.encode())

    assert decoded == packet
    assert type(decoded) is type(packet)


def connect(flags: int, rest: bytes = b"\x00\x01d", name: bytes = b"\x00\x04MQTT", level: int = 4) -> bytes:
    """A CONNECT with any connect flags and whatever follows the keep-alive."""
    return raw(0x10, name + bytes((level, flags)) + b"\x00\x3c" + rest)


REFUSED = {
    "connect: empty": (raw(0x10, b""), "protocol name"),
    "connect: half a length": (raw(0x10, b"\x00"), "protocol name"),
    "connect: name of MQTT 3.1": (connect(2, name=b"\x00\x06MQIsdp", level=3), "MQIsdp"),
    "connect: name in lower case": (connect(2, name=b"\x00\x04mqtt"), "protocol name"),
    "connect: name not UTF-8": (connect(2, name=b"\x00\x04MQT\xff"), "not UTF-8 at byte 3"),
    "connect: no level": (raw(0x10, b"\x00\x04MQTT"), "level"),
    "connect: no flags": (raw(0x10, b"\x00\x04MQTT\x04"), "flags"),
    "connect: no keep alive": (raw(0x10, b"\x00\x04MQTT\x04\x02\x00"), "keep alive"),
    "connect: no client id": (connect(2, b""), "client id"),
    "connect: client id cut": (connect(2, b"\x00\x02d"), "client id"),
    "connect: client id not UTF-8": (connect(2, b"\x00\x01\xff"), "not UTF-8"),
    "connect: client id with surrogate": (connect(2, b"\x00\x03\xed\xa0\x80"), "not UTF-8"),
    "connect: client id overlong": (connect(2, b"\x00\x02\xc0\x80"), "not UTF-8"),
    "connect: client id with U+0000": (connect(2, b"\x00\x01\x00"), r"U\+0000"),
    "connect: reserved flag": (connect(3), "3.1.2-3"),
    "connect: will QoS without will": (connect(0x0A), "without a will"),
    "connect: will retain without will": (connect(0x22), "without a will"),
    "connect: will QoS 3": (connect(0x1E, b"\x00\x01d\x00\x01w\x00\x00"), "will QoS 3"),
    "connect: password without user name": (connect(0x42, b"\x00\x01d\x00\x01p"), "without a user name"),
    "connect: will topic empty": (connect(0x06, b"\x00\x01d\x00\x00\x00\x00"), "topic is empty"),
    "connect: will topic with wildcard": (connect(0x06, b"\x00\x01d\x00\x01#\x00\x00"), "wildcard"),
    "connect: no will message": (connect(0x06, b"\x00\x01d\x00\x01w"), "will message"),
    "connect: user name missing": (connect(0x82), "user name"),
    "connect: password missing": (connect(0xC2, b"\x00\x01d\x00\x01u"), "password"),
    "connect: bytes left over": (connect(2, b"\x00\x01d!"), "1 bytes behind"),
    "connect: user name without flag": (connect(2, b"\x00\x01d\x00\x01u"), "3 bytes behind"),
    "connack: one byte": (raw(0x20, b"\x00"), "not 2"),
    "connack: three bytes": (raw(0x20, b"\x00\x00\x00"), "not 2"),
    "connack: reserved flags": (raw(0x20, b"\x02\x00"), "reserved flags"),
    "connack: unknown code": (raw(0x20, b"\x00\x06"), "return code 6"),
    "connack: refused with session": (raw(0x20, b"\x01\x05"), "session present"),
    "publish: empty": (raw(0x30, b""), "ends inside"),
    "publish: half a length": (raw(0x30, b"\x00"), "ends inside"),
    "publish: topic cut": (raw(0x30, b"\x00\x02a"), "ends inside"),
    "publish: no packet id": (raw(0x32, b"\x00\x01a"), "ends inside"),
    "publish: half a packet id": (raw(0x32, b"\x00\x01a\x01"), "ends inside"),
    "publish: QoS 1 with packet id 0": (raw(0x32, b"\x00\x01a\x00\x00x"), "packet id is 0"),
    "publish: QoS 2 with packet id 0": (raw(0x34, b"\x00\x01a\x00\x00x"), "packet id is 0"),
    "publish: topic empty": (raw(0x30, b"\x00\x00x"), "empty"),
    "publish: topic with +": (raw(0x30, b"\x00\x03a/+x"), "wildcard"),
    "publish: topic with # inside": (raw(0x30, b"\x00\x03a#bx"), "wildcard"),
    "publish: topic with U+0000": (raw(0x30, b"\x00\x03a\x00bx"), r"U\+0000"),
    "publish: topic not UTF-8": (raw(0x30, b"\x00\x03a\xfebx"), "not UTF-8 at byte 1"),
    "publish: topic with surrogate": (raw(0x30, b"\x00\x03\xed\xbf\xbf"), "not UTF-8"),
    "puback: empty": (raw(0x40, b""), "not 2"),
    "puback: one byte": (raw(0x40, b"\x01"), "not 2"),
    "puback: three bytes": (raw(0x40, b"\x00\x01\x00"), "not 2"),
    "puback: packet id 0": (raw(0x40, b"\x00\x00"), "packet id is 0"),
    "pubrec: packet id 0": (raw(0x50, b"\x00\x00"), "packet id is 0"),
    "pubrel: packet id 0": (raw(0x62, b"\x00\x00"), "packet id is 0"),
    "pubcomp: packet id 0": (raw(0x70, b"\x00\x00"), "packet id is 0"),
    "unsuback: packet id 0": (raw(0xB0, b"\x00\x00"), "packet id is 0"),
    "subscribe: empty": (raw(0x82, b""), "packet id"),
    "subscribe: packet id 0": (raw(0x82, b"\x00\x00\x00\x01a\x00"), "packet id is 0"),
    "subscribe: no filter": (raw(0x82, b"\x00\x01"), "without a topic filter"),
    "subscribe: filter cut": (raw(0x82, b"\x00\x01\x00\x02a"), "topic filter"),
    "subscribe: no QoS": (raw(0x82, b"\x00\x01\x00\x01a"), "before the QoS"),
    "subscribe: QoS 3": (raw(0x82, b"\x00\x01\x00\x01a\x03"), "QoS 0x03"),
    "subscribe: reserved bits of QoS": (raw(0x82, b"\x00\x01\x00\x01a\x81"), "QoS 0x81"),
    "subscribe: filter empty": (raw(0x82, b"\x00\x01\x00\x00\x01"), "empty"),
    "subscribe: # inside": (raw(0x82, b"\x00\x01\x00\x05a/#/b\x01"), "last level"),
    "subscribe: + in a word": (raw(0x82, b"\x00\x01\x00\x02a+\x01"), "level of its own"),
    "subscribe: # in a word": (raw(0x82, b"\x00\x01\x00\x02a#\x01"), "level of its own"),
    "subscribe: second filter bad": (raw(0x82, b"\x00\x01\x00\x01a\x00\x00\x02##\x00"), "level of its own"),
    "subscribe: filter with U+0000": (raw(0x82, b"\x00\x01\x00\x01\x00\x01"), r"U\+0000"),
    "subscribe: too many levels": (raw(0x82, b"\x00\x01\x00\xff" + b"/" * 255 + b"\x01"), "256 levels"),
    "suback: no packet id": (raw(0x90, b"\x00"), "packet id"),
    "suback: no code": (raw(0x90, b"\x00\x01"), "without a return code"),
    "suback: code 3": (raw(0x90, b"\x00\x01\x01\x03"), "return code 3"),
    "unsubscribe: no filter": (raw(0xA2, b"\x00\x01"), "without a topic filter"),
    "unsubscribe: packet id 0": (raw(0xA2, b"\x00\x00\x00\x01a"), "packet id is 0"),
    "unsubscribe: filter cut": (raw(0xA2, b"\x00\x01\x00\x01a\x00"), "topic filter"),
    "unsubscribe: filter reaches over the end": (raw(0xA2, b"\x00\x01\x00\x02a"), "inside its topic filter"),
    "unsubscribe: filter empty": (raw(0xA2, b"\x00\x01\x00\x00"), "empty"),
    "pingreq: with a body": (raw(0xC0, b"\x00"), "1 bytes behind"),
    "pingresp: with a body": (raw(0xD0, b"\x00"), "1 bytes behind"),
    "disconnect: with a body": (raw(0xE0, b"\x00"), "1 bytes behind"),
}


@pytest.mark.parametrize(
    "behind",
    [b"", b"\x00\x01a\x00\x01\x00\x01" * 9, b"b" * 99],
    ids=["last", "fields behind", "text behind"],
)
@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_malformed_packet_is_refused_without_an_answer(data: bytes, reason: str, behind: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        decode(data, behind)

    assert caught.value.answer == b""


@pytest.mark.parametrize("level", [0, 3, 5, 0x84, 255])
def test_another_protocol_level_is_answered_with_connack_1(level: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"level is {level};") as caught:
        decode(connect(2, level=level))

    assert caught.value.answer == b"\x20\x02\x00\x01"


def test_no_client_id_without_clean_session_is_answered_with_connack_2() -> None:
    with pytest.raises(RemoteProtocolError, match="client id") as caught:
        decode(connect(0, b"\x00\x00"))

    assert caught.value.answer == b"\x20\x02\x00\x02"


def test_first_bytes_are_those_of_the_standard_and_no_others() -> None:
    publish = [0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x3A, 0x3B, 0x3C, 0x3D]
    others = [0x10, 0x20, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0]

    assert sorted(FIRST_BYTES) == sorted(publish + others)


LONG = "x" * 65_536
UNSENDABLE: dict[str, tuple[Packet, str]] = {
    "password without user name": (Connect("d", password=b"p"), "user name"),
    "no client id, session kept": (Connect("", clean_session=False), "client id"),
    "keep alive too long": (Connect("d", keep_alive_s=65_536), "keep alive is 65536"),
    "keep alive negative": (Connect("d", keep_alive_s=-1), "keep alive is -1"),
    "client id too long": (Connect(LONG), "65536 bytes"),
    "client id with U+0000": (Connect("\0"), r"U\+0000"),
    "client id with surrogate": (Connect("\ud800"), "surrogate"),
    "password too long": (Connect("d", user_name="u", password=LONG.encode()), "password has 65536 bytes"),
    "will QoS 3": (Connect("d", will=Will("w", b"", 3)), "QoS is 3"),
    "will topic with wildcard": (Connect("d", will=Will("w/#", b"")), "wildcard"),
    "refusal with session": (ConnAck(ReturnCode.NOT_AUTHORIZED, True), "session present"),
    "publish at QoS 3": (Publish("a", b"", 3, 1), "QoS is 3"),
    "publish at QoS 1 without packet id": (Publish("a", b"", 1), "packet id 0"),
    "publish at QoS 0 with packet id": (Publish("a", b"", 0, 5), "packet id 5"),
    "publish at QoS 0 again": (Publish("a", b"", dup=True), "DUP"),
    "publish, packet id too large": (Publish("a", b"", 1, 65_536), "packet id is 65536"),
    "publish, topic empty": (Publish("", b""), "empty"),
    "publish, topic with wildcard": (Publish("a/+", b""), "wildcard"),
    "publish, topic too long": (Publish(LONG, b""), "65536 bytes"),
    "publish, topic with surrogate": (Publish("\udfff", b""), "surrogate"),
    "puback 0": (PubAck(0), "packet id is 0"),
    "pubrel 65536": (PubRel(65_536), "65536"),
    "subscribe to nothing": (Subscribe(1, ()), "without a topic filter"),
    "subscribe, packet id 0": (Subscribe(0, (("a", 0),)), "packet id is 0"),
    "subscribe, QoS 3": (Subscribe(1, (("a", 3),)), "QoS is 3"),
    "subscribe, bad filter": (Subscribe(1, (("a#", 1),)), "level of its own"),
    "suback for nothing": (SubAck(1, ()), "without a return code"),
    "suback, code 3": (SubAck(1, (3,)), "return code 3"),
    "unsubscribe from nothing": (Unsubscribe(1, ()), "without a topic filter"),
    "unsubscribe, bad filter": (Unsubscribe(1, ("#/a",)), "last level"),
}


@pytest.mark.parametrize(("packet", "reason"), UNSENDABLE.values(), ids=UNSENDABLE)
def test_a_packet_that_the_standard_forbids_is_not_encoded(packet: Packet, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        packet.encode()


def test_a_body_longer_than_four_length_bytes_can_say_is_not_encoded() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return wire.MAX_REMAINING_LENGTH + 1

    with pytest.raises(LocalProtocolError, match="268435456 bytes"):
        wire.encode_packet(0x30, Huge())


LENGTHS = {
    0: b"\x00",
    127: b"\x7f",
    128: b"\x80\x01",
    16_383: b"\xff\x7f",
    16_384: b"\x80\x80\x01",
    2_097_151: b"\xff\xff\x7f",
    2_097_152: b"\x80\x80\x80\x01",
    268_435_455: b"\xff\xff\xff\x7f",
}


@pytest.mark.parametrize(("length", "data"), LENGTHS.items(), ids=map(str, LENGTHS))
def test_remaining_lengths_are_those_of_the_table_in_section_2_2_3(length: int, data: bytes) -> None:
    assert wire.encode_length(length) == data
    assert wire.read_length(b"\x30" + data + b"\xff", 1) == (length, 1 + len(data))
    for cut in range(len(data)):
        assert wire.read_length(b"\x30" + data[:cut], 1) == (0, 0)


def test_a_remaining_length_of_five_bytes_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="four bytes"):
        wire.read_length(b"\x30\x80\x80\x80\x80", 1)


@given(strategies.publishes, st.booleans())
def test_the_fast_encoder_of_publish_gives_the_same_bytes(publish: Publish, again: bool) -> None:
    publish = publish._replace(retain=False, dup=again and publish.qos > 0)

    fast = encode_publish(
        publish.topic.encode(), publish.payload, publish.packet_id, publish.qos, dup=publish.dup
    )

    assert fast == publish.encode()


@pytest.mark.parametrize("size", [0, 122, 123, 124, 125, 16_376, 16_379, 16_380, 16_381, 262_144])
@pytest.mark.parametrize("qos", [0, 1])
def test_the_fast_encoder_of_publish_is_right_at_every_size_of_the_length(size: int, qos: int) -> None:
    payload = bytes(size)

    assert encode_publish(b"a", payload, qos, qos) == Publish("a", payload, qos, qos).encode()


@given(st.lists(strategies.packet_ids, max_size=300))
def test_many_pubacks_are_the_single_ones_in_their_order(packet_ids: list[int]) -> None:
    assert encode_puback_many(iter(packet_ids)) == b"".join(PubAck(n).encode() for n in packet_ids)


@pytest.mark.parametrize("bad", [0, -1, 65_536, 1 << 40])
def test_many_pubacks_with_a_packet_id_out_of_range_are_refused(bad: int) -> None:
    with pytest.raises(LocalProtocolError, match=str(bad)):
        encode_puback_many([1, bad, 2])


def test_no_repr_shows_a_password_or_a_message_body() -> None:
    packets = [
        Connect("d", user_name="u", password=b"secret", will=Will("w", b"secret")),
        Publish("a", b"secret", 1, 1),
    ]

    assert "secret" not in repr(packets)
    assert "payload=<6 bytes>" in repr(packets)
    assert "secret" not in str(packets[1])
    assert "secret" not in f"{packets[1]}"
