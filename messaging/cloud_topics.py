"""The topics of IoT Hub from the side of a client: what we ask of the cloud, and what it publishes to us.

Source: spec sheet hub-protocols.md sections 1.9, 1.12, 1.13 and 2.2
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from messaging.identity import Identity
from messaging.text import quoted
from messaging.topics import Feature, Unknown


def filter_of(feature: Feature, identity: Identity) -> str:
    """Return the filter with which `identity` subscribes to a feature.

    Raises:
        KeyError: not one of METHODS, DESIRED_PROPERTIES, C2D, TWIN_RESPONSES.
    """
    return {
        Feature.METHODS: "$iothub/methods/POST/#",
        Feature.DESIRED_PROPERTIES: "$iothub/twin/PATCH/properties/desired/#",
        Feature.C2D: f"devices/{identity.device_id}/messages/devicebound/#",
        Feature.TWIN_RESPONSES: "$iothub/twin/res/#",
    }[feature]


def twin_get_topic(request_id: str) -> str:
    """Return the topic on which the twin is asked for."""
    return f"$iothub/twin/GET/?$rid={request_id}"


def twin_reported_topic(request_id: str) -> str:
    """Return the topic on which a reported patch is sent."""
    return f"$iothub/twin/PATCH/properties/reported/?$rid={request_id}"


def method_response_topic(status: int, request_id: str) -> str:
    """Return the topic on which a method call is answered."""
    return f"$iothub/methods/res/{status}/?$rid={request_id}"


class TwinAnswer(Struct, frozen=True):
    """The answer to a twin request of ours."""

    status: int
    request_id: str


class MethodCall(Struct, frozen=True):
    """The cloud calls a method."""

    name: str
    request_id: str


class DesiredPatch(Struct, frozen=True):
    """The cloud tells of changed desired properties."""


class C2d(Struct, frozen=True):
    """A cloud-to-device message; `bag` as it was sent."""

    bag: str


FromCloud = TwinAnswer | MethodCall | DesiredPatch | C2d | Unknown

_TWIN_ANSWER: Final = re.compile(r"\$iothub/twin/res/([0-9]{3})/\?\$rid=([^&]*)(?:&.*)?", re.ASCII)
_METHOD_CALL: Final = re.compile(r"\$iothub/methods/POST/([^/]+)/\?\$rid=([^&]*)(?:&.*)?")
_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/"
_C2D: Final = re.compile(r"devices/[^/]+/messages/devicebound(?:/(.*))?", re.DOTALL)


def parse_cloud_topic(topic: str) -> FromCloud:
    """Say what a publish of the cloud to one of its clients is."""
    if answer := _TWIN_ANSWER.fullmatch(topic):
        return TwinAnswer(int(answer[1]), answer[2])
    if call := _METHOD_CALL.fullmatch(topic):
        return MethodCall(unquote(call[1]), call[2])
    if topic.startswith(_DESIRED):
        return DesiredPatch()
    if message := _C2D.fullmatch(topic):
        return C2d(message[1] or "")
    return Unknown(f"topic {quoted(topic)} is not one that IoT Hub publishes on")
