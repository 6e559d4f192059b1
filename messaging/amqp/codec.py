"""AMQP messages: bytes ↔ `AmqpMessage`, with the types that the peer reads.

Sections are found by their descriptors, in whatever order: the C SDK does not keep the standard's. Bodies are
cut out and put in as they are; all other sections go through the engine's encoder and decoder.

Source: AMQP 1.0 part 1 (types) and part 3.2 (sections); spec sheet hub-protocols.md sections 3.6 to 3.8.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct, field

from messaging.amqp.values import (
    Described,
    Int,
    Long,
    StringArray,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    decode_value,
    encode_value,
    value_end,
)
from messaging.errors import RemoteProtocolError

__all__ = [
    "BATCH_FORMAT",
    "AmqpMessage",
    "Described",
    "Int",
    "Long",
    "MessageId",
    "StringArray",
    "Symbol",
    "Timestamp",
    "UByte",
    "UInt",
    "ULong",
    "decode",
    "decode_head",
    "encode",
    "encode_body",
    "encode_head",
    "join_batch",
    "split_batch",
    "split_body",
]

BATCH_FORMAT = 0x80013700  # message-format of a transfer whose Data sections are one encoded message each

_HEADER, _DELIVERY_ANNOTATIONS, _ANNOTATIONS, _PROPERTIES = 0x70, 0x71, 0x72, 0x73
_APPLICATION_PROPERTIES, _DATA, _SEQUENCE, _VALUE, _FOOTER = 0x74, 0x75, 0x76, 0x77, 0x78
_LONG_DESCRIPTOR = b"\x00\x80\x00\x00\x00\x00\x00\x00\x00"

MessageId = str | int | uuid.UUID | bytes  # an int is an AMQP ulong


class AmqpMessage(Struct):
    """One message; None and empty for what it does not have.

    Values: str string, bytes binary, bool boolean, int long, float double, UUID, list, dict, None, and the
    typed ones. A body is `body` (Data sections, joined) unless `is_value` says AmqpValue: `value`.
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
    head, body = split_body(data)
    message = decode_head(head)
    message.body = body
    return message


def split_body(data: bytes) -> tuple[bytes, bytes]:
    """Return the sections of a message without Data, for `decode_head`, and the Data sections joined.

    Messages of one sender are alike but for their bodies: what is made of a head may be kept by its bytes.

    Raises:
        RemoteProtocolError: This is no AMQP message.
    """
    head = body = b""
    pos = 0
    for code, start, end in _sections(data):
        if code == _DATA:
            body = body + _binary(data, start, end) if body else _binary(data, start, end)
        else:
            head = head + data[pos:end] if head else data[pos:end]
        pos = end
    return head, body


def decode_head(head: bytes) -> AmqpMessage:
    """Read the sections without Data; there may be none.

    Raises:
        RemoteProtocolError: These are no sections of an AMQP message.
    """
    message = AmqpMessage()
    for code, start, end in _sections(head) if head else ():
        if code == _PROPERTIES:
            read = _read_properties if end - start <= _MAX_CACHED_BYTES else _read_properties.__wrapped__
            (
                message.message_id,
                message.user_id,
                message.to,
                message.subject,
                message.reply_to,
                message.correlation_id,
                message.content_type,
                message.content_encoding,
                message.absolute_expiry_time_ms,
                message.creation_time_ms,
            ) = read(head[start:end])
        elif code == _APPLICATION_PROPERTIES:
            message.application_properties = _map(head[start:end])
        elif code == _ANNOTATIONS:
            message.annotations = _map(head[start:end])
        elif code == _VALUE:
            message.value = decode_value(head[start:end])
            message.is_value = True
        elif code == _SEQUENCE:
            raise RemoteProtocolError("an AMQP message with a sequence as body")
    return message


def encode(message: AmqpMessage) -> bytes:
    """Write one message.

    Raises:
        LocalProtocolError: A value has no AMQP type, or does not fit into the one it names.
    """
    head = encode_head(message)
    return head if message.is_value else head + encode_body(message.body)


def encode_head(message: AmqpMessage) -> bytes:
    """Write what stands in front of the Data section; a body that is a value belongs to it.

    Raises:
        LocalProtocolError: As in `encode`.
    """
    parts: list[bytes] = []
    if message.annotations:
        keys = {Symbol(key): value for key, value in message.annotations.items()}
        parts += (b"\x00\x53\x72", encode_value(keys))
    properties = _properties(message)
    if properties:
        parts += (b"\x00\x53\x73", encode_value(properties))
    if message.application_properties:
        parts += (b"\x00\x53\x74", encode_value(message.application_properties))
    if message.is_value:
        parts += (b"\x00\x53\x77", encode_value(message.value))
    return b"".join(parts)


def encode_body(body: bytes) -> bytes:
    """Write one Data section."""
    size = len(body)
    if size < 256:
        return b"\x00\x53\x75\xa0" + bytes((size,)) + body
    return b"\x00\x53\x75\xb0" + size.to_bytes(4, "big") + body


