import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from messaging import system_properties as names
from messaging.amqp.codec import AmqpMessage, Int, MessageId, Symbol, Timestamp, UByte, ULong
from messaging.amqp.conditions import Refusal
from messaging.amqp.mapping import (
    lock_tag,
    message_to_cloud,
    message_to_device,
    read_cloud_message,
    read_message,
    size_refusal,
)
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.property_bag import decode_bag

ONE = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
EXPIRY_MS = 1_700_000_000_123
EXPIRY = "2023-11-14T22:13:20.123Z"


def read(received: AmqpMessage) -> Message:
    message = read_message(received)
    assert isinstance(message, Message)
    return message


@pytest.mark.parametrize(
    ("received", "system_properties"),
    [
        pytest.param(AmqpMessage(message_id="m"), {"messageId": "m"}, id="message id"),
        pytest.param(
            AmqpMessage(message_id=ONE), {"messageId": str(ONE)}, id="message id that is a uuid: Node"
        ),
        pytest.param(AmqpMessage(message_id=7), {"messageId": "7"}, id="message id that is a ulong"),
        pytest.param(
            AmqpMessage(message_id=b"\1\xff"), {"messageId": "01ff"}, id="message id that is binary"
        ),
        pytest.param(AmqpMessage(correlation_id="c"), {"cid": "c"}, id="correlation id"),
        pytest.param(AmqpMessage(correlation_id=ONE), {"cid": str(ONE)}, id="correlation id that is a uuid"),
        pytest.param(AmqpMessage(user_id="ü".encode()), {"userId": "ü"}, id="user id"),
        pytest.param(AmqpMessage(user_id=b"\xff"), {"userId": "�"}, id="user id that is no text"),
        pytest.param(
            AmqpMessage(to="/devices/D/messages/events"), {"to": "/devices/D/messages/events"}, id="to"
        ),
        pytest.param(
            AmqpMessage(content_type="text/plain"), {"contentType": "text/plain"}, id="content type"
        ),
        pytest.param(AmqpMessage(content_encoding="utf-8"), {"contentEncoding": "utf-8"}, id="encoding"),
        pytest.param(
            AmqpMessage(absolute_expiry_time_ms=EXPIRY_MS),
            {"absolute-expiry-time": EXPIRY},
            id="expiry in ms",
        ),
        pytest.param(
            AmqpMessage(absolute_expiry_time_ms=2**63 - 1),
            {"absolute-expiry-time": "9999-12-31T23:59:59.999Z"},
            id="expiry beyond all years",
        ),
        pytest.param(AmqpMessage(absolute_expiry_time_ms=0), {}, id="expiry 0 is none"),
        pytest.param(
            AmqpMessage(application_properties={"iothub-message-schema": "s"}),
            {"messageSchema": "s"},
            id="schema",
        ),
        pytest.param(
            AmqpMessage(application_properties={"iothub-creation-time-utc": "2024-01-31T10:00:00.0000000Z"}),
            {"creationTime": "2024-01-31T10:00:00.0000000Z"},
            id="creation time",
        ),
        pytest.param(
            AmqpMessage(application_properties={"iothub-creation-time-utc": Timestamp(EXPIRY_MS)}),
            {"creationTime": EXPIRY},
            id="creation time as AMQP has times",
        ),
        pytest.param(
            AmqpMessage(application_properties={"iothub-operation": "o"}), {"operation": "o"}, id="operation"
        ),
        pytest.param(
            AmqpMessage(application_properties={"iothub-outputname": "out"}),
            {"outputName": "out"},
            id="output",
        ),
        pytest.param(AmqpMessage(application_properties={"iothub-outputname": ""}), {}, id="an empty output"),
        pytest.param(
            AmqpMessage(application_properties={"iothub-outputname": Int(1)}), {}, id="output is no text"
        ),
        pytest.param(
            AmqpMessage(annotations={"dt-subject": "thermostat1"}),
            {"dt-subject": "thermostat1"},
            id="component",
        ),
        pytest.param(
            AmqpMessage(annotations={"iothub-interface-id": "urn:i:1"}),
            {"iothub-interface-id": "urn:i:1"},
            id="interface",
        ),
        pytest.param(
            AmqpMessage(
                subject="s",
                reply_to="r",
                creation_time_ms=5,
                annotations={
                    "iothub-connection-device-id": "evil",
                    "iothub-connection-module-id": "evil",
                    "x-opt-input-name": "i",
                    "x-opt-lock-token": str(ONE),
                    "iothub-enqueuedtime": Timestamp(5),
                    "iothub-deliverycount": UByte(5),
                    "x-opt-sequence-number": ULong(5),
                    "Diagnostic-Id": "d",
                    "dt-subject": 5,
                },
            ),
            {},
            id="what a client has no say in, or what means nothing",
        ),
    ],
)
def test_system_properties_are_read_from_their_places(
    received: AmqpMessage, system_properties: dict[str, str]
) -> None:
    message = read(received)

    assert message.system_properties == system_properties
    assert message.properties == {}
    assert message.source == ""


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        pytest.param("v", "v", id="a text"),
        pytest.param("", "", id="an empty text"),
        pytest.param(Symbol("v"), "v", id="a symbol"),
        pytest.param(None, None, id="null"),
        pytest.param(5, None, id="a number"),
        pytest.param(True, None, id="a truth value"),
        pytest.param(1.5, None, id="a fraction"),
        pytest.param(b"v", None, id="binary"),
        pytest.param(ONE, None, id="a uuid"),
    ],
)
def test_of_application_properties_only_texts_are_kept(value: object, kept: str | None) -> None:
    assert read(AmqpMessage(application_properties={"p": value})).properties == {"p": kept}


