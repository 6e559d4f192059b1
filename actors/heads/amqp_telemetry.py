"""What AMQP clients send for the router, until it is on disk.

Each link has an epoch of its own, so the store takes its messages in order or not at all. A link of which
something was not stored is ended with the condition for that, once it is known what became of the rest.

Source: spec sheet hub-protocols.md sections 3.4, 3.5, 3.8 and 7.3
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from actors.heads.amqp_connection import AmqpClient, AmqpConnection
from actors.heads.amqp_links import EventsLink
from actors.heads.intake import STORE_LIMIT_S, Batch, Intake
from actors.heads.readers import Readers
from actors.kernel.base import EdgeActor
from messaging.amqp.addresses import LinkKind
from messaging.amqp.conditions import CONTAINER_THROTTLED, TIMEOUT, Refusal
from messaging.amqp.link import Delivery, Link

log = logging.getLogger(__name__)

Detach = Callable[[EventsLink, Refusal], None]


class Telemetry:
    """The links on which clients send messages. A part of the head, which calls it for each."""

    def __init__(
        self, head: EdgeActor, router: str, next_id: Callable[[], int], edge_device_id: str, detach: Detach
    ) -> None:
        """Take what is needed; `detach` ends a link."""
        self._head = head
        self._next_id = next_id
        self._edge_device_id = edge_device_id
        self._intake = Intake(head, router, next_id)
        self._readers = Readers(head)
        self._detach = detach

    @property
    def unanswered_bytes(self) -> int:
        """How much is on its way to the disk."""
        return self._intake.unanswered_bytes

    def attach(self, client: AmqpClient, link: Link, channel: str) -> EventsLink:
        """A client wants to send on this link, which was accepted."""
        return EventsLink(client, link, channel, self._next_id(), self._edge_device_id)

    def received(self, link: EventsLink, delivery: Delivery) -> None:
        """Take one transfer: a message, or a batch of them; `read` follows when the read was handled."""
        if link.failure is not None:
            delivery.reject(link.failure.condition, link.failure.description)
            return
        messages = link.reader.read(delivery.data, delivery.message_format)
        delivery.data = b""  # it may wait for a while
        if isinstance(messages, Refusal):
            log.warning("%s: a message is refused: %s", link.client_id, messages.reason)
            delivery.reject(messages.condition, messages.description)
            link.used(1)
            return
        batch = link.batch
        for header, body in messages:
            batch.add(header, body)
        batch.answers.append(delivery)
        link.connection.events_links.add(link)

    def read(self, connection: AmqpConnection) -> None:
        """Send what one read has brought on its way, for each link at once."""
        links, connection.events_links = connection.events_links, set()
        for link in links:
            batch, link.batch = link.batch, Batch()
            self._intake.publish(link, batch)
            if batch.entries:
                self._readers.has_read(link, len(batch.entries), batch.size_bytes)

    def stored(self, batch_ids: tuple[int, ...]) -> list[EventsLink]:
        """These batches are on disk; return whose they were."""
        links: list[EventsLink] = self._intake.stored(batch_ids)
        for link in links:
            self._end_if_failed(link)
        self._readers.committed()
        return links

    def read_on(self) -> None:
        """The timer of those who are read by turns."""
        self._readers.read_on()

    def failed(self, batch_id: int, reason: str) -> EventsLink | None:
        """A batch was not stored; return whose it was. All behind it is refused by the store, too."""
        self._readers.committed()
        link: EventsLink | None = self._intake.failed(batch_id)
        if link is not None:
            self._fail(link, Refusal(CONTAINER_THROTTLED, f"a message was not stored: {reason}"))
            link.failed_batches += 1
            self._end_if_failed(link)
        return link

    def look(self, client: AmqpClient) -> None:
        """End the link of a client for which the store does not answer."""
        link = client.links.get(LinkKind.EVENTS)
        if isinstance(link, EventsLink) and link.unanswered:
            late_s = self._head.clock.monotonic_s() - link.unanswered[0].sent_at_s
            if late_s > STORE_LIMIT_S:
                reason = f"a message was not stored within {STORE_LIMIT_S:.0f} s"
                self._fail(link, Refusal(TIMEOUT, reason))
                self._end(link)

    def forget(self, link: EventsLink) -> None:
        """The link has ended: nothing of it is accepted any more, though it may be stored."""
        link.connection.events_links.discard(link)
        self._intake.forget(link)
        self._readers.forget(link)

    def _fail(self, link: EventsLink, refusal: Refusal) -> None:
        if link.failure is None:
            link.failure = refusal
            log.error("%s: %s; its link ends", link.client_id, refusal.reason)

    def _end_if_failed(self, link: EventsLink) -> None:
        """End a link that has failed, when all its batches were answered: what is on disk is accepted."""
        if link.failure is not None and link.is_answered():
            self._end(link)

    def _end(self, link: EventsLink) -> None:
        assert link.failure is not None
        for unanswered in link.unanswered:
            for delivery in unanswered.answers:
                if unanswered.done:
                    delivery.accept()
                else:
                    delivery.reject(link.failure.condition, link.failure.description)
        self._detach(link, link.failure)
