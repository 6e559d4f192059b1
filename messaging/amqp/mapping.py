"""Messages over AMQP: from the sections of an AMQP message to what the hub routes and stores, and back.

What comes out of here is the same `Message` that comes out of a property bag of MQTT, and what goes in may
have come from there.

Source: spec sheet hub-protocols.md sections 1.11, 3.6 and 7.2
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final

from messaging import system_properties as names
from messaging.amqp.codec import AmqpMessage, Timestamp, UByte, ULong
from messaging.amqp.conditions import ARGUMENT_ERROR, MESSAGE_SIZE_EXCEEDED, Refusal
from messaging.amqp.plain import id_text, number_of
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.property_bag import Properties
from messaging.time_text import iso_of_ms, ms_of_iso

ACK: Final = "iothub-ack"  # IoT Hub's name for it among the application properties of a message to a device

_OUTPUT: Final = "iothub-outputname"
_INPUT: Final = "x-opt-input-name"
_ENQUEUED: Final = "iothub-enqueuedtime"
_DELIVERY_COUNT: Final = "iothub-deliverycount"
_SEQUENCE_NUMBER: Final = "x-opt-sequence-number"
_LOCK_TOKEN: Final = "x-opt-lock-token"
_DEVICE: Final = "iothub-connection-device-id"
_MODULE: Final = "iothub-connection-module-id"

# System properties that travel among the application properties …
_APPLICATION: Final = {
    "iothub-message-schema": names.MESSAGE_SCHEMA,
    "iothub-creation-time-utc": names.CREATION_TIME,
    "iothub-operation": names.OPERATION,
    _OUTPUT: names.OUTPUT_NAME,
}
_APPLICATION_OUT: Final = {name: wire for wire, name in _APPLICATION.items()} | {names.ACK: ACK}
_APPLICATION_TO_DEVICE: Final = {
    name: wire for name, wire in _APPLICATION_OUT.items() if name != names.OUTPUT_NAME
}
# … and those that a sender writes into the annotations.
_ANNOTATIONS: Final = {names.COMPONENT: names.COMPONENT, names.INTERFACE_ID: names.INTERFACE_ID}


def read_message(received: AmqpMessage) -> Message | Refusal:
    """Return the message that a device, module or service has sent. Its source is not said: "".

    Of application properties only texts are kept, others have no value. What only the hub says (who has sent
    it, when it came) is passed over; `read_cloud_message` takes the rest of it.
    """
    body = _body(received)
    if isinstance(body, Refusal):
        return body
    properties, system_properties = _properties(received)
    return Message("", properties, system_properties, body)


def read_cloud_message(received: AmqpMessage) -> Message | Refusal:
    """Return the message that IoT Hub sends to a device, with what it alone says about it."""
    message = read_message(received)
    if isinstance(message, Refusal):
        return message
    system_properties = dict(message.system_properties)
    enqueued_ms = number_of(received.annotations.get(_ENQUEUED))
    if enqueued_ms is not None:
        system_properties[names.ENQUEUED_TIME] = iso_of_ms(enqueued_ms)
    for wire, name in ((_DELIVERY_COUNT, names.DELIVERY_COUNT), (_SEQUENCE_NUMBER, names.SEQUENCE_NUMBER)):
        count = number_of(received.annotations.get(wire))
        if count is not None:
            system_properties[name] = str(count)
    return Message("", message.properties, system_properties, message.body)


def size_refusal(message: Message) -> Refusal | None:
    """Refuse a message that is too large; what the hub adds to it does not count."""
    over_bytes = message.size_bytes - LARGEST_MESSAGE_BYTES
    return None if over_bytes <= 0 else too_large(over_bytes)


def too_large(over_bytes: int) -> Refusal:
    """Return why a message is refused that is so many bytes over the limit."""
    return Refusal(
        MESSAGE_SIZE_EXCEEDED, f"a message is {over_bytes} bytes over the limit of {LARGEST_MESSAGE_BYTES}"
    )


def message_to_cloud(message: Message) -> AmqpMessage:
    """Return a message as it goes on to the cloud: all that its sender wrote, and no more.

    The cloud stamps the identity of the link itself.
    """
    sent = _sections(message)
    _put_applications(sent, message.properties, message.system_properties, _APPLICATION_OUT)
    for name, wire in _ANNOTATIONS.items():
        value = message.system_properties.get(name)
        if value:
            sent.annotations[wire] = value
    return sent


def message_to_device(
    message: Message, lock: uuid.UUID | None = None, *, to: str | None = None, input_name: str | None = None
) -> AmqpMessage:
    """Return a message as a device or module gets it.

    The sender's ids go out as annotations; for a reported-properties message they are the reporter's. The
    name of the output never goes out. A property without a value becomes "": the C SDK cannot read null.

    Args:
        message: With what IoT Hub says of it among its system properties.
        lock: What the delivery is known by, see `lock_tag`; None: it is left out.
        to: Replaces the property of this name.
        input_name: Of a module; None for a cloud-to-device message.
    """
    system_properties = message.system_properties
    sent = _sections(message)
    if to is not None:
        sent.to = to
    texts = {
        name: "" if value is None else value for name, value in message.properties.items() if name != _OUTPUT
    }
    _put_applications(sent, texts, system_properties, _APPLICATION_TO_DEVICE)
    annotations = sent.annotations
    reporter = system_properties.get(names.REPORTER_DEVICE_ID)
    device_id = reporter or system_properties.get(names.CONNECTION_DEVICE_ID)
    module_id = system_properties.get(names.REPORTER_MODULE_ID if reporter else names.CONNECTION_MODULE_ID)
    for wire, value in (
        (_LOCK_TOKEN, None if lock is None else str(lock)),  # first: see heads.py
        (_INPUT, input_name),
        (_DEVICE, device_id),
        (_MODULE, module_id),
        (names.COMPONENT, system_properties.get(names.COMPONENT)),
    ):
        if value:
            annotations[wire] = value
    enqueued_ms = _milliseconds(system_properties.get(names.ENQUEUED_TIME))
    if enqueued_ms is not None:
        annotations[_ENQUEUED] = Timestamp(enqueued_ms)
    delivery_count = _number(system_properties.get(names.DELIVERY_COUNT), 2**8 - 1)
    if delivery_count is not None:
        annotations[_DELIVERY_COUNT] = UByte(delivery_count)
    sequence_number = _number(system_properties.get(names.SEQUENCE_NUMBER), 2**64 - 1)
    if sequence_number is not None:
        annotations[_SEQUENCE_NUMBER] = ULong(sequence_number)
    return sent


def lock_tag(lock: uuid.UUID) -> bytes:
    """Return the delivery tag for a lock: the 16 bytes of its GUID in the order of .NET."""
    return lock.bytes_le


def _body(received: AmqpMessage) -> bytes | Refusal:
    if not received.is_value:
        return received.body
    value = received.value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    return Refusal(
        ARGUMENT_ERROR, f"the body is a value of type {type(value).__name__}; it has to be bytes or a text"
    )


def _properties(received: AmqpMessage) -> tuple[dict[str, str | None], dict[str, str | None]]:
    properties: dict[str, str | None] = {}
    system_properties: dict[str, str | None] = {}
    expiry_ms = received.absolute_expiry_time_ms
    for name, text in (
        (names.MESSAGE_ID, None if received.message_id is None else id_text(received.message_id)),
        (names.CORRELATION_ID, None if received.correlation_id is None else id_text(received.correlation_id)),
        (names.USER_ID, None if received.user_id is None else received.user_id.decode(errors="replace")),
        (names.TO, received.to),
        (names.CONTENT_TYPE, received.content_type),
        (names.CONTENT_ENCODING, received.content_encoding),
        (names.EXPIRY, iso_of_ms(expiry_ms) if expiry_ms else None),
    ):
        if text:
            system_properties[name] = str(text)  # some clients write symbols
    for wire, name in _ANNOTATIONS.items():
        value = received.annotations.get(wire)
        if value and isinstance(value, str):
            system_properties[name] = str(value)
    for wire, value in received.application_properties.items():
        canonical = _APPLICATION.get(wire)
        if canonical is None:
            properties[wire] = str(value) if isinstance(value, str) else None
        elif isinstance(value, str) and value:
            system_properties[canonical] = str(value)
        elif canonical is names.CREATION_TIME and isinstance(value, Timestamp):
            system_properties[canonical] = iso_of_ms(value)
    return properties, system_properties


def _sections(message: Message) -> AmqpMessage:
    """Return the body and what stands in the properties section."""
    known = message.system_properties.get
    user_id, content_type, encoding = (
        known(names.USER_ID),
        known(names.CONTENT_TYPE),
        known(names.CONTENT_ENCODING),
    )
    return AmqpMessage(
        body=message.body,
        message_id=known(names.MESSAGE_ID) or None,
        correlation_id=known(names.CORRELATION_ID) or None,
        user_id=user_id.encode() if user_id else None,
        to=known(names.TO) or None,
        content_type=_symbol(content_type),
        content_encoding=_symbol(encoding),
        absolute_expiry_time_ms=_milliseconds(known(names.EXPIRY)),
    )


def _put_applications(
    sent: AmqpMessage, properties: Properties, system_properties: Properties, wires: Mapping[str, str]
) -> None:
    sent.application_properties.update(properties)
    for name, wire in wires.items():
        value = system_properties.get(name)
        if value:
            sent.application_properties[wire] = value  # it replaces a property that uses its name


def _symbol(text: str | None) -> str | None:
    """Return a text as the symbol that it has to be over AMQP: ASCII alone; MQTT has no such limit."""
    return text.encode("ascii", "replace").decode() if text else None


def _milliseconds(text: str | None) -> int | None:
    """Return a time as AMQP has it; one that nobody can read is none."""
    try:
        return ms_of_iso(text) if text else None
    except ValueError:
        return None


def _number(text: str | None, most: int) -> int | None:
    try:
        number = int(text) if text else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number <= most else None