def test_what_iot_hub_calls_ack_is_an_ordinary_property_of_a_message_to_the_hub() -> None:
    assert read(AmqpMessage(application_properties={"iothub-ack": "full"})).properties == {
        "iothub-ack": "full"
    }


@pytest.mark.parametrize(
    ("received", "body"),
    [
        pytest.param(AmqpMessage(b"abc"), b"abc", id="Data"),
        pytest.param(AmqpMessage(value="ü", is_value=True), "ü".encode(), id="a text as value"),
        pytest.param(AmqpMessage(value=b"\0", is_value=True), b"\0", id="binary as value"),
        pytest.param(AmqpMessage(value=None, is_value=True), b"", id="null as value"),
        pytest.param(AmqpMessage(value={"a": 1}, is_value=True), None, id="a map as value"),
        pytest.param(AmqpMessage(value=5, is_value=True), None, id="a number as value"),
    ],
)
def test_the_body_is_bytes(received: AmqpMessage, body: bytes | None) -> None:
    message = read_message(received)

    if body is None:
        assert isinstance(message, Refusal)
        assert message.condition == "com.microsoft:argument-error"
    else:
        assert isinstance(message, Message)
        assert message.body == body


@pytest.mark.parametrize(
    ("over_bytes", "refused"),
    [pytest.param(0, False, id="row 22: the limit"), pytest.param(1, True, id="row 22: one byte more")],
)
def test_a_message_may_have_262144_bytes_with_its_properties(over_bytes: int, refused: bool) -> None:
    named = {"name": "value"}
    body = b"x" * (LARGEST_MESSAGE_BYTES - len("namevalue") - len("messageIdm") + over_bytes)
    message = read(AmqpMessage(body, message_id="m", application_properties=dict(named)))

    refusal = size_refusal(message)

    assert (refusal is not None) is refused
    if refusal is not None:
        assert refusal.condition == "amqp:link:message-size-exceeded"


def test_a_message_is_the_same_whether_it_came_over_mqtt_or_amqp() -> None:
    properties, system_properties = decode_bag(
        "color=red&empty=&none&%24.on=out&%24.mid=m&%24.cid=c&%24.uid=u&%24.to=t&%24.ct=application%2Fjson"
        "&%24.ce=utf-8&%24.ifid=urn%3Ai&%24.sub=part&%24.schema=s&%24.ctime=2024-01-31T10%3A00%3A00Z"
        f"&iothub-operation=o&%24.exp={EXPIRY}"
    )
    over_mqtt = Message("", properties, system_properties, b"body")

    over_amqp = read(
        AmqpMessage(
            b"body",
            message_id="m",
            correlation_id="c",
            user_id=b"u",
            to="t",
            content_type="application/json",
            content_encoding="utf-8",
            absolute_expiry_time_ms=EXPIRY_MS,
            application_properties={
                "color": "red",
                "empty": "",
                "none": None,
                "iothub-outputname": "out",
                "iothub-message-schema": "s",
                "iothub-creation-time-utc": "2024-01-31T10:00:00Z",
                "iothub-operation": "o",
            },
            annotations={"iothub-interface-id": "urn:i", "dt-subject": "part"},
        )
    )

    assert over_amqp == over_mqtt


SENT = Message(
    "/messages/modules/A/outputs/o/",
    {"color": "red", "none": None},
    {
        names.MESSAGE_ID: "m",
        names.CORRELATION_ID: "c",
        names.USER_ID: "u",
        names.TO: "t",
        names.CONTENT_TYPE: "application/json",
        names.CONTENT_ENCODING: "utf-8",
        names.EXPIRY: EXPIRY,
        names.CREATION_TIME: "2024-01-31T10:00:00Z",
        names.MESSAGE_SCHEMA: "s",
        names.OPERATION: "op",
        names.OUTPUT_NAME: "o",
        names.INTERFACE_ID: "urn:i",
        names.COMPONENT: "part",
        names.CONNECTION_DEVICE_ID: "D",
        names.CONNECTION_MODULE_ID: "A",
        names.ORIGIN: "internal",
        names.MODEL_ID: "dtmi:a;1",
    },
    b"body",
)


