"""What is in the messages of a load: who sent it, on which output, as which number."""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

TURNS: Final = 10  # messages of one output before those of the next
_STAMP: Final = struct.Struct(">HHQ")  # publisher, output, sequence number
_SUM: Final = struct.Struct(">L")  # CRC-32 of everything else


class Key(NamedTuple):
    """One message of the load."""

    publisher: int
    output: int  # index in the outputs of the scenario
    sequence: int  # counts over all outputs of its publisher


def output_of(sequence: int, outputs: int) -> int:
    """Return on which of its outputs a publisher sends a message: all of them in turn."""
    return (sequence - 1) // TURNS % outputs


def body_of(key: Key, size_bytes: int) -> bytes:
    """Return the body of a message."""
    content = _STAMP.pack(*key).ljust(size_bytes - _SUM.size, b".")
    return content + _SUM.pack(zlib.crc32(content))


def key_in(body: bytes) -> Key:
    """Return which message a body is.

    Raises:
        ValueError: it is none of a load, or not as it was sent.
    """
    content = body[: -_SUM.size]
    if len(content) < _STAMP.size or body[-_SUM.size :] != _SUM.pack(zlib.crc32(content)):
        raise ValueError(f"{len(body)} bytes that no publisher of the load has sent")
    return Key(*_STAMP.unpack_from(content))
