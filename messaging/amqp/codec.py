"""AMQP messages: bytes ↔ `AmqpMessage`, with the types that the peer reads.

Source: AMQP 1.0 part 1 (types) and part 3.2 (sections); spec sheet hub-protocols.md sections 3.6 to 3.8.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

BATCH_FORMAT = 0x80013700  # message-format of a transfer whose Data sections are one encoded message each


class Symbol(str):
    """An AMQP symbol: ASCII."""

    __slots__ = ()


class Int(int):
    """An AMQP int, 32 bits."""

    __slots__ = ()


class Long(int):
    """An AMQP long, 64 bits. A plain `int` is encoded as this and decoded from it."""

    __slots__ = ()


class UByte(int):
    """An AMQP ubyte."""

    __slots__ = ()


class UInt(int):
    """An AMQP uint, 32 bits."""

    __slots__ = ()


class ULong(int):
    """An AMQP ulong, 64 bits."""

    __slots__ = ()


class Timestamp(int):
    """An AMQP timestamp: milliseconds since 1970-01-01 UTC."""

    __slots__ = ()


MessageId = str | int | uuid.UUID | bytes  # an int is an AMQP ulong


@dataclass(slots=True)
class AmqpMessage:
    """One message; None and empty for what it does not have.

    Values: str string, bytes binary, bool boolean, int long, float double, UUID, list, dict, None, and the
    typed ones above. A body is `body` (Data sections, joined) unless `is_value` says AmqpValue: `value`.
    """

    body: bytes = b""
    message_id: MessageId | None = None
    correlation_id: MessageId | None = None
    user_id: bytes | None = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    absolute_expiry_time_ms: int | None = None
    creation_time_ms: int | None = None
    application_properties: dict[str, object] = field(default_factory=dict)
    annotations: dict[str, object] = field(default_factory=dict)
    value: object = None
    is_value: bool = False


def decode(data: bytes) -> AmqpMessage:
    """Read one message; its sections may come in any order.

    Raises:
        RemoteProtocolError: This is no AMQP message.
    """
    raise NotImplementedError


def encode(message: AmqpMessage) -> bytes:
    """Write one message.

    Raises:
        LocalProtocolError: A value has no AMQP type, or does not fit into the one it names.
    """
    raise NotImplementedError


def split_batch(data: bytes) -> list[bytes]:
    """Return the encoded messages of a transfer with BATCH_FORMAT.

    Raises:
        RemoteProtocolError: This is no AMQP message, or one without Data sections.
    """
    raise NotImplementedError


def join_batch(encoded: Sequence[bytes]) -> bytes:
    """Return the transfer, to be sent with BATCH_FORMAT, that carries these messages."""
    raise NotImplementedError
