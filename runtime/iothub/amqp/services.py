"""The links of services on one AMQP connection of the stand-in: messages to devices, feedback, the stream.

Each link needs a policy's token that allows ServiceConnect and covers its address, as long as it lives.

Source: spec sheets security-daemon.md section 4.7, hub-protocols.md sections 7.4 and 7.7
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Final

from messaging.amqp import codec, service_messages, stream_messages
from messaging.amqp.addresses import ServiceKind, ServiceLink
from messaging.amqp.conditions import NOT_FOUND, REDIRECT, Refusal, refusal_of
from messaging.amqp.events import Outcome
from messaging.amqp.link import Delivery, Link, RcvSettleMode, SndSettleMode
from messaging.amqp.mapping import lock_tag
from messaging.amqp.stream_messages import PartitionState, read_question
from messaging.errors import AuthError, EdgeError, IotHubError, RemoteProtocolError
from messaging.text import quoted
from runtime.iothub import shown
from runtime.iothub.amqp.front import AmqpConnection
from runtime.iothub.amqp.outbox import Outbox
from runtime.iothub.amqp.stream import NAMES, PARTITIONS, StreamReader, StreamReaders
from runtime.iothub.policies import STREAM, Permission
from runtime.iothub.records import FeedbackBatch

log = logging.getLogger(__name__)

C2D_CREDIT: Final = 100
QUESTION_CREDIT: Final = 100
PORT: Final = 5671

_RESOURCES: Final = {
    ServiceKind.C2D: "/messages/devicebound",
    ServiceKind.FEEDBACK: "/messages/servicebound/feedback",
    ServiceKind.FILE_NOTIFICATIONS: "/messages/servicebound/filenotifications",
    ServiceKind.ENDPOINT: "/messages/events",
}
_MANAGEMENT: Final = (ServiceKind.MANAGEMENT_REQUESTS, ServiceKind.MANAGEMENT_ANSWERS)


def service_links() -> Callable[[AmqpConnection], ServiceLinks]:
    """Return what makes the links of services for each connection of a server."""
    readers = StreamReaders()
    return lambda connection: ServiceLinks(connection, readers)


class ServiceLinks:
    """Implements `amqp_front.ServiceLinks`."""

    def __init__(self, connection: AmqpConnection, readers: StreamReaders) -> None:
        self._connection = connection
        self._readers = readers
        self._questions = _Questions(connection)
        self._resources: dict[Link, str] = {}

    async def attach(self, link: Link, asked: ServiceLink) -> Refusal | None:
        """Accept a link, or say why not. Raises EdgeError when the database does not answer."""
        resource = _resource(asked)
        _permit(self._connection, resource)
        asks_where = asked.kind in _MANAGEMENT and asked.stream.lower() == NAMES[1]
        if asks_where or asked.kind is ServiceKind.ENDPOINT:
            self._redirect(link, asked)
            return None
        if asked.kind is ServiceKind.EVENTS:
            refusal = await StreamReader.attach(self._connection, self._readers, link, asked)
        elif asked.kind in _MANAGEMENT:
            refusal = self._questions.attach(link, asked)
        else:
            refusal = None
            _begin(self._connection, link, asked.kind)
        self._resources = {link: needed for link, needed in self._resources.items() if link.is_open}
        if link.is_open:
            self._resources[link] = resource
        return refusal

    def look(self) -> None:
        """End the links for which no token counts any more; the others go on where they could not before."""
        for link, resource in list(self._resources.items()):
            if not link.is_open:
                del self._resources[link]
                continue
            try:
                _permit(self._connection, resource)
            except AuthError as exc:
                del self._resources[link]
                owner = link.context
                self._connection.detach(link, refusal_of(exc))
                owner.detached(link)
            else:
                if isinstance(link.context, StreamReader):
                    link.context.look()

    def _redirect(self, link: Link, asked: ServiceLink) -> None:
        """Say where the stream is read: clients of IoT Hub ask there for the endpoint of Event Hubs."""
        host = self._connection.hub.host_name
        end = "$management" if asked.kind in _MANAGEMENT else ""
        refusal = Refusal(REDIRECT, f"the stream is read from {STREAM} on {host}")
        link.refuse(
            refusal.condition,
            refusal.reason,
            {
                "hostname": host,
                "network-host": host,
                "port": codec.Int(PORT),
                "address": f"amqps://{host}:{PORT}/{STREAM}/{end}",
            },
        )


def _permit(connection: AmqpConnection, resource: str) -> None:
    """Return when a token of this connection covers a resource.

    Raises:
        AuthError: none does.
    """
    if resource:
        connection.tokens.permit(Permission.SERVICE_CONNECT, resource)


def _resource(asked: ServiceLink) -> str:
    """Return what a token has to cover, "" for nothing."""
    if asked.kind is ServiceKind.EVENTS:
        return f"/{asked.stream}/ConsumerGroups/{asked.consumer_group}/Partitions/{asked.partition}"
    if asked.kind in _MANAGEMENT:
        # Without a stream, each question has to be permitted: clients hide why a link of theirs is refused.
        return f"/{asked.stream}/$management" if asked.stream else ""
    return _RESOURCES[asked.kind]


def _begin(connection: AmqpConnection, link: Link, kind: ServiceKind) -> None:
    if kind is ServiceKind.C2D:
        link.accept(rcv_settle_mode=RcvSettleMode.FIRST)
        if link.is_open:
            connection.accepted(link, _MessagesToDevices(connection))
            link.grant(C2D_CREDIT)
        return
    link.accept(snd_settle_mode=SndSettleMode.UNSETTLED, rcv_settle_mode=RcvSettleMode.FIRST)
    if link.is_open:
        connection.accepted(link, _Feedback(connection, link) if kind is ServiceKind.FEEDBACK else _Silence())


class _MessagesToDevices:
    """Takes messages to devices: implements LinkOwner."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection

    def received(self, delivery: Delivery) -> None:
        """Queue a message; it is accepted when it is on disk."""
        self._connection.spawn(self._take(delivery))

    async def _take(self, delivery: Delivery) -> None:
        refusal = await self._send(delivery.data)
        if refusal is None:
            delivery.accept()
        else:
            log.info("%s: a message to a device is refused: %s", self._connection.peer, refusal.reason)
            delivery.reject(refusal.condition, refusal.description)
        delivery.link.grant(1)
        self._connection.flush_soon()

    async def _send(self, encoded: bytes) -> Refusal | None:
        try:
            asked = service_messages.read_to_device(codec.decode(encoded))
            if isinstance(asked, Refusal):
                return asked
            message = asked.message
            await self._connection.hub.send_c2d(
                asked.device_id,
                message.body,
                message.properties,
                message.system_properties,
                asked.ack,
                asked.expires_s,
            )
        except EdgeError as exc:
            return refusal_of(exc)
        return None

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """Nothing is sent on this link."""

    def credited(self, link: Link) -> None:
        """Nothing is sent on this link."""

    def detached(self, link: Link) -> None:
        """What is under way is queued all the same."""


