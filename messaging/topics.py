"""The topics of IoT Hub over MQTT: what a client may publish, what it gets, what its filters ask for.

Source: spec sheet hub-protocols.md sections 1.5, 1.7 to 1.9, 1.12, 1.13
"""

from __future__ import annotations

import enum
import re

from msgspec import Struct

from messaging import system_properties as names
from messaging.errors import RemoteProtocolError
from messaging.identity import Identity
from messaging.property_bag import Properties, decode_bag
from messaging.text import quoted

STATUS_NOT_A_NUMBER = 400000  # what the caller of a method gets when the answer's status is no number

_TELEMETRY = re.compile(r"devices/([^/]*)(?:/modules/([^/]*))?/messages/events(?:/[^/]*/?)?")
_TWIN = "$iothub/twin/"
_TWIN_GET = "$iothub/twin/GET/"
_TWIN_REPORTED = "$iothub/twin/PATCH/properties/reported/"
_METHOD_RESPONSE = re.compile(r"\$iothub/methods/res/([^/]*)/\?\$rid=([^/&]+)(?:&[^/]*)?")
_STATUS = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_MODULE_MESSAGES = re.compile(r"devices/.+/modules/.+/#")


class Telemetry(Struct, frozen=True):
    """A message for the router. `identity` is the authenticated sender, which the topic names, too."""

    identity: Identity
    output: str | None
    properties: Properties
    system_properties: Properties


class TwinGet(Struct, frozen=True):
    """The client asks for its twin. `request_id` goes back as it came."""

    request_id: str


class TwinReported(Struct, frozen=True):
    """A patch of reported properties; without a `request_id` nobody waits for an answer."""

    request_id: str | None


class MethodResponse(Struct, frozen=True):
    """The answer to a method call. Compare `request_id` without regard to case."""

    status: int
    request_id: str


class Unknown(Struct, frozen=True):
    """A topic that means nothing here: log the reason, drop the message, acknowledge it."""

    reason: str


Incoming = Telemetry | TwinGet | TwinReported | MethodResponse | Unknown


class Feature(enum.Enum):
    """What a subscription switches on."""

    METHODS = "methods"
    DESIRED_PROPERTIES = "desired properties"
    C2D = "cloud-to-device messages"
    TWIN_RESPONSES = "twin responses"
    MODULE_MESSAGES = "module messages"
    UNKNOWN = "unknown"


def parse_topic(topic: str, sender: Identity) -> Incoming:
    """Say what a publish of `sender`, the authenticated identity of the connection, is.

    The result depends on nothing else, so callers may cache it.

    Raises:
        RemoteProtocolError: a twin topic that is malformed; the connection has to be closed.
    """
    if topic.startswith("$iothub/"):
        if topic.startswith(_TWIN):
            return _parse_twin(topic)
        response = _METHOD_RESPONSE.fullmatch(topic)
        if response is None:
            return Unknown(f"topic {quoted(topic)} is not one that the hub knows")
        status = int(response[1]) if _STATUS.fullmatch(response[1]) else STATUS_NOT_A_NUMBER
        return MethodResponse(status, response[2])
    telemetry = _TELEMETRY.fullmatch(topic)
    if telemetry is None:
        return Unknown(f"topic {quoted(topic)} is not one that the hub knows")
    if (telemetry[1], telemetry[2]) != (sender.device_id, sender.module_id):
        return Unknown(f"topic {quoted(topic)} is another identity's; the connection is '{sender}'")
    own = f"{events_topic(sender)}/"
    try:
        properties, system_properties = decode_bag(topic[len(own) :].removesuffix("/"))
    except RemoteProtocolError as exc:
        return Unknown(f"topic {quoted(topic)}: {exc}")
    return Telemetry(sender, system_properties.get(names.OUTPUT_NAME) or None, properties, system_properties)


def _parse_twin(topic: str) -> TwinGet | TwinReported:
    path, _, query = topic.partition("?")
    request_id = next(
        (part.removeprefix("$rid=") for part in query.split("&") if part.startswith("$rid=")), ""
    )
    if path == _TWIN_GET and request_id:
        return TwinGet(request_id)
    if path == _TWIN_REPORTED:
        return TwinReported(request_id or None)
    if path == _TWIN_GET:
        raise RemoteProtocolError(f"topic {quoted(topic)} asks for the twin without a $rid")
    raise RemoteProtocolError(f"topic {quoted(topic)} is not a request for a twin")


def classify_filter(topic_filter: str) -> Feature:
    """Say which feature a topic filter switches on; case counts."""
    if topic_filter.startswith("$iothub/methods/POST/"):
        return Feature.METHODS
    if topic_filter.startswith("$iothub/twin/PATCH/properties/desired/"):
        return Feature.DESIRED_PROPERTIES
    if topic_filter.endswith("messages/devicebound/#"):
        return Feature.C2D
    if topic_filter == "$iothub/twin/res/#":
        return Feature.TWIN_RESPONSES
    if _MODULE_MESSAGES.fullmatch(topic_filter):
        return Feature.MODULE_MESSAGES
    return Feature.UNKNOWN


def events_topic(identity: Identity) -> str:
    """Return the topic on which `identity` publishes telemetry, without a property bag."""
    if identity.module_id is None:
        return f"devices/{identity.device_id}/messages/events"
    return f"devices/{identity.device_id}/modules/{identity.module_id}/messages/events"


# Outgoing topics. Where there is no property bag the slash before it stays: the Node SDK waits for it in
# every topic, the C SDK after the name of an input.


def module_input_topic(module: Identity, input_name: str, bag: str) -> str:
    """Return the topic on which a module gets a message at one of its inputs."""
    return f"devices/{module.device_id}/modules/{module.module_id}/inputs/{input_name}/{bag}"


def c2d_topic(device_id: str, bag: str) -> str:
    """Return the topic on which a device gets a cloud-to-device message."""
    return f"devices/{device_id}/messages/devicebound/{bag}"


def method_topic(method_name: str, request_id: str) -> str:
    """Return the topic of a direct method call."""
    return f"$iothub/methods/POST/{method_name}/?$rid={request_id}"


def twin_response_topic(status: int, request_id: str, version: int | None = None) -> str:
    """Return the topic of the answer to a twin request.

    `$rid` stands first because the C SDK takes all that follows it. `version` is what IoT Hub, unlike an edge
    hub, adds after a reported patch.
    """
    topic = f"$iothub/twin/res/{status}/?$rid={request_id}"
    return topic if version is None else f"{topic}&$version={version}"


def desired_patch_topic(version: int) -> str:
    """Return the topic on which a client learns of changed desired properties."""
    return f"$iothub/twin/PATCH/properties/desired/?$version={version}"
