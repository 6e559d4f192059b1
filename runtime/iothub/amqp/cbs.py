"""The node `$cbs` of one AMQP connection of the stand-in: where its client shows tokens.

Source: spec sheet hub-protocols.md section 3.2
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from messaging.amqp import cbs, codec
from messaging.amqp.conditions import Refusal, refusal_of, status_of
from messaging.amqp.events import Outcome
from messaging.amqp.link import Delivery, Link
from messaging.errors import EdgeError, RemoteProtocolError
from runtime.iothub.amqp.outbox import Outbox

if TYPE_CHECKING:
    from runtime.iothub.amqp.front import AmqpConnection

log = logging.getLogger(__name__)

CREDIT: Final = 100


class CbsNode:
    """Implements LinkOwner for both links of `$cbs`."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._answers = Outbox(connection)

    def attach(self, link: Link) -> None:
        """Accept a link: anybody may show a token."""
        link.accept()
        if not link.is_open:
            return
        self._connection.accepted(link, self)
        if link.is_sender:
            self._answers.attach(link)
        else:
            link.grant(CREDIT)

    def received(self, delivery: Delivery) -> None:
        """Take a request."""
        delivery.accept()
        self._connection.in_order(lambda: self._answer(delivery))

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """Nothing is sent unsettled."""

    def credited(self, link: Link) -> None:
        """Answers may leave."""
        self._answers.send()

    def detached(self, link: Link) -> None:
        """A link is gone."""
        self._answers.detach(link)

    async def _answer(self, delivery: Delivery) -> None:
        try:
            request = codec.decode(delivery.data)
        except RemoteProtocolError as exc:
            self._connection.detach(delivery.link, refusal_of(exc))
            return
        status, reason = await self._put(request)
        self._answers.put(codec.encode(cbs.answer(request, status, reason)))
        delivery.link.grant(1)

    async def _put(self, request: codec.AmqpMessage) -> tuple[int, str]:
        connection = self._connection
        shown = cbs.parse_put_token(request, connection.clock.now_s(), services=True)
        refusal: Refusal | None
        if isinstance(shown, Refusal):
            refusal = shown
        else:
            try:
                refusal = await connection.tokens.show(shown)
            except EdgeError as exc:
                refusal = refusal_of(exc)
            else:
                if refusal is None:
                    connection.proven(shown.holder)
        if refusal is None:
            return cbs.OK, "OK"
        log.warning("%s: a token is refused: %s", connection.peer, refusal.reason)
        return status_of(refusal.condition), refusal.reason
