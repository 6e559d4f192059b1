"""The building bricks of MQTT packets: lengths, integers, strings, binary fields, and two whole shapes.

Readers take the whole receive buffer with a position and a stop, so that nothing is cut out twice; they
return the value and the position behind it.

Source: OASIS MQTT 3.1.1 sections 1.5 and 2.2.
"""

from __future__ import annotations

from typing import ClassVar, Self

from msgspec import Struct

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt.filters import MAX_TEXT_BYTES, validate_filter, validate_topic

MAX_REMAINING_LENGTH = 268_435_455  # four bytes of seven bits each, section 2.2.3


def encode_packet(first: int, body: bytes) -> bytes:
    """Put the fixed header in front: type and flags in `first`, then the remaining length.

    Raises:
        LocalProtocolError: The body is longer than four length bytes can say.
    """
    if len(body) > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(f"packet body has {len(body)} bytes; the limit is {MAX_REMAINING_LENGTH}")

    return bytes((first,)) + encode_length(len(body)) + body


def encode_length(length: int) -> bytes:
    """Return a remaining length of 0 to `MAX_REMAINING_LENGTH` in one to four bytes."""
    if length < 128:
        return bytes((length,))
    if length < 16_384:
        return bytes((length & 127 | 128, length >> 7))
    if length < 2_097_152:
        return bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14))
    return bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21))


def read_length(data: bytes, pos: int) -> tuple[int, int]:
    """Read a remaining length. Returns a position of 0 when `data` ends before it does.

    Raises:
        RemoteProtocolError: The fourth byte asks for a fifth.
    """
    length = 0
    for index, byte in enumerate(data[pos : pos + 4]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            return length, pos + index + 1
    if len(data) - pos >= 4:
        raise RemoteProtocolError("remaining length has more than four bytes")
    return 0, 0


def encode_uint16(number: int, name: str) -> bytes:
    """Return a two-byte integer, most significant byte first (section 1.5.2)."""
    if not 0 <= number <= 65_535:
        raise LocalProtocolError(f"{name} is {number}; 0 to 65535 fit")

    return number.to_bytes(2, "big")


def read_uint16(data: bytes, pos: int, stop: int, name: str) -> tuple[int, int]:
    """Read a two-byte integer."""
    if pos + 2 > stop:
        raise RemoteProtocolError(f"packet ends inside its {name}")

    return data[pos] << 8 | data[pos + 1], pos + 2


def encode_packet_id(packet_id: int) -> bytes:
    """Return a packet identifier; it must not be 0 [MQTT-2.3.1-1]."""
    if packet_id == 0:
        raise LocalProtocolError("packet id is 0; 1 to 65535 are allowed")

    return encode_uint16(packet_id, "packet id")


def read_packet_id(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    """Read a packet identifier; it must not be 0 [MQTT-2.3.1-1]."""
    packet_id, pos = read_uint16(data, pos, stop, "packet id")
    if packet_id == 0:
        raise RemoteProtocolError("packet id is 0")

    return packet_id, pos


def encode_binary(field: bytes, name: str) -> bytes:
    """Return a field of up to 65,535 bytes with its length in front."""
    if len(field) > MAX_TEXT_BYTES:
        raise LocalProtocolError(f"{name} has {len(field)} bytes; the limit is {MAX_TEXT_BYTES}")

    return len(field).to_bytes(2, "big") + field


def read_binary(data: bytes, pos: int, stop: int, name: str) -> tuple[bytes, int]:
    """Read a field that has its length in front."""
    length, pos = read_uint16(data, pos, stop, name)
    if pos + length > stop:
        raise RemoteProtocolError(f"packet ends inside its {name}")

    return data[pos : pos + length], pos + length


def encode_text(text: str, name: str) -> bytes:
    """Return a UTF-8 string with its length in front; no surrogates, no U+0000 [MQTT-1.5.3-1, -2]."""
    if "\0" in text:
        raise LocalProtocolError(f"{name} has U+0000")
    try:
        return encode_binary(text.encode(), name)
    except UnicodeEncodeError as exc:
        raise LocalProtocolError(f"{name} has a surrogate at {exc.start}") from exc


def read_text(data: bytes, pos: int, stop: int, name: str) -> tuple[str, int]:
    """Read a UTF-8 string. A byte order mark is a character like others [MQTT-1.5.3-3]."""
    field, pos = read_binary(data, pos, stop, name)
    return text_from(field, name), pos


def text_from(field: bytes, name: str) -> str:
    """Decode UTF-8 as strictly as [MQTT-1.5.3-1] and [MQTT-1.5.3-2] ask for."""
    try:
        text = field.decode()
    except UnicodeDecodeError as exc:
        raise RemoteProtocolError(f"{name} is not UTF-8 at byte {exc.start}") from exc
    if "\0" in text:
        raise RemoteProtocolError(f"{name} has U+0000")
    return text


def end_of_packet(pos: int, stop: int, name: str) -> None:
    """Refuse bytes that are left over in a packet after its last field."""
    if pos != stop:
        raise RemoteProtocolError(f"{name} has {stop - pos} bytes behind its last field")


def check_local_qos(qos: int) -> None:
    """Refuse to send a QoS other than 0, 1, 2."""
    if qos not in (0, 1, 2):
        raise LocalProtocolError(f"QoS is {qos}; 0, 1 and 2 exist")


def check_local_topic(topic: str) -> None:
    """Refuse to send a topic that is not valid."""
    try:
        validate_topic(topic)
    except ValueError as exc:
        raise LocalProtocolError(str(exc)) from exc


def check_remote_topic(topic: str) -> None:
    """Refuse a received topic that is not valid."""
    try:
        validate_topic(topic)
    except ValueError as exc:
        raise RemoteProtocolError(str(exc)) from exc


def encode_filter(topic_filter: str) -> bytes:
    """Return a topic filter that is valid as a string with its length in front."""
    try:
        validate_filter(topic_filter)
    except ValueError as exc:
        raise LocalProtocolError(str(exc)) from exc
    return encode_text(topic_filter, "topic filter")


def read_filter(data: bytes, pos: int, stop: int) -> tuple[str, int]:
    """Read a topic filter, which must be valid."""
    topic_filter, pos = read_text(data, pos, stop, "topic filter")
    try:
        validate_filter(topic_filter)
    except ValueError as exc:
        raise RemoteProtocolError(str(exc)) from exc
    return topic_filter, pos


class OnlyPacketId(Struct, frozen=True):
    """The shape of the five packets that carry nothing but a packet identifier."""

    packet_id: int

    FIRST_BYTE: ClassVar[int]

    def encode(self) -> bytes:
        return bytes((self.FIRST_BYTE, 2)) + encode_packet_id(self.packet_id)

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        if stop - start != 2:
            raise RemoteProtocolError(f"{cls.__name__} has {stop - start} bytes behind its header, not 2")
        packet_id = data[start] << 8 | data[start + 1]
        if not packet_id:
            raise RemoteProtocolError("packet id is 0")

        return cls(packet_id)


class Empty(Struct, frozen=True):
    """The shape of the three packets that are a header and nothing else."""

    FIRST_BYTE: ClassVar[int]

    def encode(self) -> bytes:
        return bytes((self.FIRST_BYTE, 0))

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        end_of_packet(start, stop, cls.__name__)
        return cls()
