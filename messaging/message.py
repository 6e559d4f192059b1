"""The message as the hub routes and stores it: where it comes from, its properties, its body.

The header (all but the body) is encoded apart. Messages of one sender on one topic have equal header bytes,
so that these bytes can be stored once per batch and serve as the key of caches.

Source: spec sheet routing.md section 3
"""

from __future__ import annotations

from typing import Final

import msgpack
from msgspec import Struct

from messaging import system_properties as names
from messaging.errors import EnvelopeError
from messaging.identity import Identity
from messaging.property_bag import Properties

LARGEST_MESSAGE_BYTES = 262_144  # body, names and values of properties together

TWIN_CHANGE: Final = "twinChangeNotification"  # the messageType of a reported-properties message
DIAGNOSTICS_TYPE: Final = "application/x-azureiot-edgeruntimediagnostics"  # contentType of how an edge runs
FEEDBACK_TYPE: Final = "application/vnd.microsoft.iothub.feedback.json"  # contentType of what became of C2D


class Message(Struct, frozen=True):
    """One message. A property without a value is None."""

    source: str  # the path that the FROM of a route is compared with; ends in a slash
    properties: Properties
    system_properties: Properties  # by canonical name: messaging/system_properties.py
    body: bytes

    @property
    def size_bytes(self) -> int:
        """What counts against `LARGEST_MESSAGE_BYTES`: bytes of the body, characters of the properties."""
        return len(self.body) + sum(
            len(name) + len(value or "")
            for properties in (self.properties, self.system_properties)
            for name, value in properties.items()
        )


def source_path(system_properties: Properties) -> str:
    """Return the path of a message's source, decided by its system properties; ends in a slash."""
    if (system_properties.get(names.MESSAGE_TYPE) or "").lower() == TWIN_CHANGE.lower():
        return "/twinChangeNotifications/"
    module_id = system_properties.get(names.CONNECTION_MODULE_ID)
    if not module_id:
        return "/messages/"
    output = system_properties.get(names.OUTPUT_NAME)
    if not output:
        return f"/messages/modules/{module_id}/"
    return f"/messages/modules/{module_id}/outputs/{output}/"


def stamp_sender(
    system_properties: Properties, sender: Identity, edge_device_id: str, model_id: str = ""
) -> dict[str, str | None]:
    """Return the system properties with what the hub adds: who sent the message, and from which side.

    Args:
        sender: The authenticated identity of the connection.
        edge_device_id: The device that this hub runs on; its modules are `internal`, all others `downstream`.
        model_id: The plug and play model that the connection announced, if any.
    """
    stamped = dict(system_properties)
    stamped[names.CONNECTION_DEVICE_ID] = sender.device_id
    if sender.module_id is not None:
        stamped[names.CONNECTION_MODULE_ID] = sender.module_id
    stamped[names.ORIGIN] = "internal" if sender.device_id == edge_device_id else "downstream"
    if model_id:
        stamped[names.MODEL_ID] = model_id
    return stamped


def sender_of(system_properties: Properties) -> str:
    """Return who sent a message, as `D` or `D/M`: whom `stamp_sender` named; "" when it names nobody."""
    device_id = system_properties.get(names.CONNECTION_DEVICE_ID) or ""
    module_id = system_properties.get(names.CONNECTION_MODULE_ID)
    return f"{device_id}/{module_id}" if module_id else device_id


def encode_header(source: str, properties: Properties, system_properties: Properties) -> bytes:
    """Return a message without its body as bytes; equal headers in equal order give equal bytes."""
    header: bytes = msgpack.packb((source, dict(properties), dict(system_properties)))
    return header


def decode_header(header: bytes, body: bytes) -> Message:
    """Return the message of which `encode_header` made `header`.

    Raises:
        EnvelopeError: `header` is not the header of a message.
    """
    try:
        source, properties, system_properties = msgpack.unpackb(header)
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise EnvelopeError("the header of a message cannot be read") from exc
    if not (isinstance(source, str) and _is_properties(properties) and _is_properties(system_properties)):
        raise EnvelopeError("the header of a message is not source, properties and system properties")
    return Message(source, properties, system_properties, body)


def _is_properties(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and (text is None or isinstance(text, str)) for name, text in value.items()
    )
