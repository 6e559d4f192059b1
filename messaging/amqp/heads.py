"""Messages of one sender, most of which differ in their bodies alone: what is known of them is used again.

All but the body of a message is its head. What is made of a head is made once (10 to 30 µs); from then on it
is found by its bytes or its properties (1 to 3 µs). Peers choose heads, so what is remembered is bounded.

Source: AMQP 1.0 part 3.2; spec sheet hub-protocols.md sections 3.4, 3.6 and 3.8
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from messaging.amqp.codec import (
    BATCH_FORMAT,
    AmqpMessage,
    decode_head,
    encode_body,
    encode_head,
    split_batch,
    split_body,
)
from messaging.amqp.conditions import DECODE_ERROR, NOT_ALLOWED, Refusal
from messaging.amqp.mapping import message_to_cloud, message_to_device, read_message, too_large
from messaging.errors import RemoteProtocolError
from messaging.message import LARGEST_MESSAGE_BYTES, Message, decode_header

LARGEST_BATCH_BYTES: Final = 600 * 1024
REMEMBERED_HEADS: Final = 256
LONGEST_REMEMBERED_BYTES: Final = 2048

# Stands in annotations that are alike but for the lock, in front of everything that a sender can choose.
_ANY_LOCK: Final = uuid.UUID(int=0)

Header = TypeVar("Header")


class TelemetryReader(Generic[Header]):
    """Reads what one device or module sends. `Header` is what its owner makes of all but the body."""

    def __init__(self, make_header: Callable[[Message], Header]) -> None:
        """Take what makes a header of a message without body; it is asked once for each head."""
        self._make_header = make_header
        self._known: dict[bytes, tuple[Header, int]] = {}  # by head; with how long a body may be

    def read(self, data: bytes, message_format: int = 0) -> list[tuple[Header, bytes]] | Refusal:
        """Return the messages of a transfer as header and body; a batch is taken as a whole or not at all."""
        if message_format != BATCH_FORMAT:
            message = self._read_one(data)
            return message if isinstance(message, Refusal) else [message]
        if len(data) > LARGEST_BATCH_BYTES:
            return Refusal(
                NOT_ALLOWED, f"a batch has {len(data)} bytes; at most {LARGEST_BATCH_BYTES} are allowed"
            )
        try:
            elements = split_batch(data)
        except RemoteProtocolError as exc:
            return Refusal(DECODE_ERROR, str(exc))
        messages = []
        for element in elements:
            message = self._read_one(element)
            if isinstance(message, Refusal):
                return message
            messages.append(message)
        return messages

    def _read_one(self, data: bytes) -> tuple[Header, bytes] | Refusal:
        try:
            head, body = split_body(data)
            known = self._known.get(head)
            if known is None:
                received = decode_head(head)
                received.body = body
                message = read_message(received)
                if isinstance(message, Refusal):
                    return message
                empty = Message("", message.properties, message.system_properties, b"")
                known = self._make_header(empty), LARGEST_MESSAGE_BYTES - empty.size_bytes
                if received.is_value:
                    body = message.body  # which is a part of the head
                elif len(head) <= LONGEST_REMEMBERED_BYTES:
                    if len(self._known) >= REMEMBERED_HEADS:
                        self._known.clear()
                    self._known[head] = known
        except RemoteProtocolError as exc:
            return Refusal(DECODE_ERROR, str(exc))
        header, room_bytes = known
        return (header, body) if len(body) <= room_bytes else too_large(len(body) - room_bytes)


class DeviceWriter:
    """Writes messages of the store for one device (`to`) or for one input of a module."""

    def __init__(self, *, to: str | None = None, input_name: str | None = None) -> None:
        self._to = to
        self._input_name = input_name
        self._known: dict[bytes, _Template] = {}  # by header

    def write(self, header: bytes, body: bytes, lock: uuid.UUID) -> bytes:
        """Return an encoded message; `lock` is what its delivery is known by.

        Raises:
            EnvelopeError: `header` is not the header of a message.
        """
        template = self._known.get(header)
        if template is None:
            message = decode_header(header, b"")
            sent = message_to_device(message, _ANY_LOCK, to=self._to, input_name=self._input_name)
            template = _Template(sent, has_lock=True)
            if len(header) <= LONGEST_REMEMBERED_BYTES:
                if len(self._known) >= REMEMBERED_HEADS:
                    self._known.clear()
                self._known[header] = template
        return template.write(body, lock)


class CloudWriter:
    """Writes messages of one source for the cloud."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], _Template] = {}  # by properties and system properties

    def write(self, message: Message) -> bytes:
        """Return an encoded message."""
        key = (*message.properties.items(), None, *message.system_properties.items())
        template = self._known.get(key)
        if template is None:
            empty = Message("", message.properties, message.system_properties, b"")
            template = _Template(message_to_cloud(empty), has_lock=False)
            if template.size_bytes <= LONGEST_REMEMBERED_BYTES:
                if len(self._known) >= REMEMBERED_HEADS:
                    self._known.clear()
                self._known[key] = template
        return template.write(message.body)


class _Template:
    """An encoded head, to be completed by a lock, if there is one in it, and a body."""

    __slots__ = ("_before", "_behind")

    def __init__(self, message: AmqpMessage, *, has_lock: bool) -> None:
        """Take a message without body; if it has a lock, that is `_ANY_LOCK` and is to be replaced."""
        self._before, self._behind = encode_head(message), b""
        if has_lock:
            self._before, _, self._behind = self._before.partition(str(_ANY_LOCK).encode())

    @property
    def size_bytes(self) -> int:
        """The length of the head, but for the lock."""
        return len(self._before) + len(self._behind)

    def write(self, body: bytes, lock: uuid.UUID | None = None) -> bytes:
        """Return the whole message; the lock is for heads that have one."""
        if lock is None:
            return self._before + encode_body(body)
        return b"".join((self._before, str(lock).encode(), self._behind, encode_body(body)))
