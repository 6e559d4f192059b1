"""The envelope: one msgpack array that carries one message between two actors.

Layout, in order: version, lane, id, kind, to, sender, epoch, correlation id, time, deadline, body. The body
is the array of the message's fields. One ZeroMQ frame is one envelope; multi-part messages are 5 to 10 times
slower in pyzmq (DESIGN.md).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from messaging.errors import EnvelopeError

VERSION: Final = 1
MAX_ENVELOPE_BYTES: Final = 16 * 1024 * 1024
_FIELDS: Final = 11
_ARRAY_HEAD: Final = 0x90 | _FIELDS  # msgpack: array of 11 elements
_LANE_AT: Final = 2  # version and lane are one-byte integers right behind the array's head
_SECRET_TYPE: Final = 1
PACKER_BYTES: Final = 1024  # to begin with; there is a packer for each thread, and its own default is 256 KiB


class Secret:
    """A key, token or password. Shows itself as `***` in logs, dead letters, taps and tracebacks."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return what is inside. Never log the answer."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


class Envelope(NamedTuple):
    """One message on its way. A NamedTuple: it is built for every message, a frozen dataclass costs 5 x."""

    version: int
    lane: int
    id: int  # unique in the sending process and, by its random start, practically everywhere
    kind: str
    to: str
    sender: str  # "" when nobody expects an answer
    epoch: int  # incarnation of the receiving process that is meant; 0 = whichever runs
    correlation_id: int  # a request carries its own id here, its reply the same; 0 = none
    sent_at_s: float  # seconds since 1970-01-01 UTC
    deadline_s: float  # on the monotonic clock of this machine; 0 = none
    body: tuple[Any, ...]

    @property
    def is_request(self) -> bool:
        """Whether the sender waits for an answer."""
        return self.correlation_id != 0 and self.deadline_s != 0.0


# What waits in a mailbox: a frame; or an envelope of the data lane that does not leave its thread. That one
# is packed only when somebody looks: a batch would be three times, on its way from a socket to the disk and
# back.
Mail = bytes | Envelope


def _encode_extension(value: Any) -> Any:
    if isinstance(value, Secret):
        return msgpack.ExtType(_SECRET_TYPE, value.reveal())
    raise TypeError(f"a message field cannot carry a {type(value).__name__}")


def _decode_extension(code: int, data: bytes) -> Any:
    if code == _SECRET_TYPE:
        return Secret(data)
    raise ValueError(f"unknown msgpack extension type {code}")


def new_packer() -> msgpack.Packer:
    """Return a packer for `encode`. One per thread: making one costs more than packing a small envelope."""
    return msgpack.Packer(default=_encode_extension, buf_size=PACKER_BYTES)


def encode(fields: tuple[Any, ...], packer: msgpack.Packer | None = None) -> bytes:
    """Return the frame of an envelope, given as Envelope or as the plain tuple of its fields.

    Raises:
        EnvelopeError: it is over MAX_ENVELOPE_BYTES, or a field cannot be carried.
    """
    try:
        frame: bytes = (packer or new_packer()).pack(fields)
    except (TypeError, ValueError, OverflowError) as exc:
        raise EnvelopeError(f"message {fields[3]} to {fields[4]} cannot be encoded: {exc}") from exc
    if len(frame) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(
            f"message {fields[3]} to {fields[4]} has {len(frame)} bytes, the limit is {MAX_ENVELOPE_BYTES}"
        )
    return frame


def decode(frame: bytes) -> Envelope:
    """Return the envelope in `frame`.

    Raises:
        EnvelopeError: not an envelope of this version, damaged, or over the size limit.
    """
    if len(frame) < _FIELDS + 1 or frame[0] != _ARRAY_HEAD or frame[1] != VERSION:
        raise EnvelopeError(f"{len(frame)} bytes that are not an envelope of version {VERSION}")
    if len(frame) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"an envelope of {len(frame)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    try:
        fields = msgpack.unpackb(frame, use_list=False, strict_map_key=False, ext_hook=_decode_extension)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
        raise EnvelopeError(f"a damaged envelope of {len(frame)} bytes: {exc}") from exc
    # Not by `_make`, which would only count the fields again: the array's head has said how many they are.
    envelope = tuple.__new__(Envelope, fields)
    _, _, _, kind, to, sender, _, _, _, deadline_s, body = fields
    if type(body) is not tuple or type(kind) is not str or type(to) is not str or type(sender) is not str:
        raise EnvelopeError(
            f"a damaged envelope of {len(frame)} bytes: kind, address or body of a wrong type"
        )
    if type(deadline_s) is not float:  # of id, epoch and correlation id only equality is asked
        raise EnvelopeError(f"a damaged envelope of {len(frame)} bytes: no deadline")
    return envelope


def opened(mail: Mail) -> Envelope:
    """Return the envelope that waits in a mailbox.

    Raises:
        EnvelopeError: as of `decode`.
    """
    return mail if isinstance(mail, Envelope) else decode(mail)


def lane_of(frame: Mail) -> int:
    """Return the lane of a frame without decoding it; anything odd is control and judged by `decode`."""
    if isinstance(frame, Envelope):
        return frame.lane
    return 1 if len(frame) > _LANE_AT and frame[_LANE_AT] == 1 and frame[0] == _ARRAY_HEAD else 0
