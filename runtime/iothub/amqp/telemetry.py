"""Messages of one identity over AMQP: read, stored, and only then accepted.

What one read of the socket brought is one batch for the hub. What cannot be stored ends the link without an
outcome: MQTT closes its connection for the same reason, that order is kept.

Source: spec sheet hub-protocols.md sections 3.4 to 3.6 and 3.8
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from messaging.amqp import codec
from messaging.amqp.codec import BATCH_FORMAT
from messaging.amqp.conditions import INTERNAL_ERROR, MESSAGE_SIZE_EXCEEDED, Refusal, refusal_of
from messaging.amqp.link import Delivery, Link
from messaging.amqp.mapping import read_message, size_refusal
from messaging.errors import EdgeError, RemoteProtocolError, StoreError
from runtime.iothub.amqp.inflow import Inflow
from runtime.iothub.records import Grant, Telemetry

if TYPE_CHECKING:
    from runtime.iothub.amqp.front import AmqpConnection

log = logging.getLogger(__name__)

CREDIT: Final = 1000  # spec sheet section 3.4
LARGEST_BATCH_BYTES: Final = 600 * 1024  # spec sheet section 3.4
STORE_LIMIT_S: Final = 20.0  # a message that is not on disk by then ends its link


class _Read:
    """What one read of the socket brought."""

    def __init__(self, inflow: Inflow) -> None:
        self.inflow = inflow
        self.at_s = 0.0
        self.deliveries: list[Delivery] = []
        self.messages: list[Telemetry] = []
        self.size_bytes = 0


class TelemetryReceiver:
    """Belongs to one identity on one connection."""

    def __init__(
        self, connection: AmqpConnection, grant: Grant, end: Callable[[Link, Refusal], None]
    ) -> None:
        """Keep what is needed; `end` ends a link that is still there."""
        self._connection = connection
        self._grant = grant
        self._end = end
        self._inflow: Inflow | None = None
        self._read: _Read | None = None  # of the read that is being handled
        self._reads: dict[_Read, None] = {}  # on their way to the disk, the oldest first

    def attach(self, link: Link) -> None:
        """Receive on this link from now on."""
        self._inflow = Inflow(link, CREDIT)

    def received(self, delivery: Delivery) -> None:
        """Take what came on the link."""
        inflow = self._inflow
        assert inflow is not None
        try:
            messages = _messages_of(delivery)
        except RemoteProtocolError as exc:
            messages = refusal_of(exc)
        if isinstance(messages, Refusal):
            log.warning("%s: a message is refused: %s", self._grant.identity, messages.reason)
            delivery.reject(messages.condition, messages.description)
            inflow.dealt_with()
            return
        read = self._read
        if read is None or read.inflow is not inflow:
            read = self._read = _Read(inflow)
            self._connection.after_read(lambda: self._pass_on(read))
        read.deliveries.append(delivery)
        read.messages += messages
        read.size_bytes += len(delivery.data)
        delivery.data = b""

    def look(self) -> None:
        """End the link on which something came that does not get to the disk."""
        oldest = next(iter(self._reads), None)
        if oldest is not None and self._connection.clock.monotonic_s() - oldest.at_s > STORE_LIMIT_S:
            del self._reads[oldest]
            reason = f"a message of '{self._grant.identity}' was not stored within {STORE_LIMIT_S:.0f} s"
            self._fail(oldest, Refusal(INTERNAL_ERROR, reason))

    def _pass_on(self, read: _Read) -> None:
        self._read = None
        read.at_s = self._connection.clock.monotonic_s()
        self._reads[read] = None
        stored = self._connection.hub.telemetry(self._grant, read.messages)
        stored.add_done_callback(lambda future: self._stored(read, future))
        self._connection.take(read.size_bytes)

    def _stored(self, read: _Read, future: asyncio.Future[None]) -> None:
        self._connection.give_back(read.size_bytes)
        self._reads.pop(read, None)
        error = StoreError("the hub stops") if future.cancelled() else future.exception()
        if error is not None:
            self._fail(read, refusal_of(error if isinstance(error, EdgeError) else StoreError(str(error))))
            return
        for delivery in read.deliveries:
            delivery.accept()
        read.inflow.dealt_with(len(read.deliveries))
        self._connection.flush_soon()

    def _fail(self, read: _Read, refusal: Refusal) -> None:
        log.error("%s: a message was not stored: %s", self._grant.identity, refusal.reason)
        if read.inflow.link.is_open:
            self._end(read.inflow.link, refusal)


def _messages_of(delivery: Delivery) -> list[Telemetry] | Refusal:
    """Return the messages of a transfer, of which all are stored or none.

    Raises:
        RemoteProtocolError: it is no message.
    """
    encoded = [delivery.data]
    if delivery.message_format == BATCH_FORMAT:
        if len(delivery.data) > LARGEST_BATCH_BYTES:
            return Refusal(
                MESSAGE_SIZE_EXCEEDED,
                f"a batch of {len(delivery.data)} bytes is over the limit of {LARGEST_BATCH_BYTES}",
            )
        encoded = codec.split_batch(delivery.data)
    messages = []
    for one in encoded:
        message = read_message(codec.decode(one))
        if isinstance(message, Refusal):
            return message
        refusal = size_refusal(message)
        if refusal is not None:
            return refusal
        messages.append(Telemetry(message.properties, message.system_properties, message.body))
    return messages