class _Silence:
    """Notifications of uploaded files: the stand-in takes no files, so none come. Implements LinkOwner."""

    def received(self, delivery: Delivery) -> None:
        """Nothing comes on a link on which we send."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """Nothing is sent."""

    def credited(self, link: Link) -> None:
        """There is nothing to be sent."""
        if link.drain:
            link.drained()

    def detached(self, link: Link) -> None:
        """Nothing is lost."""


class _Feedback:
    """Sends what became of messages to devices: implements LinkOwner."""

    def __init__(self, connection: AmqpConnection, link: Link) -> None:
        self._connection = connection
        self._link = link
        self._locks: set[str] = set()
        self._ready = asyncio.Event()
        self._feeding = asyncio.get_running_loop().create_task(self._feed())

    def received(self, delivery: Delivery) -> None:
        """Nothing comes on a link on which we send."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """The service took the records, wants none of them, or wants them later."""
        lock = delivery.context
        self._locks.discard(lock)
        self._connection.spawn(self._settle(lock, outcome))

    async def _settle(self, lock: str, outcome: Outcome) -> None:
        hub = self._connection.hub
        try:
            if outcome in (Outcome.ACCEPTED, Outcome.REJECTED):
                await hub.complete_feedback(lock)
            elif outcome is Outcome.NONE:
                hub.release_feedback(lock)
            else:
                await hub.abandon_feedback(lock)
        except IotHubError as exc:
            log.info("%s: feedback comes again: %s", self._connection.peer, exc)

    def credited(self, link: Link) -> None:
        """There is credit."""
        if link.drain and not self._ready.is_set():
            link.drained()
            self._connection.flush_soon()
        self._look()

    def detached(self, link: Link) -> None:
        """The service is gone; others may have what it had."""
        self._feeding.cancel()
        for lock in self._locks:
            self._connection.hub.release_feedback(lock)
        self._locks.clear()

    def _look(self) -> None:
        if self._link.credit > 0 and self._connection.is_writable:
            self._ready.set()
        else:
            self._ready.clear()

    async def _feed(self) -> None:
        try:
            while True:
                await self._ready.wait()
                batch = await self._connection.hub.next_feedback()
                if self._link.credit > 0:
                    self._send(batch)
                else:
                    self._connection.hub.release_feedback(batch.lock)
                self._look()
        except EdgeError as exc:
            log.error("%s: feedback is not sent any more: %s", self._connection.peer, exc)
            self._connection.detach(self._link, refusal_of(exc))
            self.detached(self._link)

    def _send(self, batch: FeedbackBatch) -> None:
        message = service_messages.feedback(
            shown.feedback_body(batch.records),
            int(batch.enqueued_s * 1000),
            self._connection.hub.host_name,
        )
        delivery = self._link.send(codec.encode(message), lock_tag(uuid.UUID(batch.lock)), settled=False)
        delivery.context = batch.lock
        self._locks.add(batch.lock)
        self._connection.flush_soon()


class _Questions:
    """Answers questions about the stream: implements LinkOwner for the links of `$management`.

    A client may have several pairs of links; the answer goes to the receiver whose target is the reply-to of
    the question, else to the newest.
    """

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._answers: dict[Link, Outbox] = {}

    def attach(self, link: Link, asked: ServiceLink) -> Refusal | None:
        """Accept a link, or say why not."""
        if asked.stream and asked.stream.lower() not in NAMES:
            return Refusal(NOT_FOUND, f"there is no stream {quoted(asked.stream)}; there is {STREAM}")
        link.accept()
        if link.is_open:
            self._connection.accepted(link, self)
            if link.is_sender:
                self._answers[link] = Outbox(self._connection)
                self._answers[link].attach(link)
            else:
                link.grant(QUESTION_CREDIT)
        return None

    def received(self, delivery: Delivery) -> None:
        """Take a question."""
        delivery.accept()
        delivery.link.grant(1)
        self._connection.in_order(lambda: self._answer(delivery))

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """The client has an answer."""

    def credited(self, link: Link) -> None:
        """Answers may leave."""
        self._answers[link].send()

    def detached(self, link: Link) -> None:
        """A link is gone, and the answers for it."""
        self._answers.pop(link, None)

    async def _answer(self, delivery: Delivery) -> None:
        try:
            request = codec.decode(delivery.data)
        except RemoteProtocolError as exc:
            self._connection.detach(delivery.link, refusal_of(exc))
            return
        try:
            answer = await self._answer_to(request)
        except EdgeError as exc:
            answer = stream_messages.refused_answer(request, refusal_of(exc))
        named = [link for link in self._answers if link.target == request.reply_to]
        receivers = named or list(self._answers)
        if receivers:
            self._answers[receivers[-1]].put(codec.encode(answer))

    async def _answer_to(self, request: codec.AmqpMessage) -> codec.AmqpMessage:
        question = read_question(request)
        if isinstance(question, Refusal):
            return stream_messages.refused_answer(request, question)
        _permit(self._connection, f"/{question.stream}/$management")
        if question.stream.lower() not in NAMES or question.partition not in (None, *PARTITIONS):
            what = f"stream {quoted(question.stream)}"
            if question.partition is not None:
                what += f" with a partition {quoted(question.partition)}"
            refusal = Refusal(
                NOT_FOUND, f"there is no {what}; there is {STREAM} with {', '.join(PARTITIONS)}"
            )
            return stream_messages.refused_answer(request, refusal)
        hub = self._connection.hub
        if question.partition is None:
            return stream_messages.stream_answer(
                request, question.stream, PARTITIONS, int(hub.opened_s * 1000)
            )
        extent = await hub.stream_extent()
        state = PartitionState(extent.first, extent.last, int(extent.last_enqueued_s * 1000))
        return stream_messages.partition_answer(request, question, state)
