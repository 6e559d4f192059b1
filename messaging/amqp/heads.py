"""Messages of one sender, most of which differ in their bodies alone: what is known of them is used again.

All but the body of a message is its head. The engine reads or writes a head once (40 to 100 µs); from then on
it is found by its bytes or its properties (2 µs). Peers choose heads, so what is remembered is bounded.

Source: AMQP 1.0 part 3.2; spec sheet hub-protocols.md sections 3.4, 3.6 and 3.8
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage, decode, encode, split_batch
from messaging.amqp.conditions import DECODE_ERROR, NOT_ALLOWED, Refusal
from messaging.amqp.mapping import message_to_cloud, message_to_device, read_message, too_large
from messaging.errors import RemoteProtocolError
from messaging.message import LARGEST_MESSAGE_BYTES, Message, decode_header

LARGEST_BATCH_BYTES: Final = 600 * 1024
REMEMBERED_HEADS: Final = 256
LONGEST_REMEMBERED_BYTES: Final = 2048

_ANNOTATIONS_AND_PROPERTIES: Final = range(0x70, 0x75)  # the sections in front of the body
_DATA: Final = 0x75
_EMPTY_DATA: Final = b"\x00\x53\x75\xa0\x00"
# By the constructor of a list, map or binary: how many bytes of length follow.
_LENGTH_BYTES: Final = {0x45: 0, 0xA0: 1, 0xB0: 4, 0xC0: 1, 0xC1: 1, 0xD0: 4, 0xD1: 4}

Header = TypeVar("Header")


class TelemetryReader(Generic[Header]):
    """Reads what one device or module sends. `Header` is what its owner makes of all but the body."""

    def __init__(self, make_header: Callable[[Message], Header]) -> None:
        """Take what makes a header of a message without body; it is asked once for each head."""
        self._make_header = make_header
        self._known: dict[bytes | None, tuple[Header, int]] = {}  # by head; with how long a body may be

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
        head, body = split_body(data)
        known = self._known.get(head)
        if known is None:
            try:
                message = read_message(decode(data))
            except RemoteProtocolError as exc:
                return Refusal(DECODE_ERROR, str(exc))
            if isinstance(message, Refusal):
                return message
            body = message.body
            empty = Message("", message.properties, message.system_properties, b"")
            known = self._make_header(empty), LARGEST_MESSAGE_BYTES - empty.size_bytes
            if head is not None and len(head) <= LONGEST_REMEMBERED_BYTES:
                if len(self._known) >= REMEMBERED_HEADS:
                    self._known.clear()
                self._known[head] = known
        header, room_bytes = known
        return (header, body) if len(body) <= room_bytes else too_large(len(body) - room_bytes)


class DeviceWriter:
    """Writes messages of the store for one device (`to`) or for one input of a module."""

    def __init__(self, *, to: str | None = None, input_name: str | None = None) -> None:
        self._to = to
        self._input_name = input_name
        self._known: dict[bytes, Template] = {}  # by header

    def write(self, header: bytes, body: bytes, lock: uuid.UUID) -> bytes:
        """Return an encoded message; `lock` is what its delivery is known by.

        Raises:
            EnvelopeError: `header` is not the header of a message.
        """
        template = self._known.get(header)
        if template is None:
            message = decode_header(header, b"")
            some_lock = uuid.uuid4()
            sent = message_to_device(message, some_lock, to=self._to, input_name=self._input_name)
            template = Template(sent, some_lock)
            if len(header) <= LONGEST_REMEMBERED_BYTES:
                if len(self._known) >= REMEMBERED_HEADS:
                    self._known.clear()
                self._known[header] = template
        return template.write(body, lock)


class CloudWriter:
    """Writes messages of one source for the cloud."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Template] = {}  # by properties and system properties

    def write(self, message: Message) -> bytes:
        """Return an encoded message."""
        key = (*message.properties.items(), None, *message.system_properties.items())
        template = self._known.get(key)
        if template is None:
            empty = Message("", message.properties, message.system_properties, b"")
            template = Template(message_to_cloud(empty))
            if template.size_bytes <= LONGEST_REMEMBERED_BYTES:
                if len(self._known) >= REMEMBERED_HEADS:
                    self._known.clear()
                self._known[key] = template
        return template.write(message.body)


class Template:
    """An encoded head, to be completed by a lock and a body."""

    __slots__ = ("_before", "_behind")

    def __init__(self, message: AmqpMessage, lock: uuid.UUID | None = None) -> None:
        """Take a message without body; `lock` is the one that stands in it and is to be replaced."""
        head = encode(message).removesuffix(_EMPTY_DATA)
        self._before, self._behind = head, b""
        if lock is not None:
            self._before, _, self._behind = head.partition(str(lock).encode())

    @property
    def size_bytes(self) -> int:
        """The length of the head, but for the lock."""
        return len(self._before) + len(self._behind)

    def write(self, body: bytes, lock: uuid.UUID | None = None) -> bytes:
        """Return the whole message; `lock` as there was one when the template was made."""
        size = len(body)
        data = b"\x00\x53\x75\xa0%c" % size if size < 256 else b"\x00\x53\x75\xb0" + size.to_bytes(4, "big")
        if lock is None:
            return b"".join((self._before, data, body))
        return b"".join((self._before, str(lock).encode(), self._behind, data, body))


def split_body(data: bytes) -> tuple[bytes | None, bytes]:
    """Return a message as head and body; the head is None when it takes more than a look to tell them apart.

    That is so where the body is not one Data section at the end, and where this is no message.
    """
    end = len(data)
    at = 0
    try:
        while at < end:
            length_bytes = _LENGTH_BYTES[data[at + 3]]
            start = at + 4 + length_bytes
            next_at = start + int.from_bytes(data[at + 4 : start], "big")
            code = data[at + 2]
            if data[at] != 0x00 or data[at + 1] != 0x53 or next_at > end:
                break
            if code == _DATA:
                return (data[:at], data[start:]) if next_at == end else (None, b"")
            if code not in _ANNOTATIONS_AND_PROPERTIES:
                break
            at = next_at
    except (IndexError, KeyError):
        pass
    return None, b""
