"""What one MQTT client of the stand-in is sent: topics, frames, and what it has not acknowledged.

Source: spec sheet hub-protocols.md sections 1.6, 1.9 and 1.14
"""

from __future__ import annotations

from messaging import system_properties as names
from messaging.errors import LocalProtocolError
from messaging.mqtt.filters import MAX_TEXT_BYTES
from messaging.mqtt.packets import encode_publish
from messaging.property_bag import encode_bag
from messaging.topics import c2d_topic
from runtime.iothub.records import C2dMessage

MOST_PACKET_IDS = 65_535


class Outgoing:
    """Packet ids in flight, each with the lock of the C2D message that it acknowledges, "" for none."""

    def __init__(self) -> None:
        self._in_flight: dict[int, str] = {}
        self._last_packet_id = 0

    def frame(self, topic: str, payload: bytes, qos: int, lock: str = "") -> bytes:
        """Return a PUBLISH, and remember it at QoS 1.

        Raises:
            LocalProtocolError: the topic is too long.
            OverflowError: the client acknowledges nothing: no packet id is left.
        """
        encoded = topic.encode()
        if len(encoded) > MAX_TEXT_BYTES:
            raise LocalProtocolError(f"a topic of {len(encoded)} bytes; the limit is {MAX_TEXT_BYTES}")
        if not qos:
            return encode_publish(encoded, payload, 0, 0)
        packet_id = self._next_packet_id()
        self._in_flight[packet_id] = lock
        return encode_publish(encoded, payload, packet_id, qos)

    def acknowledged(self, packet_id: int) -> str:
        """Take a PUBACK; returns the lock of the C2D message that it completes, "" for none."""
        return self._in_flight.pop(packet_id, "")

    def _next_packet_id(self) -> int:
        if len(self._in_flight) >= MOST_PACKET_IDS:
            raise OverflowError("acknowledges nothing: no packet id is left")
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id + 1 if packet_id < MOST_PACKET_IDS else 1
            if packet_id not in self._in_flight:
                self._last_packet_id = packet_id
                return packet_id


def topic_of(device_id: str, message: C2dMessage) -> str:
    """Return the topic under which a device gets a C2D message."""
    system_properties, properties = dict(message.system_properties), dict(message.properties)
    ack = system_properties.pop(names.ACK, None)
    if ack is not None:
        properties["iothub-ack"] = ack  # IoT Hub's own name for it; an edge hub writes `ack`
    return c2d_topic(device_id, encode_bag(properties, system_properties))
