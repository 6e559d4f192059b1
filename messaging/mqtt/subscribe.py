"""Packets that manage subscriptions: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

Source: OASIS MQTT 3.1.1 sections 3.8 to 3.11.
"""

from __future__ import annotations

from typing import ClassVar, Self

from msgspec import Struct

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt import wire

SUBSCRIPTION_FAILURE = 0x80  # a return code of SUBACK


class Subscribe(Struct, frozen=True):
    """Pairs of topic filter and requested QoS, at least one; flags 0010 [MQTT-3.8.1-1], section 3.8."""

    packet_id: int
    topic_filters: tuple[tuple[str, int], ...]

    FIRST_BYTE: ClassVar[int] = 0x82

    def encode(self) -> bytes:
        if not self.topic_filters:
            raise LocalProtocolError("SUBSCRIBE without a topic filter [MQTT-3.8.3-3]")

        body = [wire.encode_packet_id(self.packet_id)]
        for topic_filter, qos in self.topic_filters:
            wire.check_local_qos(qos)
            body += (wire.encode_filter(topic_filter), bytes((qos,)))
        return wire.encode_packet(self.FIRST_BYTE, b"".join(body))

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        packet_id, pos = wire.read_packet_id(data, start, stop)
        if pos == stop:
            raise RemoteProtocolError("SUBSCRIBE without a topic filter [MQTT-3.8.3-3]")

        topic_filters: list[tuple[str, int]] = []
        while pos < stop:
            topic_filter, pos = wire.read_filter(data, pos, stop)
            if pos == stop:
                raise RemoteProtocolError("SUBSCRIBE ends before the QoS of its last topic filter")
            qos = data[pos]
            if qos > 2:
                raise RemoteProtocolError(f"SUBSCRIBE asks for QoS 0x{qos:02x} [MQTT-3-8.3-4]")
            topic_filters.append((topic_filter, qos))
            pos += 1
        return cls(packet_id, tuple(topic_filters))


class SubAck(Struct, frozen=True):
    """A granted QoS or `SUBSCRIPTION_FAILURE` for each filter of the SUBSCRIBE, in its order, section 3.9."""

    packet_id: int
    return_codes: tuple[int, ...]

    FIRST_BYTE: ClassVar[int] = 0x90

    def encode(self) -> bytes:
        if not self.return_codes:
            raise LocalProtocolError("SUBACK without a return code")
        for code in self.return_codes:
            if code not in (0, 1, 2, SUBSCRIPTION_FAILURE):
                raise LocalProtocolError(f"SUBACK with return code {code} [MQTT-3.9.3-2]")

        body = wire.encode_packet_id(self.packet_id) + bytes(self.return_codes)
        return wire.encode_packet(self.FIRST_BYTE, body)

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        packet_id, pos = wire.read_packet_id(data, start, stop)
        if pos == stop:
            raise RemoteProtocolError("SUBACK without a return code")
        for code in data[pos:stop]:
            if code not in (0, 1, 2, SUBSCRIPTION_FAILURE):
                raise RemoteProtocolError(f"SUBACK with return code {code} [MQTT-3.9.3-2]")

        return cls(packet_id, tuple(data[pos:stop]))


class Unsubscribe(Struct, frozen=True):
    """Topic filters, at least one; flags 0010 [MQTT-3.10.1-1], section 3.10."""

    packet_id: int
    topic_filters: tuple[str, ...]

    FIRST_BYTE: ClassVar[int] = 0xA2

    def encode(self) -> bytes:
        if not self.topic_filters:
            raise LocalProtocolError("UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]")

        body = [wire.encode_packet_id(self.packet_id)]
        for topic_filter in self.topic_filters:
            body.append(wire.encode_filter(topic_filter))
        return wire.encode_packet(self.FIRST_BYTE, b"".join(body))

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        packet_id, pos = wire.read_packet_id(data, start, stop)
        if pos == stop:
            raise RemoteProtocolError("UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]")

        topic_filters: list[str] = []
        while pos < stop:
            topic_filter, pos = wire.read_filter(data, pos, stop)
            topic_filters.append(topic_filter)
        return cls(packet_id, tuple(topic_filters))


class UnsubAck(wire.OnlyPacketId, frozen=True):
    """The answer to UNSUBSCRIBE, section 3.11."""

    FIRST_BYTE = 0xB0
