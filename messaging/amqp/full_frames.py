"""Frames with all fields of their performative, those at the end that are null included.

The standard lets a sender leave such fields out, which the engine does. The AMQP library inside the Python
SDK `azure-eventhub` reads fields by their place and fails where one is missing.

Source: AMQP 1.0 parts 1.4 and 2.7; azure-eventhub 5.15.1: azure/eventhub/_pyamqp/_connection.py, session.py
"""

from __future__ import annotations

from typing import Final

# How many fields each performative has, by its descriptor: open to close.
_FIELDS: Final = {0x10: 10, 0x11: 8, 0x12: 14, 0x13: 11, 0x14: 11, 0x15: 6, 0x16: 3, 0x17: 1, 0x18: 1}
_SMALL: Final = b"\x00\x53"  # in front of a descriptor of one byte
_ERROR: Final = b"\x00\x53\x1d"
_ERROR_FIELDS: Final = 3
_NULL: Final = b"\x40"
_LIST0, _LIST8, _LIST32 = 0x45, 0xC0, 0xD0
_AMQP_FRAME: Final = 0


def with_all_fields(data: bytes) -> bytes:
    """Return whole frames, and protocol headers between them, with all fields of their performatives.

    `data` is what the engine wrote: performatives with small descriptors.
    """
    parts: list[bytes] = []
    pos, end = 0, len(data)
    while pos < end:
        if data.startswith(b"AMQP", pos):
            parts.append(data[pos : pos + 8])
            pos += 8
            continue
        stop = pos + int.from_bytes(data[pos : pos + 4], "big")
        start = pos + data[pos + 4] * 4
        fields = None
        if data[pos + 5] == _AMQP_FRAME and data.startswith(_SMALL, start):
            fields = _FIELDS.get(data[start + 2])
        if fields is None:
            parts.append(data[pos:stop])
        else:
            body, behind = _list(data, start + 3, fields)
            size = start + 3 - pos + len(body) + stop - behind
            parts += (size.to_bytes(4, "big"), data[pos + 4 : start + 3], body, data[behind:stop])
        pos = stop
    return b"".join(parts)


def _list(data: bytes, pos: int, fields: int) -> tuple[bytes, int]:
    """Return the list at `pos` with at least so many fields, and where it ended."""
    constructor = data[pos]
    if constructor == _LIST0:
        count, start, behind = 0, pos + 1, pos + 1
    elif constructor == _LIST8:
        count, start, behind = data[pos + 2], pos + 3, pos + 2 + data[pos + 1]
    else:
        count = int.from_bytes(data[pos + 5 : pos + 9], "big")
        start, behind = pos + 9, pos + 5 + int.from_bytes(data[pos + 1 : pos + 5], "big")
    content = data[start:behind]
    if fields == 1 and content.startswith(_ERROR):  # of close and end: its fields are read by place, too
        error, _ = _list(content, len(_ERROR), _ERROR_FIELDS)
        content = _ERROR + error
    content += _NULL * (fields - count)
    size = len(content) + 4
    return bytes((_LIST32,)) + size.to_bytes(4, "big") + max(count, fields).to_bytes(
        4, "big"
    ) + content, behind