def test_a_message_to_the_cloud_has_all_that_its_sender_wrote_and_no_more() -> None:
    assert message_to_cloud(SENT) == AmqpMessage(
        b"body",
        message_id="m",
        correlation_id="c",
        user_id=b"u",
        to="t",
        content_type="application/json",
        content_encoding="utf-8",
        absolute_expiry_time_ms=EXPIRY_MS,
        application_properties={
            "color": "red",
            "none": None,
            "iothub-message-schema": "s",
            "iothub-creation-time-utc": "2024-01-31T10:00:00Z",
            "iothub-operation": "op",
            "iothub-outputname": "o",
        },
        annotations={"dt-subject": "part", "iothub-interface-id": "urn:i"},
    )


def test_a_module_gets_a_message_with_input_and_sender_and_without_the_output() -> None:
    assert message_to_device(SENT, ONE, input_name="i1") == AmqpMessage(
        b"body",
        message_id="m",
        correlation_id="c",
        user_id=b"u",
        to="t",
        content_type="application/json",
        content_encoding="utf-8",
        absolute_expiry_time_ms=EXPIRY_MS,
        application_properties={
            "color": "red",
            "none": "",
            "iothub-message-schema": "s",
            "iothub-creation-time-utc": "2024-01-31T10:00:00Z",
            "iothub-operation": "op",
        },
        annotations={
            "x-opt-input-name": "i1",
            "iothub-connection-device-id": "D",
            "iothub-connection-module-id": "A",
            "dt-subject": "part",
            "x-opt-lock-token": str(ONE),
        },
    )


def test_a_device_gets_a_message_of_the_cloud_with_what_iot_hub_says_of_it() -> None:
    message = Message(
        "",
        {"p": "v"},
        {
            names.MESSAGE_ID: "m",
            names.TO: "/devices/D/messages/devicebound",
            names.ACK: "full",
            names.ENQUEUED_TIME: EXPIRY,
            names.DELIVERY_COUNT: "2",
            names.SEQUENCE_NUMBER: "18446744073709551615",
        },
        b"body",
    )

    sent = message_to_device(message, ONE, to="/devices/D")

    assert sent.to == "/devices/D"
    assert sent.application_properties == {"p": "v", "iothub-ack": "full"}
    assert {name: (type(value), value) for name, value in sent.annotations.items()} == {
        "x-opt-lock-token": (str, str(ONE)),
        "iothub-enqueuedtime": (Timestamp, EXPIRY_MS),
        "iothub-deliverycount": (UByte, 2),
        "x-opt-sequence-number": (ULong, 2**64 - 1),
    }
    assert message_to_device(message, ONE).to == "/devices/D/messages/devicebound"


def test_what_a_peer_cannot_read_as_a_number_or_time_is_left_out() -> None:
    message = Message(
        "",
        {},
        {
            names.EXPIRY: "tomorrow",
            names.ENQUEUED_TIME: "x",
            names.DELIVERY_COUNT: "256",
            names.SEQUENCE_NUMBER: "-1",
        },
        b"",
    )

    assert message_to_device(message) == AmqpMessage()


def test_a_content_type_that_is_no_symbol_does_not_hold_up_the_message() -> None:
    message = Message("", {}, {names.CONTENT_TYPE: "text/ü", names.CONTENT_ENCODING: "ü"}, b"")

    sent = message_to_device(message)

    assert (sent.content_type, sent.content_encoding) == ("text/?", "?")


def test_a_message_of_reported_properties_names_the_reporter() -> None:
    message = Message(
        "/twinChangeNotifications/",
        {},
        {
            names.CONNECTION_DEVICE_ID: "E",
            names.CONNECTION_MODULE_ID: "$edgeHub",
            names.REPORTER_DEVICE_ID: "D",
        },
        b"{}",
    )

    assert message_to_device(message).annotations == {"iothub-connection-device-id": "D"}


def test_a_property_cannot_pass_for_an_output_nor_for_what_the_hub_says() -> None:
    message = Message(
        "",
        {"iothub-outputname": "x", "iothub-message-schema": "mine", "iothub-connection-device-id": "evil"},
        {names.MESSAGE_SCHEMA: "s", names.CONNECTION_DEVICE_ID: "D"},
        b"",
    )

    sent = message_to_device(message)

    assert sent.application_properties == {
        "iothub-message-schema": "s",
        "iothub-connection-device-id": "evil",
    }
    assert sent.annotations == {"iothub-connection-device-id": "D"}


