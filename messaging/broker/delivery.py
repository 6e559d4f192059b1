"""Messages on their way to subscribers: each made once, whatever the number of those that get it.

A broadcast costs its subscribers a reference to a `Run` and one write. For that all of them get it under the
same packet ids: they come from one counter of the broker, so an id that is free in one session is free in
nearly all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from messaging.broker.limits import FIRST_PACKET_ID, LAST_PACKET_ID
from messaging.mqtt.packets import Publish, encode_publish

_DUP: Final = 0x08
_RETAIN: Final = 0x01


class Body:
    """One message on disk, held by the queues of so many sessions."""

    __slots__ = ("holders", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.holders = 0


class Outgoing:
    """A message as subscribers get it. At QoS 0 `packet_id` is 0; `body` is set when it is on disk."""

    __slots__ = ("body", "frame", "is_again", "message", "packet_id", "qos", "retain", "size_bytes")

    def __init__(
        self,
        message: Publish,
        qos: int,
        packet_id: int,
        body: Body | None = None,
        *,
        retain: bool = False,
        is_again: bool = False,
    ) -> None:
        self.message = message
        self.qos = qos
        self.packet_id = packet_id
        self.body = body
        self.retain = retain
        self.is_again = is_again  # it may have been sent before this process started
        self.frame = b""  # made when it is wanted first
        self.size_bytes = len(message.topic) + len(message.payload)  # what it counts in a queue

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self.message.topic

    @property
    def payload(self) -> bytes:
        """What was published."""
        return self.message.payload

    def encoded(self) -> bytes:
        """Return its PUBLISH."""
        if not self.frame:
            topic = self.message.topic.encode()
            dup = self.is_again and self.qos > 0
            frame = encode_publish(topic, self.message.payload, self.packet_id, self.qos, dup)
            self.frame = bytes((frame[0] | _RETAIN,)) + frame[1:] if self.retain else frame
        return self.frame

    def encoded_again(self) -> bytes:
        """Return its PUBLISH, marked as sent before."""
        frame = self.encoded()
        return bytes((frame[0] | _DUP,)) + frame[1:]

    def under(self, packet_id: int) -> Outgoing:
        """Return the same under another packet id."""
        return Outgoing(self.message, self.qos, packet_id, self.body, retain=self.retain)


class Run:
    """Messages to one topic that follow one another, at the QoS at which a group of subscribers gets them."""

    __slots__ = (
        "_by_id",
        "_outs",
        "_parts",
        "_parts_bytes",
        "_sizes",
        "_wire",
        "bodies",
        "first_id",
        "messages",
        "qos",
        "retain",
    )

    def __init__(
        self,
        messages: Sequence[Publish],
        qos: int,
        first_id: int,
        bodies: Sequence[Body] = (),
        *,
        retain: bool = False,
    ) -> None:
        self.messages = messages
        self.qos = qos
        self.first_id = first_id
        self.bodies = bodies
        self.retain = retain
        self._outs: list[Outgoing] | None = None
        self._by_id: dict[int, Outgoing] | None = None
        self._wire = b""
        self._sizes: list[int] | None = None  # of the first messages together, from none of them on
        self._parts: dict[tuple[int, int], bytes] = {}
        self._parts_bytes = 0

    @classmethod
    def of(cls, out: Outgoing) -> Run:
        """Return one message as a run."""
        run = cls((out.message,), out.qos, out.packet_id, retain=out.retain)
        run._outs = [out]
        return run

    @property
    def outs(self) -> list[Outgoing]:
        """Its messages, one by one."""
        outs = self._outs
        if outs is None:
            qos, retain, bodies = self.qos, self.retain, self.bodies
            first_id = self.first_id if qos else 0
            step = 1 if qos else 0
            outs = self._outs = [
                Outgoing(message, qos, first_id + at * step, bodies[at] if bodies else None, retain=retain)
                for at, message in enumerate(self.messages)
            ]
        return outs

    @property
    def by_id(self) -> dict[int, Outgoing]:
        """The same by packet id; for QoS 1 and 2."""
        if self._by_id is None:
            self._by_id = {out.packet_id: out for out in self.outs}
        return self._by_id

    @property
    def wire(self) -> bytes:
        """All of it as bytes."""
        if not self._wire:
            if self.qos or self.retain:
                frames = [out.encoded() for out in self.outs]
            else:
                topic = self.messages[0].topic.encode()
                frames = [encode_publish(topic, message.payload, 0, 0) for message in self.messages]
            self._wire = frames[0] if len(frames) == 1 else b"".join(frames)
        return self._wire

    def part(self, start: int, stop: int) -> bytes:
        """Return some of its messages as bytes.

        Subscribers that keep up with one another want the same parts, so these are kept; not more of them
        than twice the run.
        """
        parts = self._parts
        data = parts.get((start, stop))
        if data is None:
            data = b"".join([out.frame or out.encoded() for out in self.outs[start:stop]])
            if self._parts_bytes + len(data) <= 2 * self.size_bytes(0, len(self.messages)):
                self._parts_bytes += len(data)
                parts[start, stop] = data
        return data

    def size_bytes(self, start: int, stop: int) -> int:
        """Return what some of its messages count in a queue."""
        sizes = self._sizes
        if sizes is None:
            sizes = self._sizes = list(accumulate((out.size_bytes for out in self.outs), initial=0))
        return sizes[stop] - sizes[start]


class PacketIds:
    """The counter of packet ids that all sessions of a broker share."""

    def __init__(self) -> None:
        self._next = FIRST_PACKET_ID

    def go_on_after(self, packet_id: int) -> None:
        """This was the last one of an earlier process: what it has left on disk keeps its ids."""
        self._next = packet_id + 1 if FIRST_PACKET_ID <= packet_id < LAST_PACKET_ID else FIRST_PACKET_ID

    def take(self, count: int) -> int:
        """Return the first of `count` ids in a row, of at most `MOST_IN_FLIGHT`."""
        first = self._next
        if first + count - 1 > LAST_PACKET_ID:
            first = FIRST_PACKET_ID
        self._next = first + count if first + count <= LAST_PACKET_ID else FIRST_PACKET_ID
        return first


class Outlet:
    """Where a session's messages go while its client is there. What one batch brought it goes at once.

    `hold` and `release` are called when others cannot keep up with what this client publishes.
    """

    __slots__ = ("blocked_by", "hold", "release", "touched")

    def __init__(self, hold: Callable[[], None], release: Callable[[], None]) -> None:
        self.hold = hold
        self.release = release
        self.touched: list[Outlet] = []  # of the broker: outlets that have something to flush
        self.blocked_by: set[object] = set()

    def put(self, run: Run) -> None:
        """Add a whole run."""
        raise NotImplementedError

    def put_part(self, run: Run, start: int, stop: int) -> None:
        """Add some messages of a run."""
        raise NotImplementedError

    def put_again(self, outs: Sequence[Outgoing]) -> None:
        """Add messages that were sent before."""
        raise NotImplementedError

    def put_bytes(self, data: bytes) -> None:
        """Add a packet of the protocol that is no message."""
        raise NotImplementedError

    def flush(self) -> None:
        """Hand over what was added."""
        raise NotImplementedError


class WireOutlet(Outlet):
    """An MQTT connection: bytes, in one write."""

    __slots__ = ("_pieces", "_write")

    def __init__(
        self, write: Callable[[bytes], None], hold: Callable[[], None], release: Callable[[], None]
    ) -> None:
        super().__init__(hold, release)
        self._write = write
        self._pieces: list[bytes] = []

    def put(self, run: Run) -> None:
        if not self._pieces:
            self.touched.append(self)
        self._pieces.append(run.wire)

    def put_part(self, run: Run, start: int, stop: int) -> None:
        if not self._pieces:
            self.touched.append(self)
        self._pieces.append(run.part(start, stop))

    def put_again(self, outs: Sequence[Outgoing]) -> None:
        self.put_bytes(b"".join([out.encoded_again() for out in outs]))

    def put_bytes(self, data: bytes) -> None:
        if not self._pieces:
            self.touched.append(self)
        self._pieces.append(data)

    def flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._write(pieces[0] if len(pieces) == 1 else b"".join(pieces))


class LocalOutlet(Outlet):
    """A participant inside this process: it gets the messages themselves, those of a batch in one call."""

    __slots__ = ("_deliver", "_outs")

    def __init__(
        self,
        deliver: Callable[[list[Outgoing]], None],
        hold: Callable[[], None],
        release: Callable[[], None],
    ) -> None:
        super().__init__(hold, release)
        self._deliver = deliver
        self._outs: list[Outgoing] = []

    def put(self, run: Run) -> None:
        self.put_again(run.outs)

    def put_part(self, run: Run, start: int, stop: int) -> None:
        self.put_again(run.outs[start:stop])

    def put_again(self, outs: Sequence[Outgoing]) -> None:
        if not self._outs:
            self.touched.append(self)
        self._outs += outs

    def put_bytes(self, data: bytes) -> None:
        """Nothing: it needs no packets of the protocol."""

    def flush(self) -> None:
        outs, self._outs = self._outs, []
        self._deliver(outs)
