"""The message-format of transfers, which the engine neither shows nor sends.

It travels through the engine at the end of the delivery tag: a transfer that says BATCH_FORMAT becomes one
whose tag is four bytes longer and whose format is 0, and the reverse on the way out. Both are of the same
length, so frames are changed in place. Everything else passes as it is. The four bytes are a number of the
link: deliveries of two links may have equal tags.

Source: AMQP 1.0 part 2.7.5; spec sheet hub-protocols.md section 3.8.
"""

from __future__ import annotations

from messaging.amqp.codec import BATCH_FORMAT
from messaging.amqp.values import value_end
from messaging.errors import RemoteProtocolError

BATCH_BYTES = BATCH_FORMAT.to_bytes(4, "big")
EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"

_TRANSFERS = (b"\x00\x53\x14", b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x14")
_TRUE = 0x41


def plain_tag(tag: bytes) -> bytes:
    """Return the delivery tag without the mark that `batch_to_tag` put there."""
    return tag[:-4]


def _tag_at(frame: bytearray, pos: int, end: int) -> tuple[int, int, bytes]:
    """Return where the tag of the frame at `pos` starts, how many fields it has, and its handle; or nothing.

    That is so if this is no transfer, or one without tag or format.
    """
    start = pos + frame[pos + 4] * 4
    for descriptor in _TRANSFERS:
        if frame.startswith(descriptor, start, end):
            start += len(descriptor)
            break
    else:
        return 0, 0, b""
    if start + 9 > end or frame[start] not in (0xC0, 0xD0):
        return 0, 0, b""
    if frame[start] == 0xC0:
        fields = frame[start + 2]
        start += 3
    else:
        fields = int.from_bytes(frame[start + 5 : start + 9], "big")
        start += 9
    behind_handle = value_end(frame, start)
    handle = bytes(frame[start:behind_handle])
    start = value_end(frame, behind_handle)  # delivery-id
    # Longer tags do not occur (the standard allows 32 bytes).
    if fields > 3 and start + 2 < end and frame[start] == 0xA0 and frame[start + 1] <= 251:
        return start, fields, handle
    return 0, 0, b""


def batch_to_tag(frame: bytearray, pos: int, end: int, marks: dict[bytes, bytes]) -> bytes | None:
    """Put the mark of its link in place of BATCH_FORMAT of the frame at `pos`.

    Returns the tag that it has now, None for a frame without that format. `marks` are those of the links so
    far, by channel and handle.
    """
    try:
        tag, _, handle = _tag_at(frame, pos, end)
    except RemoteProtocolError:
        return None  # the engine says what is wrong
    if not tag:
        return None
    stop = tag + 2 + frame[tag + 1]
    if stop + 5 > end or frame[stop] != 0x70 or frame[stop + 1 : stop + 5] != BATCH_BYTES:
        return None
    link = bytes(frame[pos + 6 : pos + 8]) + handle
    mark = marks.setdefault(link, len(marks).to_bytes(4, "big"))
    frame[tag + 1] += 4
    frame[stop : stop + 5] = mark + b"\x43"
    return bytes(frame[tag + 2 : stop + 4])


def tag_to_batch(frame: bytearray, pos: int, end: int, tags: set[bytes]) -> None:
    """Move BATCH_FORMAT out of the tag of the frame at `pos`, if that is one of `tags`.

    With the last frame of a delivery its tag leaves `tags`.
    """
    at, fields, _ = _tag_at(frame, pos, end)
    if not at:
        return
    stop = at + 2 + frame[at + 1]
    tag = bytes(frame[at + 2 : stop])
    if tag not in tags:
        return
    frame[at + 1] -= 4
    frame[stop - 4 : stop + 1] = b"\x70" + BATCH_BYTES
    # Behind it stand settled and more; the engine leaves out what is null at the end.
    if fields <= 5 or frame[value_end(frame, stop + 1)] != _TRUE:
        tags.discard(tag)
