"""The links of AMQP clients: what each is for, what waits on it, what it is owed.

Plain state around the engine's links; the head and its parts decide, the connection is flushed by the head.

Source: spec sheet hub-protocols.md sections 3.3 and 3.4
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.heads.intake import Batch, Unanswered, take_done
from messaging.amqp.addresses import LinkKind
from messaging.amqp.conditions import Refusal
from messaging.amqp.heads import DeviceWriter, TelemetryReader
from messaging.amqp.link import Delivery, Link
from messaging.errors import LocalProtocolError
from messaging.identity import Identity
from messaging.message import Message, encode_header, source_path, stamp_sender

if TYPE_CHECKING:
    from actors.heads.amqp_connection import AmqpClient, AmqpConnection

TELEMETRY_CREDIT: Final = 1000
REQUEST_CREDIT: Final = 100  # twin requests and answers to method calls
MOST_WAITING: Final = 100  # twin answers, patches and method calls for which there is no credit


class ClientLink:
    """A link that is attached. What a client sends on it counts against its credit."""

    def __init__(self, client: AmqpClient, kind: LinkKind, link: Link, channel: str) -> None:
        self.client = client
        self.kind = kind
        self.link = link
        self.channel = channel  # of a pair
        link.context = self

    @property
    def connection(self) -> AmqpConnection:
        """The connection that the link is on."""
        return self.client.connection


class EventsLink(ClientLink):
    """A client sends messages. Implements `intake.Publisher`: each link has an epoch of its own."""

    def __init__(self, client: AmqpClient, link: Link, channel: str, epoch: int, edge_device_id: str) -> None:
        super().__init__(client, LinkKind.EVENTS, link, channel)
        self.client_id = client.client_id
        self.epoch = epoch
        self.next_index = 0
        self.unanswered: deque[Unanswered] = deque()
        self.unanswered_bytes = 0
        self.batch = Batch()  # of the read that is being handled
        self.reader = TelemetryReader(_header_maker(client.identity, edge_device_id, client.model_id))
        self.failure: Refusal | None = None  # something was not stored; nothing more is taken then
        self.failed_batches = 0  # that were not stored, of those that have no answer yet
        self._used = 0  # credit that is to be given back
        link.grant(TELEMETRY_CREDIT)

    def acknowledge(self) -> None:
        """Accept what is on disk now, in the order in which it came."""
        deliveries = take_done(self)
        for delivery in deliveries:
            delivery.accept()
        self.used(len(deliveries))

    def is_answered(self) -> bool:
        """Say whether the store has answered all that was sent to it."""
        return sum(not one.done for one in self.unanswered) == self.failed_batches

    def used(self, count: int) -> None:
        """So many messages have their outcome; the client gets credit for as many, by the quarter."""
        self._used += count
        if self._used >= TELEMETRY_CREDIT // 4:
            self.link.grant(self._used)
            self._used = 0

    def hold(self, reason: str) -> None:
        """Do not read the connection."""
        self.connection.hold(f"{reason} {self.epoch}")

    def release(self, reason: str, now_s: float) -> None:
        """Read it again, when there is no other reason not to."""
        self.connection.release(f"{reason} {self.epoch}")


class RequestLink(ClientLink):
    """A client sends twin requests or answers to method calls; so many may be open at once."""

    def __init__(self, client: AmqpClient, kind: LinkKind, link: Link, channel: str) -> None:
        super().__init__(client, kind, link, channel)
        link.grant(REQUEST_CREDIT)

    def answered(self) -> None:
        """One of them is done."""
        self.link.grant(1)


class ReplyLink(ClientLink):
    """A client gets method calls, or twin answers and patches: settled when they are sent."""

    def __init__(self, client: AmqpClient, kind: LinkKind, link: Link, channel: str) -> None:
        super().__init__(client, kind, link, channel)
        self.wants_desired = True  # of twins: patches of desired properties, unless the client says else
        self._waiting: deque[tuple[bytes, Callable[[], None]]] = deque()
        self._tags = 0

    def send(self, encoded: bytes, sent: Callable[[], None]) -> bool:
        """Send a message as soon as there is credit, and say so; False when too many wait already."""
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append((encoded, sent))
        self.pump()
        return True

    def pump(self) -> None:
        """Send what credit allows, unless the client does not read."""
        link = self.link
        while self._waiting and link.credit > 0 and not self.connection.is_unread:
            encoded, sent = self._waiting.popleft()
            self._tags += 1
            try:
                link.send(encoded, self._tags.to_bytes(4, "big"), settled=True)
            except LocalProtocolError:
                continue  # longer than the client takes
            sent()
        if link.drain and not self._waiting:
            link.drained()


class Waiting(Struct, eq=False):
    """A message of the store for a client: waits for credit, or for the client's outcome."""

    endpoint_id: str
    position: int
    header: bytes
    body: bytes
    times: int = 0  # that it was sent
    delivery: Delivery | None = None  # while it is in flight
    sent_at_s: float = 0.0  # monotonic


