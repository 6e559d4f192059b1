import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import system_properties as names
from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage, decode, encode, join_batch
from messaging.amqp.conditions import Refusal
from messaging.amqp.heads import (
    LARGEST_BATCH_BYTES,
    REMEMBERED_HEADS,
    CloudWriter,
    DeviceWriter,
    TelemetryReader,
)
from messaging.amqp.mapping import message_to_cloud, message_to_device, read_message
from messaging.errors import EnvelopeError
from messaging.message import LARGEST_MESSAGE_BYTES, Message, encode_header

ONE = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")

texts = st.text(min_size=1)
messages = st.builds(
    Message,
    st.just(""),
    st.dictionaries(st.text().filter(lambda name: not name.startswith("iothub-")), st.none() | st.text()),
    st.dictionaries(
        st.sampled_from(
            [names.MESSAGE_ID, names.CORRELATION_ID, names.TO, names.OUTPUT_NAME, names.COMPONENT]
        ),
        texts,
    ),
    st.binary(max_size=300),
)


class Asked:
    """Counts how often a header was made; a header is the message without body."""

    def __init__(self) -> None:
        self.times = 0
        self.reader = TelemetryReader(self._make)

    def _make(self, message: Message) -> Message:
        assert message.body == b""
        self.times += 1
        return message

    def read(self, data: bytes, message_format: int = 0) -> list[tuple[Message, bytes]]:
        read = self.reader.read(data, message_format)
        assert not isinstance(read, Refusal)
        return read


def empty(received: AmqpMessage) -> Message:
    message = read_message(received)
    assert isinstance(message, Message)
    return Message("", message.properties, message.system_properties, b"")


def sections(*parts: bytes) -> bytes:
    return b"".join(parts)


PROPERTIES = b"\x00\x53\x73\xc0\x04\x01\xa1\x01m"  # message-id m
APPLICATION = b"\x00\x53\x74\xc1\x07\x02\xa1\x01k\xa1\x01v"  # k=v
ANNOTATIONS = b"\x00\x53\x72\xc1\x13\x02\xa3\x0adt-subject\xa1\x04part"
DATA = b"\x00\x53\x75\xa0\x03abc"


def test_row_63_the_sections_of_a_batch_element_may_stand_in_the_order_of_the_c_sdk() -> None:
    element = sections(PROPERTIES, APPLICATION, ANNOTATIONS, DATA)
    batch = join_batch([element, element.replace(b"abc", b"xyz")])

    read = Asked().read(batch, BATCH_FORMAT)

    header = Message("", {"k": "v"}, {"messageId": "m", "dt-subject": "part"}, b"")
    assert read == [(header, b"abc"), (header, b"xyz")]


def test_a_head_is_read_once_for_all_messages_that_have_it() -> None:
    asked = Asked()
    first = AmqpMessage(b"1", application_properties={"k": "v"})
    other = AmqpMessage(b"1", application_properties={"k": "w"})

    read = [asked.read(encode(message))[0] for message in (first, other, first, first, other)]

    assert asked.times == 2
    assert read == [(empty(message), b"1") for message in (first, other, first, first, other)]


def test_heads_are_not_remembered_without_end() -> None:
    asked = Asked()
    for number in range(REMEMBERED_HEADS + 1):
        asked.read(encode(AmqpMessage(b"", message_id=str(number))))
    long = encode(AmqpMessage(b"", application_properties={"k": "v" * 5000}))

    asked.read(long)
    asked.read(long)
    asked.read(encode(AmqpMessage(b"", message_id="0")))

    assert asked.times == REMEMBERED_HEADS + 1 + 2 + 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x53\x75\xa0\xffabc", id="cut off"),
        pytest.param(b"\x00\x53\x75", id="cut off before the value"),
        pytest.param(b"hello", id="no sections"),
        pytest.param(sections(PROPERTIES, b"\x00\x53\x73\x45", b"\x01"), id="rubbish behind it"),
        pytest.param(b"\x00\x53\x73\xc0\x02\x01\x56\xff" + DATA, id="properties that cannot be"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    for message_format in (0, BATCH_FORMAT):
        refusal = Asked().reader.read(data, message_format)
        if message_format == BATCH_FORMAT and not isinstance(refusal, Refusal):
            continue  # taken for a batch of one element, if at all
        assert isinstance(refusal, Refusal)
        assert refusal.condition == "amqp:decode-error"


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(sections(PROPERTIES, DATA, DATA), b"abcabc", id="two Data sections"),
        pytest.param(sections(DATA, PROPERTIES), b"abc", id="the body first"),
        pytest.param(sections(PROPERTIES, DATA, b"\x00\x53\x78\xc1\x01\x00"), b"abc", id="with a footer"),
        pytest.param(sections(PROPERTIES, b"\x00\x53\x77\xa1\x03abc"), b"abc", id="a text as value"),
        pytest.param(PROPERTIES, b"", id="no body"),
        pytest.param(
            sections(b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x73", PROPERTIES[3:], DATA),
            b"abc",
            id="long descriptor",
        ),
    ],
)
def test_messages_of_an_unusual_shape_are_read_as_well(data: bytes, body: bytes) -> None:
    asked = Asked()

    for _ in range(2):
        assert asked.read(data) == [(Message("", {}, {"messageId": "m"}, b""), body)]


