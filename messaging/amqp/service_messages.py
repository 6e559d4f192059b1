"""What services send to IoT Hub and get from it: messages to devices, feedback, the stream of events.

Source: spec sheets hub-protocols.md sections 3.6, 7.4 and 7.7, security-daemon.md section 4.7
"""

from __future__ import annotations

from typing import Final, Literal, cast, get_args

from msgspec import Struct

from messaging import system_properties as names
from messaging.amqp.addresses import LinkKind, parse_address
from messaging.amqp.codec import AmqpMessage, Long, Timestamp
from messaging.amqp.conditions import ARGUMENT_ERROR, Refusal
from messaging.amqp.mapping import ACK, message_to_cloud, read_message
from messaging.message import FEEDBACK_TYPE, Message
from messaging.text import quoted

Ack = Literal["none", "positive", "negative", "full"]

_TELLS: Final = get_args(Ack)


class ToDevice(Struct, frozen=True):
    """A message that a service sends to a device."""

    device_id: str
    message: Message  # without `to`, `ack` and expiry among its system properties: they stand here
    ack: Ack
    expires_s: float | None  # seconds since 1970-01-01 UTC; None: as long as the hub keeps one


class Stamps(Struct, frozen=True):
    """What IoT Hub adds to a message of a device, for whoever reads the stream."""

    sequence_number: int
    enqueued_ms: int  # since 1970-01-01 UTC
    device_id: str
    module_id: str | None
    generation_id: str
    auth_method: str  # JSON text
    source: str = "Telemetry"
    partition_key: str = ""


def read_to_device(received: AmqpMessage) -> ToDevice | Refusal:
    """Read what a service sends to a device; `to` says to which, there is no such message to a module."""
    address = received.to or ""
    link = parse_address(address, client_sends=False)
    if isinstance(link, Refusal) or link.kind is not LinkKind.C2D or link.identity.module_id is not None:
        return Refusal(
            ARGUMENT_ERROR, f"to is {quoted(address)}; it has to be /devices/{{device}}/messages/devicebound"
        )
    message = read_message(received)
    if isinstance(message, Refusal):
        return message
    properties, system_properties = dict(message.properties), dict(message.system_properties)
    ack = (properties.pop(ACK, None) or "none").lower()
    if ack not in _TELLS:
        return Refusal(ARGUMENT_ERROR, f"{ACK} is {quoted(ack)}; it can be {', '.join(_TELLS)}")
    for name in (names.TO, names.EXPIRY):
        system_properties.pop(name, None)
    expiry_ms = received.absolute_expiry_time_ms
    return ToDevice(
        link.identity.device_id,
        Message("", properties, system_properties, message.body),
        cast(Ack, ack),
        expiry_ms / 1000 if expiry_ms else None,
    )


def feedback(records: bytes, enqueued_ms: int, hub: str) -> AmqpMessage:
    """Return what became of messages, for the services that have sent them; `records` is a JSON array.

    The .NET SDK cannot read one without a user id: IoT Hub names itself there.
    """
    return AmqpMessage(
        body=records,
        user_id=hub.encode(),
        content_type=FEEDBACK_TYPE,
        content_encoding="utf-8",
        annotations={"iothub-enqueuedtime": Timestamp(enqueued_ms)},
    )


def event(message: Message, stamps: Stamps) -> AmqpMessage:
    """Return a message of a device as a reader of the Event Hubs-compatible endpoint gets it."""
    sent = message_to_cloud(message)
    annotations = sent.annotations
    annotations["x-opt-sequence-number"] = Long(stamps.sequence_number)
    annotations["x-opt-offset"] = str(stamps.sequence_number)
    annotations["x-opt-enqueued-time"] = Timestamp(stamps.enqueued_ms)
    if stamps.partition_key:
        annotations["x-opt-partition-key"] = stamps.partition_key
    annotations["iothub-connection-device-id"] = stamps.device_id
    if stamps.module_id is not None:
        annotations["iothub-connection-module-id"] = stamps.module_id
    annotations["iothub-connection-auth-method"] = stamps.auth_method
    annotations["iothub-connection-auth-generation-id"] = stamps.generation_id
    annotations["iothub-enqueuedtime"] = Timestamp(stamps.enqueued_ms)
    annotations["iothub-message-source"] = stamps.source
    return sent
