"""What the engine must not be shown, because it trusts a peer there and would corrupt its memory.

It takes a Transfer on a link on which *we* send, a Begin that answers one session twice, a handle or channel
given out twice, a second Open, and SASL frames where there is no SASL. A guard looks at each frame in front
of the engine, and follows which channels and handles the peer has in use. Of fields that it needs it takes no
encoding but those of their types: the engine reads any other as 0.

Source: AMQP 1.0 parts 2.3 to 2.7; the engine's transport.c of 0.40.
"""

from __future__ import annotations

from messaging.amqp.values import value_end
from messaging.errors import RemoteProtocolError

OPEN, BEGIN, ATTACH, TRANSFER, DETACH, END = 0x10, 0x11, 0x12, 0x14, 0x16, 0x17

# Of a frame that is no transfer: a link keeps what its Attach says, and a connection may have many.
MAX_CONTROL_FRAME_BYTES = 8_192


class Guard:
    """Follows one peer.

    Attributes:
        answers: How many sessions of ours the peer has yet to answer.
        transfers: How frames start that are transfers on links on which the peer sends: bytes 4 to 11 (with
            channel and descriptor) and bytes 14 and 15 (with the handle). That holds for frames of 16 bytes
            and more whose list, its length being byte 12, has 3 and more.
    """

    def __init__(self) -> None:
        self.answers = 0
        self._opened = False
        self.transfers: set[tuple[bytes, bytes]] = set()
        self._incoming: set[int] = set()  # links on which the peer sends, as channel * 2**32 + handle
        self._handles: dict[int, set[int]] = {}  # in use, by channel

    def check(self, data: bytes, pos: int, stop: int) -> bool:
        """Look at the frame from `pos` to `stop`; return whether the engine is to see it.

        It is not to see a Detach on a channel that is not in use: its link has ended with the session, and
        `azure-eventhub` for Python sends both, End first.

        Raises:
            RemoteProtocolError: The engine must not see it.
        """
        start = pos + data[pos + 4] * 4
        if start == stop and start - pos >= 8:
            return True  # a heart-beat
        if not pos + 8 <= start <= stop - 4 or data[pos + 5] != 0:
            raise RemoteProtocolError("a frame that cannot be read")
        code, fields, end = _performative(data, start, stop)
        if code == TRANSFER:
            channel = int.from_bytes(data[pos + 6 : pos + 8], "big")
            if (channel << 32) + _handle(data, fields, end) not in self._incoming:
                raise RemoteProtocolError("a Transfer without a link for it")
            if data[pos + 4] == 2 and data[pos + 8 : pos + 12] == b"\x00\x53\x14\xc0" and stop - pos >= 16:
                self._remember(data, pos)
            return True
        if stop - pos > MAX_CONTROL_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame of {stop - pos} bytes that is no Transfer")
        if self._opened is (code == OPEN):
            raise RemoteProtocolError("a second Open" if self._opened else "no Open before all else")
        self._opened = True
        if code in (BEGIN, ATTACH, DETACH, END):
            channel = int.from_bytes(data[pos + 6 : pos + 8], "big")
            if code == DETACH and channel not in self._handles:
                return False
            self._follow(code, channel, data, fields, end)
        return True

    def _remember(self, data: bytes, pos: int) -> None:
        constructor, following = data[pos + 14 : pos + 16]
        # The handle alone: 0, which the delivery-id follows, or one byte.
        if (constructor == 0x43 and following in (0x40, 0x43, 0x52, 0x70)) or constructor == 0x52:
            self.transfers.add((data[pos + 4 : pos + 12], data[pos + 14 : pos + 16]))

    def _follow(self, code: int, channel: int, data: bytes, fields: int, end: int) -> None:
        handles = self._handles.get(channel)
        if code == BEGIN:
            if handles is not None:
                raise RemoteProtocolError(f"a second Begin on channel {channel}")
            answers = fields < end and data[fields] != 0x40
            if answers and (data[fields] != 0x60 or not self.answers):
                raise RemoteProtocolError("a Begin that answers none of ours")
            self.answers -= answers
            self._handles[channel] = set()
        elif handles is None:
            return  # the engine says so
        elif code == ATTACH:
            if fields >= end or data[fields] not in (0xA1, 0xB1):
                raise RemoteProtocolError("an Attach without a name")
            at = value_end(data, fields)
            handle = _handle(data, at, end)
            if handle in handles:
                raise RemoteProtocolError(f"handle {handle} is in use")
            handles.add(handle)
            if not _boolean(data, value_end(data, at), end):  # the role: whether it receives
                self._incoming.add((channel << 32) + handle)
        elif code == DETACH:
            handle = _handle(data, fields, end)
            self.transfers.clear()
            handles.discard(handle)
            self._incoming.discard((channel << 32) + handle)
        else:
            del self._handles[channel]
            self.transfers.clear()
            self._incoming.difference_update([(channel << 32) + handle for handle in handles])


def _performative(data: bytes, start: int, stop: int) -> tuple[int, int, int]:
    """Return descriptor, where the first field is, and where the list of fields ends.

    How many fields the list says to have does not matter: the engine does not look at that.
    """
    if data[start : start + 2] == b"\x00\x53":
        code = data[start + 2]
        start += 3
    elif data[start : start + 2] == b"\x00\x80" and start + 11 <= stop:
        code = int.from_bytes(data[start + 2 : start + 10], "big")
        start += 10
    else:
        raise RemoteProtocolError("a frame that cannot be read")
    constructor = data[start]
    if constructor == 0x45:
        return code, start + 1, start + 1
    width = {0xC0: 1, 0xD0: 4}.get(constructor)
    if width is None or start + 1 + 2 * width > stop:
        raise RemoteProtocolError("a frame that cannot be read")
    end = start + 1 + width + int.from_bytes(data[start + 1 : start + 1 + width], "big")
    if end > stop:
        raise RemoteProtocolError("a frame that cannot be read")
    return code, start + 1 + 2 * width, end


def _handle(data: bytes, at: int, end: int) -> int:
    """Return the uint at `at`."""
    width = {0x43: 0, 0x52: 1, 0x70: 4}.get(data[at]) if at < end else None
    if width is None or at + width >= end:
        raise RemoteProtocolError("a handle that is no uint")
    return int.from_bytes(data[at + 1 : at + 1 + width], "big")


def _boolean(data: bytes, at: int, end: int) -> bool:
    """Return the boolean at `at`."""
    constructor = data[at] if at < end else None
    if constructor == 0x56 and at + 1 < end:
        return data[at + 1] != 0
    if constructor not in (0x41, 0x42):
        raise RemoteProtocolError("a role that is no boolean")
    return constructor == 0x41
