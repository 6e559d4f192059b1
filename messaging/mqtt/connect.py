"""Packets that open, keep and close a connection: CONNECT, CONNACK, PINGREQ, PINGRESP, DISCONNECT.

Source: OASIS MQTT 3.1.1 sections 3.1, 3.2, 3.12, 3.13, 3.14.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Self

from msgspec import Struct

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt import wire
from messaging.mqtt.filters import shown

PROTOCOL_NAME = "MQTT"
PROTOCOL_LEVEL = 4  # 3.1.1


class ReturnCode(IntEnum):
    """What a CONNACK says, section 3.2.2.3. SDK clients take 4 and 5 as final and never try again."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, slots=True)
class Will:
    """What the server publishes for a client that goes without DISCONNECT, section 3.1.2.5."""

    topic: str
    message: bytes = field(repr=False)
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """The client's first packet, section 3.1. `keep_alive_s` of 0 switches keep-alive off."""

    client_id: str
    clean_session: bool = True
    keep_alive_s: int = 60
    user_name: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None

    FIRST_BYTE: ClassVar[int] = 0x10

    def encode(self) -> bytes:
        if self.password is not None and self.user_name is None:
            raise LocalProtocolError("CONNECT has a password without a user name [MQTT-3.1.2-22]")
        if not self.client_id and not self.clean_session:
            raise LocalProtocolError("CONNECT without a client id needs clean_session [MQTT-3.1.3-7]")

        flags = self.clean_session << 1
        payload = [wire.encode_text(self.client_id, "client id")]
        if self.will is not None:
            wire.check_local_qos(self.will.qos)
            wire.check_local_topic(self.will.topic)
            flags |= 0x04 | self.will.qos << 3 | self.will.retain << 5
            payload.append(wire.encode_text(self.will.topic, "will topic"))
            payload.append(wire.encode_binary(self.will.message, "will message"))
        if self.user_name is not None:
            flags |= 0x80
            payload.append(wire.encode_text(self.user_name, "user name"))
        if self.password is not None:
            flags |= 0x40
            payload.append(wire.encode_binary(self.password, "password"))

        head = wire.encode_text(PROTOCOL_NAME, "protocol name") + bytes((PROTOCOL_LEVEL, flags))
        keep_alive = wire.encode_uint16(self.keep_alive_s, "keep alive")
        return wire.encode_packet(self.FIRST_BYTE, head + keep_alive + b"".join(payload))

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        protocol_name, pos = wire.read_text(data, start, stop, "protocol name")
        if protocol_name != PROTOCOL_NAME:  # [MQTT-3.1.2-1]
            raise RemoteProtocolError(f"protocol name is {shown(protocol_name)}, not {PROTOCOL_NAME!r}")
        if pos == stop:
            raise RemoteProtocolError("CONNECT ends before its protocol level")
        # Before anything else is read: other versions have other fields from here on [MQTT-3.1.2-2].
        if data[pos] != PROTOCOL_LEVEL:
            answer = ConnAck(ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION).encode()
            raise RemoteProtocolError(f"protocol level is {data[pos]}; this is MQTT 3.1.1, level 4", answer)
        if pos + 2 > stop:
            raise RemoteProtocolError("CONNECT ends before its flags")

        flags = data[pos + 1]
        _check_flags(flags)
        keep_alive_s, pos = wire.read_uint16(data, pos + 2, stop, "keep alive")
        client_id, pos = wire.read_text(data, pos, stop, "client id")
        will = user_name = password = None
        if flags & 0x04:
            topic, pos = wire.read_text(data, pos, stop, "will topic")
            wire.check_remote_topic(topic)
            message, pos = wire.read_binary(data, pos, stop, "will message")
            will = Will(topic, message, flags >> 3 & 3, bool(flags & 0x20))
        if flags & 0x80:
            user_name, pos = wire.read_text(data, pos, stop, "user name")
        if flags & 0x40:
            password, pos = wire.read_binary(data, pos, stop, "password")
        wire.end_of_packet(pos, stop, "CONNECT")
        clean_session = bool(flags & 0x02)
        if not client_id and not clean_session:  # [MQTT-3.1.3-8]
            answer = ConnAck(ReturnCode.IDENTIFIER_REJECTED).encode()
            raise RemoteProtocolError("CONNECT has neither a client id nor the clean session flag", answer)
        return cls(client_id, clean_session, keep_alive_s, user_name, password, will)


def _check_flags(flags: int) -> None:
    """Refuse connect flags that contradict each other, section 3.1.2.3."""
    if flags & 0x01:
        raise RemoteProtocolError("CONNECT has its reserved flag set [MQTT-3.1.2-3]")
    if not flags & 0x04 and flags & 0x38:
        raise RemoteProtocolError("CONNECT has will QoS or will retain without a will [MQTT-3.1.2-13, -15]")
    if flags & 0x18 == 0x18:
        raise RemoteProtocolError("CONNECT has will QoS 3 [MQTT-3.1.2-14]")
    if flags & 0xC0 == 0x40:
        raise RemoteProtocolError("CONNECT has a password without a user name [MQTT-3.1.2-22]")


class ConnAck(Struct, frozen=True):
    """The server's answer to CONNECT, section 3.2."""

    return_code: ReturnCode
    session_present: bool = False

    FIRST_BYTE: ClassVar[int] = 0x20

    def encode(self) -> bytes:
        if self.session_present and self.return_code:
            raise LocalProtocolError("a refusing CONNACK cannot say session present [MQTT-3.2.2-4]")

        return bytes((self.FIRST_BYTE, 2, self.session_present, self.return_code))

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Self:
        if stop - start != 2:
            raise RemoteProtocolError(f"CONNACK has {stop - start} bytes behind its header, not 2")
        if data[start] > 1:
            raise RemoteProtocolError(f"CONNACK has reserved flags: 0x{data[start]:02x}")
        if data[start + 1] > ReturnCode.NOT_AUTHORIZED:
            raise RemoteProtocolError(f"CONNACK has the unknown return code {data[start + 1]}")
        if data[start] and data[start + 1]:
            raise RemoteProtocolError("a refusing CONNACK says session present [MQTT-3.2.2-4]")

        return cls(ReturnCode(data[start + 1]), bool(data[start]))


class PingReq(wire.Empty, frozen=True):
    """The client is alive, section 3.12."""

    FIRST_BYTE = 0xC0


class PingResp(wire.Empty, frozen=True):
    """So is the server, section 3.13."""

    FIRST_BYTE = 0xD0


class Disconnect(wire.Empty, frozen=True):
    """The client goes on purpose: no will is published, section 3.14."""

    FIRST_BYTE = 0xE0