class MessageLink(ClientLink):
    """A client gets messages of the store, of its inputs or from the cloud, each until it has accepted it."""

    def __init__(self, client: AmqpClient, kind: LinkKind, link: Link, channel: str, now_s: float) -> None:
        super().__init__(client, kind, link, channel)
        self.waiting: deque[Waiting] = deque()
        self.in_flight: dict[Waiting, None] = {}  # in the order of sending
        self.refused: list[Waiting] = []  # by the client, to be sent again after a while
        self.resume_s = 0.0  # monotonic; nothing is sent until then
        self.refusals = 0  # in a row
        self.taken_at_s = now_s  # when the client last accepted or dropped something (monotonic)
        self.repetitions = 0  # since then
        self.accepted_last: dict[str, int] = {}  # by endpoint: the highest position in the last answer
        self.writers: dict[str, DeviceWriter] = {}  # by endpoint

    def forget(self, endpoint_id: str) -> None:
        """The endpoint was detached: what the client still says of its messages means nothing."""
        self.waiting = deque(one for one in self.waiting if one.endpoint_id != endpoint_id)
        self.refused = [one for one in self.refused if one.endpoint_id != endpoint_id]
        for one in [one for one in self.in_flight if one.endpoint_id == endpoint_id]:
            del self.in_flight[one]
        self.writers.pop(endpoint_id, None)

    def positions_of(self, endpoint_id: str) -> set[int]:
        """Return the positions of an endpoint that are to be sent, or to be answered."""
        everything = chain(self.waiting, self.refused, self.in_flight)
        return {one.position for one in everything if one.endpoint_id == endpoint_id}

    def take_back(self, one: Waiting) -> None:
        """It is not in flight any more, and will be sent again."""
        self.in_flight.pop(one, None)
        one.delivery = None
        self.refused.append(one)

    def go_on(self) -> None:
        """Put what was taken back in front of what waits, in order."""
        self.refused.sort(key=lambda one: one.position, reverse=True)
        self.waiting.extendleft(self.refused)
        self.refused = []

    def write(self, one: Waiting, now_s: float) -> None:
        """Send one message; there is credit.

        Raises:
            EnvelopeError: its header is damaged.
            LocalProtocolError: it is longer than the client takes.
        """
        lock = uuid.uuid4()
        encoded = self.writers[one.endpoint_id].write(one.header, one.body, lock)
        delivery = self.link.send(encoded, lock.bytes_le, settled=False)
        delivery.context = one
        one.delivery = delivery
        one.times += 1
        one.sent_at_s = now_s
        self.in_flight[one] = None


def _header_maker(identity: Identity, edge_device_id: str, model_id: str) -> Callable[[Message], bytes]:
    def make(message: Message) -> bytes:
        stamped = stamp_sender(message.system_properties, identity, edge_device_id, model_id)
        return encode_header(source_path(stamped), message.properties, stamped)

    return make
