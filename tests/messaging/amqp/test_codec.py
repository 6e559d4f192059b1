"""Messages: those of real clients, sections in any order, types that stay what they are, and rubbish."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.amqp import codec
from messaging.amqp.codec import (
    AmqpMessage,
    Described,
    Int,
    MessageId,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    decode,
    decode_head,
    encode,
    encode_body,
    encode_head,
    join_batch,
    split_batch,
    split_body,
)
from messaging.amqp.values import decode_value, encode_value, value_end
from messaging.errors import LocalProtocolError, RemoteProtocolError

GUID = uuid.UUID("2b0a5d4e-3a25-4a2a-8f3f-0e2f3a4b5c6d")
FULL = AmqpMessage(
    body=b"hot",
    message_id="m",
    correlation_id=GUID,
    user_id=b"\x00\xff",
    to="/devices/d",
    subject="s",
    reply_to="cbs",
    content_type="application/json",
    content_encoding="utf-8",
    absolute_expiry_time_ms=1_700_000_000_000,
    creation_time_ms=1,
    application_properties={"a": "b", "status": Int(200), "on": True, "none": None, "x": 1.5},
    annotations={"iothub-enqueuedtime": Timestamp(5), "iothub-deliverycount": UByte(1)},
)


# What clients sent


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(
            "00537045005373d00000001a00000003982b0a5d4e3a254a2a8f3f0e2f3a4b5c6d40a1022f78005374d10000000a000000"
            "02a10161a10162005375a00568656c6c6f",
            AmqpMessage(body=b"hello", message_id=GUID, to="/x", application_properties={"a": "b"}),
            id="rhea 1.0.24, telemetry",
        ),
        pytest.param(
            "00537045005373d00000000d00000006a10171404040405305005377a105746f6b656e",
            AmqpMessage(message_id="q", correlation_id=5, value="token", is_value=True),
            id="rhea 1.0.24, a value",
        ),
        pytest.param(
            "005373c01b07a101784040404040a3106170706c69636174696f6e2f6a736f6e005374c10c04a10161a10162a1016e5405"
            "005375a00568656c6c6f",
            AmqpMessage(
                body=b"hello",
                message_id="x",
                content_type="application/json",
                application_properties={"a": "b", "n": 5},
            ),
            id="uamqp 1.6.11, telemetry",
        ),
    ],
)
def test_messages_of_real_clients_are_read(sent: str, expected: AmqpMessage) -> None:
    assert decode(bytes.fromhex(sent)) == expected


def test_a_batch_of_a_real_client_is_split() -> None:
    # uamqp 1.6.11: what stands in each Data section is no message there, but three bodies.
    sent = bytes.fromhex("005375a007005375a0026d30005375a007005375a0026d31005375a007005375a0026d32")

    assert [decode(one).body for one in split_batch(sent)] == [b"m0", b"m1", b"m2"]


# Sections


def test_sections_are_found_in_any_order() -> None:
    # The order of the C SDK (spec sheet hub-protocols.md section 3.8), with long descriptors for some.
    properties = b"\x00\x53\x73" + encode_value(["id"])
    application_properties = b"\x00\x53\x74" + encode_value({"a": "b"})
    annotations = b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x72" + encode_value({Symbol("n"): Int(1)})
    parts = [properties, application_properties, annotations, encode_body(b"bo"), encode_body(b"dy")]
    expected = AmqpMessage(
        b"body", message_id="id", application_properties={"a": "b"}, annotations={"n": Int(1)}
    )

    assert decode(b"".join(parts)) == expected
    assert decode(b"".join(parts[3:] + parts[:3])) == expected
    assert decode(parts[3] + parts[0] + parts[4] + parts[1] + parts[2]) == expected


def test_header_footer_and_delivery_annotations_are_passed_over() -> None:
    around = b"\x00\x53\x70\xc0\x02\x01\x42", b"\x00\x53\x71" + encode_value({Symbol("x"): 1})
    footer = b"\x00\x53\x78" + encode_value({Symbol("y"): 2})

    assert decode(b"".join(around) + encode(FULL) + footer) == FULL


@pytest.mark.parametrize("message", [FULL, AmqpMessage(), AmqpMessage(value={"a": [1]}, is_value=True)])
def test_head_and_body_make_the_message(message: AmqpMessage) -> None:
    encoded = encode(message)
    head, body = split_body(encoded)

    read = decode_head(head)
    read.body = body
    assert read == message
    assert body == message.body
    assert head == encode_head(message)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_bodies_of_every_length_come_back(size: int) -> None:
    assert decode(encode(AmqpMessage(bytes(size)))).body == bytes(size)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"\x00\x53", id="half a descriptor"),
        pytest.param(b"\x00\x53\x75", id="no value"),
        pytest.param(b"\x00\x53\x75\xa0", id="no length"),
        pytest.param(b"\x00\x53\x75\xa0\x05abc", id="cut off"),
        pytest.param(b"\x00\x53\x75\xb0\xff\xff\xff\xff", id="a length that lies"),
        pytest.param(b"\x00\x53\x75\xa1\x01a", id="Data with a string"),
        pytest.param(b"\x00\x53\x6f\x40", id="an unknown section"),
        pytest.param(b"\x00\xa3\x10amqp:data:binary\xa0\x00", id="a symbol as descriptor"),
        pytest.param(b"\x00\x53\x73\xc1\x01\x00", id="properties that are a map"),
        pytest.param(b"\x00\x53\x73\xc0\x03\x02\x54\x05", id="a list that ends early"),
        pytest.param(b"\x00\x53\x73" + encode_value([Int(-5)]), id="a negative message-id"),
        pytest.param(b"\x00\x53\x73" + encode_value([None] * 6 + ["ä"]), id="a content-type not in ASCII"),
        pytest.param(b"\x00\x53\x73" + encode_value([True]), id="a boolean as message-id"),
        pytest.param(b"\x00\x53\x73" + encode_value([None, "text"]), id="a string as user-id"),
        pytest.param(b"\x00\x53\x73" + encode_value([None, None, 5]), id="a number as to"),
        pytest.param(b"\x00\x53\x73" + encode_value(["x"] * 8 + ["soon"]), id="a string as expiry"),
        pytest.param(b"\x00\x53\x74" + encode_value(["a"]), id="application properties that are a list"),
        pytest.param(b"\x00\x53\x74" + encode_value({"a": "x" * 2_000})[:-1], id="long and cut off"),
        pytest.param(b"\x00\x53\x74\xc1\x04\x02\xa1\x01\xff", id="no UTF-8"),
        pytest.param(b"\x00\x53\x76" + encode_value([1]), id="a sequence"),
        pytest.param(b"\x00\x53\x77" + b"\x00" * 100, id="descriptors without end"),
        pytest.param(encode(FULL)[:-4], id="a message cut off"),
    ],
)
def test_what_is_no_message_is_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(wrong)


def test_application_properties_that_are_null_are_none() -> None:
    assert decode(b"\x00\x53\x74\x40" + encode_body(b"")).application_properties == {}


def test_properties_with_more_fields_than_are_read_are_fine() -> None:
    fields = ["id", *[None] * 9, "group", UInt(5), "reply-group"]

    assert decode(b"\x00\x53\x73" + encode_value(fields)).message_id == "id"


# Types


@pytest.mark.parametrize("identifier", ["text", 0, 5, 2**64 - 1, GUID, b"\x01", None], ids=repr)
def test_ids_keep_their_types(identifier: MessageId | None) -> None:
    read = decode(encode(AmqpMessage(message_id=identifier, correlation_id=identifier)))

    assert (read.message_id, read.correlation_id) == (identifier, identifier)
    assert isinstance(read.message_id, type(identifier))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, "40"),
        (True, "41"),
        (False, "42"),
        (UByte(200), "50c8"),
        (UInt(0), "43"),
        (UInt(200), "52c8"),
        (UInt(70_000), "7000011170"),
        (Int(200), "71000000c8"),
        (Int(-1), "54ff"),
        (ULong(0), "44"),
        (ULong(5), "5305"),
        (ULong(2**64 - 1), "80ffffffffffffffff"),
        (5, "5505"),
        (-(2**63), "818000000000000000"),
        (Timestamp(1), "830000000000000001"),
        (1.5, "823ff8000000000000"),
        ("ä", "a102c3a4"),
        (Symbol("x"), "a30178"),
        (b"\x00", "a00100"),
        (GUID, "98" + GUID.hex),
        (["a", [1]], None),
        ({"a": {"b": b"c"}}, None),
        (Described(Symbol("d"), "v"), "00a30164a10176"),
    ],
    ids=repr,
)
def test_each_type_is_written_as_itself(value: object, encoded: str | None) -> None:
    written = encode_value(value)
    read = decode_value(written)

    assert encoded is None or written.hex() == encoded
    assert read == value
    assert type(read) is type(value)


def test_an_array_is_read_as_a_list() -> None:
    array = b"\xe0\x06\x02\xa3\x01a\x01b"

    assert decode_value(array) == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [Int(2**31), UByte(256), UInt(-1), ULong(-1), 2**63, Symbol("ä"), "\ud800", object(), {"a": {1}}],
    ids=["int", "ubyte", "uint", "ulong", "long", "symbol", "surrogate", "object", "set"],
)
def test_what_does_not_fit_its_type_is_not_written(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        encode(AmqpMessage(application_properties={"a": value}))
    assert decode(encode(FULL)) == FULL  # nothing is left over from the failure


def test_values_nested_too_deep_are_refused_both_ways() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    encoded = b"\x45"
    for _ in range(5_000):
        encoded = b"\xd0" + (len(encoded) + 4).to_bytes(4, "big") + b"\x00\x00\x00\x01" + encoded

    with pytest.raises(LocalProtocolError):
        encode_value(deep)
    with pytest.raises(RemoteProtocolError):
        decode_value(encoded)


def test_a_long_value_is_written_too() -> None:
    value = {"a": "x" * 100_000}

    assert decode_value(encode_value(value)) == value


# Batches


def test_a_batch_comes_apart_as_it_was_joined() -> None:
    messages = [encode(FULL), encode(AmqpMessage(bytes(1_000))), encode(AmqpMessage())]

    assert split_batch(join_batch(messages)) == messages


def test_a_batch_without_messages_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        split_batch(b"\x00\x53\x74\x40")


# Sections that are read once


def test_what_is_made_of_a_cached_section_belongs_to_its_message() -> None:
    encoded = encode(FULL)
    decode(encoded).application_properties["a"] = "changed"
    decode(encoded).annotations.clear()

    assert decode(encoded) == FULL


def test_long_sections_are_not_kept() -> None:
    before = codec._read_map.cache_info().currsize

    decode(encode(AmqpMessage(application_properties={"a": "x" * 2_000})))

    assert codec._read_map.cache_info().currsize == before


# Random

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.uuids(),
    st.integers(0, 255).map(UByte),
    st.integers(0, 2**32 - 1).map(UInt),
    st.integers(0, 2**64 - 1).map(ULong),
    st.integers(-(2**31), 2**31 - 1).map(Int),
    st.integers(-(2**63), 2**63 - 1).map(Timestamp),
)
texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
ascii_texts = st.none() | st.text(st.characters(max_codepoint=127))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = st.none() | st.text(st.characters(exclude_categories=["Cs"])) | st.integers(0, 2**64 - 1) | st.uuids()
messages = st.builds(
    AmqpMessage,
    body=st.binary(max_size=600),
    message_id=ids,
    correlation_id=ids | st.binary(),
    user_id=st.none() | st.binary(),
    to=texts,
    subject=texts,
    reply_to=texts,
    content_type=ascii_texts,
    content_encoding=ascii_texts,
    absolute_expiry_time_ms=st.none() | st.integers(0, 2**62),
    creation_time_ms=st.none() | st.integers(0, 2**62),
    application_properties=st.dictionaries(names, scalars, max_size=5),
    annotations=st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=9), scalars, max_size=5),
)


@given(messages)
def test_every_message_comes_back_as_it_was(message: AmqpMessage) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_random_bytes_bring_nothing_but_a_protocol_error(data: bytes) -> None:
    for start in (
        b"",
        b"\x00\x53\x73",
        b"\x00\x53\x74",
        b"\x00\x53\x77",
        b"\x00\x53\x77\xc0",
        b"\x00\x53\x77\xe0",
    ):
        for read in (decode, split_batch, split_body):
            try:
                read(start + data)
            except RemoteProtocolError:
                pass


@given(messages, st.data())
def test_a_changed_message_brings_nothing_but_a_protocol_error(
    message: AmqpMessage, data: st.DataObject
) -> None:
    encoded = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    try:
        read = decode(bytes(encoded))
    except RemoteProtocolError:
        return
    # Whatever could be read can be echoed.
    answer = AmqpMessage(correlation_id=read.message_id, content_type=read.content_type, value=read.value)
    assert decode(encode(answer)).correlation_id == read.message_id


@given(scalars)
def test_the_end_of_a_value_is_found_without_reading_it(value: object) -> None:
    encoded = encode_value([value, {"a": value}, Described(ULong(1), value)])

    assert value_end(encoded + b"rest", 0) == len(encoded)