def split_batch(data: bytes) -> list[bytes]:
    """Return the encoded messages of a transfer with BATCH_FORMAT.

    Raises:
        RemoteProtocolError: This is no AMQP message, or one without Data sections.
    """
    encoded = [_binary(data, start, end) for code, start, end in _sections(data) if code == _DATA]
    if not encoded:
        raise RemoteProtocolError("a batch without messages")
    return encoded


def join_batch(encoded: Sequence[bytes]) -> bytes:
    """Return the transfer, to be sent with BATCH_FORMAT, that carries these messages."""
    return b"".join(map(encode_body, encoded))


def _sections(data: bytes) -> list[tuple[int, int, int]]:
    """Return code, start and end of the value of each section."""
    sections = []
    pos = 0
    end = len(data)
    while pos < end:
        if data[pos : pos + 2] == b"\x00\x53":
            start = pos + 3
        elif data.startswith(_LONG_DESCRIPTOR, pos):
            start = pos + 10
        else:
            raise RemoteProtocolError("this is no AMQP message")
        if start >= end or not _HEADER <= data[start - 1] <= _FOOTER:
            raise RemoteProtocolError("this is no AMQP message")
        pos = value_end(data, start)
        sections.append((data[start - 1], start, pos))
    if not sections:
        raise RemoteProtocolError("an AMQP message without sections")
    return sections


def _binary(data: bytes, start: int, end: int) -> bytes:
    constructor = data[start]
    if constructor == 0xA0:
        return data[start + 2 : end]
    if constructor == 0xB0:
        return data[start + 5 : end]
    raise RemoteProtocolError("an AMQP Data section that is not binary")


# Messages of one sender are alike but for their bodies, so sections are read once and looked up after that.
_MAX_CACHED_BYTES = 1024  # longer sections are read each time
_CACHED_SECTIONS = 1024


def _map(encoded: bytes) -> dict[str, object]:
    if len(encoded) > _MAX_CACHED_BYTES:
        return _read_map.__wrapped__(encoded)
    return _read_map(encoded).copy()


@lru_cache(_CACHED_SECTIONS)
def _read_map(encoded: bytes) -> dict[str, object]:
    """Return a map with names as keys; annotations with other keys are left out."""
    pairs = decode_value(encoded)
    if pairs is None:
        return {}
    if not isinstance(pairs, dict):
        raise RemoteProtocolError("an AMQP section that should be a map")
    return {str(key): value for key, value in pairs.items() if isinstance(key, str)}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_ascii(value: object) -> bool:
    return isinstance(value, str) and value.isascii()


def _is_binary(value: object) -> bool:
    return isinstance(value, bytes)


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and value >= 0  # to be a ulong in an answer
    return isinstance(value, str | uuid.UUID | bytes)


# The fields of the section `properties` that are read. Source: AMQP 1.0 part 3.2.4.
_PROPERTY_FIELDS: tuple[tuple[str, Callable[[object], bool]], ...] = (
    ("message-id", _is_id),
    ("user-id", _is_binary),
    ("to", _is_text),
    ("subject", _is_text),
    ("reply-to", _is_text),
    ("correlation-id", _is_id),
    ("content-type", _is_ascii),
    ("content-encoding", _is_ascii),
    ("absolute-expiry-time", _is_time),
    ("creation-time", _is_time),
)


@lru_cache(_CACHED_SECTIONS)
def _read_properties(encoded: bytes) -> tuple[Any, ...]:
    """Return the fields in the standard's order, None for what is not there."""
    fields = decode_value(encoded)
    if not isinstance(fields, list):
        raise RemoteProtocolError("AMQP properties that are not a list")
    read = fields[: len(_PROPERTY_FIELDS)]
    for value, (name, is_right) in zip(read, _PROPERTY_FIELDS, strict=False):
        if value is not None and not is_right(value):
            raise RemoteProtocolError(f"AMQP property {name} has a wrong type")
    return (*read, *(None,) * (len(_PROPERTY_FIELDS) - len(read)))


def _properties(message: AmqpMessage) -> list[object]:
    """Return the fields of the section `properties`, without those at the end that are not there."""
    fields: list[object] = [
        _message_id(message.message_id),
        message.user_id,
        message.to,
        message.subject,
        message.reply_to,
        _message_id(message.correlation_id),
        None if message.content_type is None else Symbol(message.content_type),
        None if message.content_encoding is None else Symbol(message.content_encoding),
        None if message.absolute_expiry_time_ms is None else Timestamp(message.absolute_expiry_time_ms),
        None if message.creation_time_ms is None else Timestamp(message.creation_time_ms),
    ]
    while fields and fields[-1] is None:
        fields.pop()
    return fields


def _message_id(value: MessageId | None) -> object:
    return ULong(value) if isinstance(value, int) else value