def test_the_delivery_tag_is_the_lock_in_the_byte_order_of_dotnet() -> None:
    tag = lock_tag(ONE)

    assert tag.hex() == "33221100554477668899aabbccddeeff"


def test_a_message_of_the_cloud_keeps_what_iot_hub_says_of_it() -> None:
    received = AmqpMessage(
        b"body",
        message_id="m",
        application_properties={"iothub-ack": "full"},
        annotations={
            "iothub-enqueuedtime": Timestamp(EXPIRY_MS),
            "iothub-deliverycount": UByte(1),
            "x-opt-sequence-number": ULong(9),
            "x-opt-lock-token": str(ONE),
        },
    )

    assert read_cloud_message(received) == Message(
        "",
        {"iothub-ack": "full"},
        {
            names.MESSAGE_ID: "m",
            names.ENQUEUED_TIME: EXPIRY,
            names.DELIVERY_COUNT: "1",
            names.SEQUENCE_NUMBER: "9",
        },
        b"body",
    )
    assert isinstance(read_cloud_message(AmqpMessage(value=5, is_value=True)), Refusal)


texts = st.text(min_size=1)
symbols = st.text(st.characters(max_codepoint=127), min_size=1)
times = st.datetimes(timezones=st.none()).map(lambda t: f"{t.isoformat(timespec='milliseconds')}Z")
properties = st.dictionaries(
    st.text().filter(lambda name: not name.startswith("iothub-")), st.none() | st.text()
)
system_properties = st.fixed_dictionaries(
    {},
    optional={
        names.MESSAGE_ID: texts,
        names.CORRELATION_ID: texts,
        names.USER_ID: st.text(st.characters(codec="utf-8"), min_size=1),
        names.TO: texts,
        names.CONTENT_TYPE: symbols,
        names.CONTENT_ENCODING: symbols,
        names.EXPIRY: times.filter(lambda text: text != "1970-01-01T00:00:00.000Z"),
        names.CREATION_TIME: texts,
        names.MESSAGE_SCHEMA: texts,
        names.OPERATION: texts,
        names.OUTPUT_NAME: texts,
        names.INTERFACE_ID: texts,
        names.COMPONENT: texts,
    },
)
messages = st.builds(Message, st.just(""), properties, system_properties, st.binary())


@given(messages)
def test_the_cloud_reads_what_a_sender_wrote(message: Message) -> None:
    assert read(message_to_cloud(message)) == message


@given(messages, times, st.integers(0, 255), st.integers(0, 2**64 - 1))
def test_the_link_reads_what_the_cloud_sends_to_a_device(
    message: Message, enqueued: str, delivery_count: int, sequence_number: int
) -> None:
    hub = {
        names.ENQUEUED_TIME: enqueued,
        names.DELIVERY_COUNT: str(delivery_count),
        names.SEQUENCE_NUMBER: str(sequence_number),
    }
    lost = (names.OUTPUT_NAME, names.INTERFACE_ID)
    known = {name: text for name, text in message.system_properties.items() if name not in lost}

    received = read_cloud_message(
        message_to_device(replace(message, system_properties={**message.system_properties, **hub}), ONE)
    )

    assert received == Message(
        "", {name: text or "" for name, text in message.properties.items()}, {**known, **hub}, message.body
    )


any_value = (
    st.none()
    | st.text()
    | st.integers()
    | st.booleans()
    | st.binary()
    | st.floats()
    | st.uuids()
    | st.lists(st.text())
)
ids: st.SearchStrategy[MessageId | None] = (
    st.none() | st.text() | st.integers(0, 2**64 - 1) | st.uuids() | st.binary()
)


@given(
    st.builds(
        AmqpMessage,
        body=st.binary(),
        message_id=ids,
        correlation_id=ids,
        user_id=st.none() | st.binary(),
        to=st.none() | st.text(),
        content_type=st.none() | st.text(),
        content_encoding=st.none() | st.text(),
        absolute_expiry_time_ms=st.none() | st.integers(-(2**63), 2**63 - 1),
        application_properties=st.dictionaries(st.text(), any_value),
        annotations=st.dictionaries(
            st.sampled_from(["dt-subject", "iothub-enqueuedtime", "iothub-deliverycount"]), any_value
        ),
        value=any_value,
        is_value=st.booleans(),
    )
)
def test_whatever_a_peer_sends_is_a_message_of_texts_or_refused(received: AmqpMessage) -> None:
    message = read_cloud_message(received)

    if isinstance(message, Message):
        assert all(isinstance(text, str) for text in message.system_properties.values())
        assert all(text is None or isinstance(text, str) for text in message.properties.values())
        assert isinstance(message_to_device(message, ONE), AmqpMessage)
        assert isinstance(message_to_cloud(message), AmqpMessage)
