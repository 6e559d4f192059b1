"""What a device publishes over MQTT, read as IoT Hub reads it: anything that is not documented is an offence.

An edge hub drops what it does not know and acknowledges it; IoT Hub closes the connection.

Source: spec sheet hub-protocols.md sections 1.6 to 1.8 and 1.10 to 1.13
"""

from __future__ import annotations

from typing import Final

from messaging.errors import RemoteProtocolError
from messaging.identity import Identity
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.mqtt.packets import Publish, Will
from messaging.property_bag import Properties
from messaging.topics import MethodResponse, TwinGet, TwinReported, Unknown, parse_topic
from messaging.topics import Telemetry as TelemetryTopic
from runtime.iothub.records import Telemetry

# Clients choose topics (message ids in the property bag), so what is remembered is bounded.
REMEMBERED_TOPICS: Final = 256
LONGEST_REMEMBERED_BYTES: Final = 2048

_WILL = {"iothub-MessageType": "Will"}

# Properties, system properties, and how long the body may be.
_Header = tuple[Properties, Properties, int]


class Incoming:
    """Reads what one authenticated client publishes."""

    def __init__(self, sender: Identity) -> None:
        self._sender = sender
        self._headers: dict[tuple[str, bool, bool], _Header] = {}

    def read(self, packet: Publish) -> Telemetry | TwinGet | TwinReported | MethodResponse:
        """Return what a PUBLISH means.

        Raises:
            RemoteProtocolError: IoT Hub does not serve this; the connection has to be closed.
        """
        if packet.qos == 2:
            raise RemoteProtocolError("published at QoS 2, which IoT Hub does not offer")
        key = (packet.topic, packet.dup, packet.retain)
        header = self._headers.get(key)
        if header is None:
            topic = parse_topic(packet.topic, self._sender)
            if isinstance(topic, Unknown):
                raise RemoteProtocolError(topic.reason)
            if not isinstance(topic, TelemetryTopic):
                return topic
            marks = {"mqtt-dup": packet.dup, "mqtt-retain": packet.retain}
            header = self._header(topic, {name: "true" for name, on in marks.items() if on})
            if len(packet.topic) <= LONGEST_REMEMBERED_BYTES:
                if len(self._headers) >= REMEMBERED_TOPICS:
                    self._headers.clear()
                self._headers[key] = header
        properties, system_properties, room_bytes = header
        if len(packet.payload) > room_bytes:
            over_bytes = len(packet.payload) - room_bytes
            raise RemoteProtocolError(
                f"a message is {over_bytes} bytes over the limit of {LARGEST_MESSAGE_BYTES}"
            )
        return Telemetry(properties, system_properties, packet.payload)

    def read_will(self, will: Will) -> Telemetry:
        """Return the message that a will is.

        Raises:
            RemoteProtocolError: it is none.
        """
        topic = parse_topic(will.topic, self._sender)
        if not isinstance(topic, TelemetryTopic):
            raise RemoteProtocolError(getattr(topic, "reason", "its topic is not one of telemetry"))
        properties, system_properties, _ = self._header(topic, _WILL)
        return Telemetry(properties, system_properties, will.message)

    def _header(self, topic: TelemetryTopic, marks: Properties) -> _Header:
        sent = Message("", {**topic.properties, **marks}, topic.system_properties, b"")
        return sent.properties, sent.system_properties, LARGEST_MESSAGE_BYTES - sent.size_bytes
