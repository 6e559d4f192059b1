"""Readers of the stream of events over AMQP: each link gets what follows its position, as its credit allows.

There is one partition, so the order of a reader is that of the stream. A link's position is settled before
the attach is answered: whoever asks for what is new gets all that is sent after the answer.

Source: spec sheet security-daemon.md section 4.7
        MicrosoftDocs/azure-docs: articles/event-hubs/event-hubs-features.md (readers, epochs)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Final

from messaging import system_properties as names
from messaging.amqp import codec, service_messages
from messaging.amqp.addresses import ServiceLink
from messaging.amqp.conditions import (
    ARGUMENT_ERROR,
    ARGUMENT_OUT_OF_RANGE,
    MESSAGE_SIZE_EXCEEDED,
    NOT_FOUND,
    RESOURCE_LIMIT_EXCEEDED,
    STOLEN,
    Refusal,
    refusal_of,
)
from messaging.amqp.events import Outcome
from messaging.amqp.link import Delivery, Link, SndSettleMode
from messaging.amqp.service_messages import Stamps
from messaging.amqp.stream_messages import Place, Position, read_epoch, read_position
from messaging.errors import EdgeError, LocalProtocolError
from messaging.message import Message
from messaging.text import quoted
from runtime.iothub.amqp.front import AmqpConnection
from runtime.iothub.policies import STREAM
from runtime.iothub.records import Event

log = logging.getLogger(__name__)

NAMES: Final = (STREAM, "messages/events")
PARTITIONS: Final = ("0",)
MOST_READERS: Final = 5  # of a consumer group, without an epoch
MOST_AT_ONCE: Final = 1000
MOST_BYTES: Final = 1 << 20  # that are read ahead of a client
MOST_UNSETTLED: Final = 5000
MOST_HELD_BYTES: Final = 4 << 20  # for a client that gives credit and keeps its session's window closed
WAIT_S: Final = 60.0


class StreamReaders:
    """The readers of all connections, by consumer group."""

    def __init__(self) -> None:
        self._groups: dict[str, list[StreamReader]] = {}

    def enter(self, group: str, reader: StreamReader) -> Refusal | None:
        """Let a reader in; those whom its epoch drives away are detached."""
        readers = self._groups.setdefault(group.lower(), [])
        highest = max((other.epoch for other in readers if other.epoch is not None), default=None)
        if reader.epoch is None:
            if highest is not None:
                return Refusal(STOLEN, f"consumer group {quoted(group)} has a reader with epoch {highest}")
            if len(readers) >= MOST_READERS:
                return Refusal(
                    RESOURCE_LIMIT_EXCEEDED, f"consumer group {quoted(group)} has {MOST_READERS} readers"
                )
        elif highest is not None and highest > reader.epoch:
            return Refusal(
                STOLEN,
                f"consumer group {quoted(group)} has a reader with epoch {highest}, over {reader.epoch}",
            )
        else:
            for other in list(readers):
                other.detach(Refusal(STOLEN, f"a reader with epoch {reader.epoch} has come"))
        readers.append(reader)
        return None

    def leave(self, group: str, reader: StreamReader) -> None:
        """Forget a reader."""
        readers = self._groups.get(group.lower(), [])
        if reader in readers:
            readers.remove(reader)
            if not readers:
                del self._groups[group.lower()]


class StreamReader:
    """Sends events on one link: implements LinkOwner."""

    def __init__(
        self, connection: AmqpConnection, readers: StreamReaders, link: Link, group: str, epoch: int | None
    ) -> None:
        self.epoch = epoch
        self._connection = connection
        self._readers = readers
        self._link = link
        self._group = group
        self._after = 0
        self._settles = True
        self._ready = asyncio.Event()
        self._tags = itertools.count(1)
        self._feeding: asyncio.Task[None] | None = None

    @classmethod
    async def attach(
        cls, connection: AmqpConnection, readers: StreamReaders, link: Link, asked: ServiceLink
    ) -> Refusal | None:
        """Accept a link, or say why not. Raises EdgeError when the database does not answer."""
        if asked.stream.lower() not in NAMES:
            return Refusal(
                NOT_FOUND, f"there is no stream {quoted(asked.stream)}; there is {' and '.join(NAMES)}"
            )
        if asked.partition not in PARTITIONS:
            return Refusal(
                ARGUMENT_OUT_OF_RANGE,
                f"there is no partition {quoted(asked.partition)}; there is {', '.join(PARTITIONS)}",
            )
        position, epoch = read_position(link.source_filter), read_epoch(link.properties)
        if isinstance(position, Refusal):
            return position
        if isinstance(epoch, Refusal):
            return epoch
        after = await _after(connection, position)
        if isinstance(after, Refusal):
            return after
        reader = cls(connection, readers, link, asked.consumer_group, epoch)
        return reader._begin(after)

    def _begin(self, after: int) -> Refusal | None:
        self._after = after
        self._settles = self._link.snd_settle_mode is not SndSettleMode.UNSETTLED
        refusal = self._readers.enter(self._group, self)
        if refusal is not None:
            return refusal
        self._link.accept(snd_settle_mode=SndSettleMode.SETTLED if self._settles else SndSettleMode.UNSETTLED)
        if not self._link.is_open:  # the client has not waited
            self._readers.leave(self._group, self)
            return None
        self._connection.accepted(self._link, self)
        self._feeding = asyncio.get_running_loop().create_task(self._feed())
        return None

    def detach(self, refusal: Refusal) -> None:
        """End the link with an error."""
        self._connection.detach(self._link, refusal)
        self.detached(self._link)

    # LinkOwner

    def received(self, delivery: Delivery) -> None:
        """Nothing comes on a link on which we send."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """Reading leaves an event where it is, whatever becomes of it."""
        self.look()

    def credited(self, link: Link) -> None:
        """There is credit, or the client wants to know whether there is more."""
        if link.drain and self._feeding is not None:
            self._feeding.cancel()  # it may wait for something new; nothing is sent but by it
            self._feeding = asyncio.get_running_loop().create_task(self._feed())
        self.look()

    def detached(self, link: Link) -> None:
        """The link is gone."""
        self._readers.leave(self._group, self)
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None

    # sending

    def look(self) -> None:
        """Say whether something may be sent; called whenever that may have changed, and each second."""
        link = self._link
        if (
            link.credit > 0
            and self._connection.is_writable
            and link.unsettled < MOST_UNSETTLED
            and link.held_bytes < MOST_HELD_BYTES
        ):
            self._ready.set()
        else:
            self._ready.clear()

    async def _feed(self) -> None:
        try:
            while True:
                await self._ready.wait()
                link = self._link
                found = await self._connection.hub.events(
                    self._after,
                    min(link.credit, MOST_AT_ONCE),
                    0.0 if link.drain else WAIT_S,
                    MOST_BYTES,
                )
                for event in found[: link.credit]:
                    self._send(event)
                if link.drain and (not found or not link.credit):
                    link.drained()
                self._connection.flush_soon()
                self.look()
        except EdgeError as exc:
            log.error("%s: events are not sent any more: %s", self._connection.peer, exc)
            self._feeding = None  # this is it
            self.detach(refusal_of(exc))

    def _send(self, event: Event) -> None:
        tag = next(self._tags).to_bytes(8, "big")
        encoded = _encoded(event)
        try:
            self._link.send(encoded, tag, settled=self._settles)
        except LocalProtocolError as exc:
            self._feeding = None
            self.detach(Refusal(MESSAGE_SIZE_EXCEEDED, f"event {event.sequence_number}: {exc}"))
            raise asyncio.CancelledError from exc
        self._after = event.sequence_number


async def _after(connection: AmqpConnection, position: Position) -> int | Refusal:
    """Return the number behind which reading begins."""
    hub = connection.hub
    if position.place is Place.END:
        return await hub.last_sequence_number()
    if position.place is Place.TIME:
        return await hub.last_before(position.value, position.inclusive)
    after = position.value - position.inclusive
    last = await hub.last_sequence_number()
    if after > last:
        return Refusal(
            ARGUMENT_ERROR,
            f"the stream has no number {position.value}; its last is {last}; "
            "begin with the oldest (-1) or with what is new (@latest)",
        )
    return after


def _encoded(event: Event) -> bytes:
    identity, telemetry = event.identity, event.telemetry
    system_properties = {
        **telemetry.system_properties,
        names.TO: "/devices/" + identity.id.replace("/", "/modules/") + "/messages/events",
    }
    stamps = Stamps(
        event.sequence_number,
        int(event.enqueued_s * 1000),
        identity.device_id,
        identity.module_id,
        event.generation_id,
        event.auth_method,
        event.source,
    )
    message = Message("", telemetry.properties, system_properties, telemetry.body)
    return codec.encode(service_messages.event(message, stamps))