@pytest.mark.parametrize(
    ("body_bytes", "refused"),
    [
        pytest.param(LARGEST_MESSAGE_BYTES - len("messageIdm"), False, id="row 22: the limit"),
        pytest.param(LARGEST_MESSAGE_BYTES - len("messageIdm") + 1, True, id="row 22: one byte more"),
    ],
)
def test_the_size_of_every_message_is_checked_also_when_its_head_is_known(
    body_bytes: int, refused: bool
) -> None:
    asked = Asked()
    large = encode(AmqpMessage(b"x" * body_bytes, message_id="m"))
    small = encode(AmqpMessage(b"x", message_id="m"))

    for data in (large, small, large):
        read = asked.reader.read(data)
        assert isinstance(read, Refusal) is (refused and data is large)
        assert not isinstance(read, Refusal) or read.condition == "amqp:link:message-size-exceeded"


def test_a_batch_with_one_message_too_large_is_refused_as_a_whole() -> None:
    batch = join_batch([encode(AmqpMessage(b"x")), encode(AmqpMessage(b"x" * (LARGEST_MESSAGE_BYTES + 1)))])

    refusal = Asked().reader.read(batch, BATCH_FORMAT)

    assert isinstance(refusal, Refusal)
    assert refusal.condition == "amqp:link:message-size-exceeded"


@pytest.mark.parametrize(("over_bytes", "refused"), [(0, False), (1, True)])
def test_a_batch_may_have_600_kib(over_bytes: int, refused: bool) -> None:
    large = encode(AmqpMessage(b"x" * 200_000))
    spare = LARGEST_BATCH_BYTES - len(join_batch([large, large, large]))
    batch = join_batch([encode(AmqpMessage(b"x" * (200_000 + spare + over_bytes))), large, large])
    assert len(batch) == LARGEST_BATCH_BYTES + over_bytes

    read = Asked().reader.read(batch, BATCH_FORMAT)

    assert isinstance(read, Refusal) is refused
    assert not isinstance(read, Refusal) or read.condition == "amqp:not-allowed"


def test_a_message_with_a_body_of_no_bytes_is_refused() -> None:
    refusal = Asked().reader.read(encode(AmqpMessage(value=5, is_value=True)))

    assert isinstance(refusal, Refusal)
    assert refusal.condition == "com.microsoft:argument-error"


def test_a_device_gets_each_message_with_its_own_lock_and_body() -> None:
    writer = DeviceWriter(to="/devices/D")
    header = encode_header("", {"k": "v"}, {names.MESSAGE_ID: "m"})
    locks = [uuid.uuid4() for _ in range(3)]

    written = [
        writer.write(header, body, lock)
        for lock, body in zip(locks, (b"", b"x" * 255, b"x" * 256), strict=True)
    ]

    for lock, body, data in zip(locks, (b"", b"x" * 255, b"x" * 256), written, strict=True):
        message = Message("", {"k": "v"}, {names.MESSAGE_ID: "m"}, body)
        assert decode(data) == message_to_device(message, lock, to="/devices/D")


def test_a_text_that_looks_like_a_lock_is_left_alone() -> None:
    looks = str(uuid.UUID(int=0))
    message = Message("", {looks: looks}, {names.MESSAGE_ID: looks, names.COMPONENT: looks}, b"x")
    header = encode_header("", message.properties, message.system_properties)

    to_device = decode(DeviceWriter(to=looks, input_name=looks).write(header, b"x", ONE))

    assert to_device == message_to_device(message, ONE, to=looks, input_name=looks)
    assert decode(CloudWriter().write(message)) == message_to_cloud(message)


def test_a_damaged_header_is_said_to_be_one() -> None:
    with pytest.raises(EnvelopeError):
        DeviceWriter().write(b"\xc1", b"", ONE)


def test_writers_do_not_remember_without_end() -> None:
    to_device, to_cloud = DeviceWriter(input_name="i"), CloudWriter()
    for number in range(3 * REMEMBERED_HEADS):
        properties = {"k": str(number) * (2000 if number % 2 else 1)}
        to_device.write(encode_header("", properties, {}), b"", ONE)
        to_cloud.write(Message("", properties, {}, b""))

    assert len(to_device._known) <= REMEMBERED_HEADS
    assert len(to_cloud._known) <= REMEMBERED_HEADS


@given(st.lists(messages, min_size=1, max_size=5))
def test_what_a_link_writes_a_hub_reads(sent: list[Message]) -> None:
    writer, asked = CloudWriter(), Asked()

    singly = [asked.read(writer.write(message))[0] for message in sent for _ in range(2)]
    together = asked.read(join_batch([writer.write(message) for message in sent]), BATCH_FORMAT)

    assert [Message("", h.properties, h.system_properties, body) for h, body in together] == sent
    assert singly == [pair for pair in together for _ in range(2)]
    assert all(decode(writer.write(message)) == message_to_cloud(message) for message in sent)


@given(
    st.binary() | st.lists(st.sampled_from([PROPERTIES, APPLICATION, ANNOTATIONS, DATA])).map(b"".join),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3),
    st.sampled_from([0, BATCH_FORMAT]),
)
def test_whatever_arrives_is_read_or_refused(
    data: bytes, changes: list[tuple[int, int]], message_format: int
) -> None:
    mutated = bytearray(data)
    for at, value in changes:
        if mutated:
            mutated[at % len(mutated)] = value

    read = Asked().reader.read(bytes(mutated), message_format)

    assert isinstance(read, list | Refusal)


@given(messages, st.uuids(), st.none() | texts, st.none() | texts)
def test_what_a_device_gets_is_what_the_engine_would_write(
    message: Message, lock: uuid.UUID, to: str | None, input_name: str | None
) -> None:
    writer = DeviceWriter(to=to, input_name=input_name)
    header = encode_header("", message.properties, message.system_properties)

    for _ in range(2):
        written = decode(writer.write(header, message.body, lock))
        assert written == message_to_device(message, lock, to=to, input_name=input_name)
