"""Cloud-to-device messages of one identity over AMQP: a lock is a delivery, its outcome decides.

What the client has settled is settled for it when that is on disk.

Source: spec sheet hub-protocols.md sections 3.4, 3.6 and 7.4
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from messaging import system_properties as names
from messaging.amqp import codec
from messaging.amqp.conditions import refusal_of
from messaging.amqp.events import Outcome
from messaging.amqp.link import Delivery, Link
from messaging.amqp.mapping import lock_tag, message_to_device
from messaging.errors import EdgeError, LocalProtocolError
from messaging.message import Message
from messaging.time_text import iso_utc
from runtime.iothub.records import C2dMessage, Grant

if TYPE_CHECKING:
    from runtime.iothub.amqp.front import AmqpConnection


class C2dSender:
    """Belongs to one identity on one connection."""

    def __init__(self, connection: AmqpConnection, grant: Grant) -> None:
        self._connection = connection
        self._grant = grant
        self._link: Link | None = None
        self._waiting: dict[int, tuple[C2dMessage, str]] = {}  # for credit, by sequence number, in order

    def attach(self, link: Link) -> None:
        """Send on this link from now on."""
        self._link = link

    def detach(self, link: Link) -> None:
        """The link is gone: what was passed on waits in the queue of the hub again."""
        if link is self._link:
            self._link = None
            self._waiting.clear()
            self._connection.hub.release_c2d(self._grant)

    def put(self, message: C2dMessage, lock: str) -> None:
        """Send a message as soon as there is credit. One whose lock had run out meanwhile has a new lock."""
        self._waiting[message.sequence_number] = message, lock
        self.send()

    def send(self) -> None:
        """Send what waits."""
        link = self._link
        if link is None:
            return
        now_s = self._connection.clock.now_s()
        while self._waiting and link.credit > 0 and self._connection.is_writable:
            message, lock = self._waiting.pop(next(iter(self._waiting)))
            if message.expires_s > now_s:
                self._send_one(link, message, lock)
        if link.drain:
            link.drained()
        self._connection.flush_soon()

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """The client has decided. That counts, also if its link ends before it is on disk."""
        hub, lock = self._connection.hub, delivery.context
        assert isinstance(lock, str)
        if outcome is Outcome.ACCEPTED:
            decided = hub.complete_c2d(self._grant, lock)
        elif outcome is Outcome.REJECTED:
            decided = hub.reject_c2d(self._grant, lock)
        else:  # released, modified, or settled without a word: not taken
            decided = hub.abandon_c2d(self._grant, lock)
        self._connection.spawn(self._settle(delivery, decided))

    def _send_one(self, link: Link, message: C2dMessage, lock: str) -> None:
        encoded = codec.encode(_encode(message, lock))
        try:
            delivery = link.send(encoded, lock_tag(uuid.UUID(lock)), settled=False)
        except LocalProtocolError:  # larger than the client takes
            self._connection.spawn(self._connection.hub.reject_c2d(self._grant, lock))
            return
        delivery.context = lock

    async def _settle(self, delivery: Delivery, decided: Awaitable[None]) -> None:
        try:
            await decided
        except EdgeError as exc:  # it is not on disk: the client gets the message again
            link = self._link
            if link is not None:
                self._connection.detach(link, refusal_of(exc))
                self.detach(link)
            return
        delivery.settle()
        self._connection.flush_soon()


def _encode(message: C2dMessage, lock: str) -> codec.AmqpMessage:
    system_properties = {
        **message.system_properties,
        names.ENQUEUED_TIME: iso_utc(message.enqueued_s),
        names.DELIVERY_COUNT: str(message.delivery_count),
        names.SEQUENCE_NUMBER: str(message.sequence_number),
    }
    return message_to_device(
        Message("", message.properties, system_properties, message.body), uuid.UUID(lock)
    )
