"""What has to be on disk, gathered until it is written all at once, and who waits for that.

Written are the messages of persistent sessions at QoS 1 and 2 (the body once, however many sessions hold it),
the packet ids of QoS 2 in both directions, and retained messages. What transient sessions get costs no disk.

An acknowledgement waits for the write. What is done with does not hurry: after a crash it is only done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgpack
from msgspec import Struct, field

from messaging.broker.delivery import Body, Outgoing
from messaging.mqtt.packets import Publish

Then = Callable[[str], None]  # gets "" once it is written, else why it is not


class Changes(Struct):
    """One write. Sessions are known by a number; what is gone with a session need not be named."""

    sessions: dict[int, tuple[str, float | None] | None] = field(default_factory=dict)
    """Number → (name, since when its client is away or None), None for one that is gone."""
    bodies: list[tuple[int, bytes]] = field(default_factory=list)  # (seq, record)
    queued: list[tuple[int, int, int, int]] = field(default_factory=list)  # (session, seq, packet id, flags)
    renamed: list[tuple[int, int, int]] = field(default_factory=list)  # (packet id, session, seq)
    received: list[tuple[int, int]] = field(default_factory=list)  # (session, seq): PUBREC has come
    done: list[tuple[int, int]] = field(default_factory=list)  # (session, seq)
    gone_bodies: list[int] = field(default_factory=list)  # seqs that no session holds any more
    incoming: dict[tuple[int, int], bool] = field(default_factory=dict)
    """(session, packet id) → whether a QoS 2 PUBLISH of it waits for its PUBREL."""
    retained: dict[str, bytes | None] = field(default_factory=dict)  # topic → record, None: removed


class Kept(Struct):
    """What is on disk when the broker starts."""

    sessions: list[tuple[int, str, float | None]]  # (number, name, since when its client is away)
    bodies: dict[int, bytes]
    queued: list[tuple[int, int, int, int, bool]]  # (session, seq, packet id, flags, PUBREC has come), by seq
    incoming: list[tuple[int, int]]  # (session, packet id)
    retained: dict[str, bytes]


def encode_message(message: Publish, at_s: float = 0.0) -> bytes:
    """Return the record of a message on disk."""
    packed: bytes = msgpack.packb((message.topic, message.payload, message.qos, at_s))
    return packed


def decode_message(record: bytes) -> tuple[Publish, float]:
    """Return what `encode_message` was given."""
    topic, payload, qos, at_s = msgpack.unpackb(record)
    return Publish(topic, payload, qos), at_s


def flags_of(out: Outgoing) -> int:
    """Return what is kept of a message besides its packet id: its QoS, and whether it was a retained one."""
    return out.qos | out.retain << 2


class Journal:
    """The next write. Whoever changes something notes it here; one actor writes it and says so."""

    def __init__(self) -> None:
        self._changes = Changes()
        self._then: list[Then] = []
        self.is_dirty = False  # whether there is something to write
        self._next_seq = 1
        self._next_session = 1

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._then)

    def start(self, next_seq: int, next_session: int) -> None:
        """Go on with these numbers."""
        self._next_seq = max(self._next_seq, next_seq)
        self._next_session = max(self._next_session, next_session)

    def take(self) -> tuple[Changes, list[Then]]:
        """Return what is to be written now, and what to call then, in this order."""
        changes, then = self._changes, self._then
        self._changes, self._then = Changes(), []
        self.is_dirty = False
        return changes, then

    def put_back(self, changes: Changes) -> None:
        """It could not be written: what need not hurry is tried again with the next write."""
        mine = self._changes
        mine.sessions = changes.sessions | mine.sessions
        mine.renamed += changes.renamed
        mine.received += changes.received
        mine.done += changes.done
        mine.gone_bodies += changes.gone_bodies
        removed = {key: held for key, held in changes.incoming.items() if not held}
        mine.incoming = removed | mine.incoming
        mine.retained = changes.retained | mine.retained
        self.is_dirty = True

    def when_written(self, then: Then) -> None:
        """Call it once everything noted so far is written."""
        self._then.append(then)
        self.is_dirty = True

    # notes

    def new_session(self, name: str) -> int:
        """Return the number of a new persistent session."""
        number = self._next_session
        self._next_session += 1
        self.note_session(number, name, None)
        return number

    def note_session(self, number: int, name: str, left_s: float | None) -> None:
        """Keep when its client has left, None while it is there."""
        self._changes.sessions[number] = (name, left_s)
        self.is_dirty = True

    def drop_session(self, number: int) -> None:
        """It is gone, with all that it has on disk."""
        self._changes.sessions[number] = None
        self.is_dirty = True

    def new_bodies(self, messages: Sequence[Publish]) -> list[Body]:
        """Keep messages; the queues that hold them have to be noted."""
        seq = self._next_seq
        self._next_seq += len(messages)
        self._changes.bodies += [(seq + at, encode_message(message)) for at, message in enumerate(messages)]
        self.is_dirty = True
        return [Body(seq + at) for at in range(len(messages))]

    def queue(self, number: int, outs: Sequence[Outgoing]) -> None:
        """Keep messages for a session."""
        queued = self._changes.queued
        for out in outs:
            body = out.body
            assert body is not None
            body.holders += 1
            queued.append((number, body.seq, out.packet_id, flags_of(out)))
        self.is_dirty = True

    def rename(self, number: int, body: Body, packet_id: int) -> None:
        """A message of a session is sent under another packet id than it was kept with."""
        self._changes.renamed.append((packet_id, number, body.seq))
        self.is_dirty = True

    def received(self, number: int, body: Body) -> None:
        """The client has a QoS 2 message and is to get PUBREL from now on."""
        self._changes.received.append((number, body.seq))
        self.is_dirty = True

    def done(self, number: int, body: Body) -> None:
        """A session has no use for a message any more."""
        self._changes.done.append((number, body.seq))
        self.let_go(body)

    def let_go(self, body: Body) -> None:
        """One holder less, whose row goes by another way."""
        body.holders -= 1
        if not body.holders:
            self._changes.gone_bodies.append(body.seq)
        self.is_dirty = True

    def forget_bodies(self, seqs: Iterable[int]) -> None:
        """Nobody holds these."""
        self._changes.gone_bodies += seqs
        self.is_dirty = True

    def note_incoming(self, number: int, packet_id: int, *, held: bool) -> None:
        """A QoS 2 PUBLISH of a client waits for its PUBREL, or has had it."""
        self._changes.incoming[number, packet_id] = held
        self.is_dirty = True

    def retain(self, topic: str, record: bytes | None) -> None:
        """Keep a retained message, None: forget the one there is."""
        self._changes.retained[topic] = record
        self.is_dirty = True
