"""How an AMQP client shows who it is: tokens on the links of `$cbs`, or in SASL PLAIN.

Source: spec sheet hub-protocols.md sections 3.1 and 3.2
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from actors.heads.amqp_connection import AmqpConnection
from actors.heads.amqp_login import named_in
from actors.hub.identities import AGENT_LIMIT_S
from actors.hub.identity_messages import ACCEPTED, TRY_AGAIN, Authenticate, Verdict
from actors.kernel.base import EdgeActor
from messaging.amqp import cbs
from messaging.amqp.codec import decode
from messaging.amqp.conditions import Refusal
from messaging.amqp.events import Event, SaslDone
from messaging.amqp.link import Delivery
from messaging.errors import RemoteProtocolError

log = logging.getLogger(__name__)

Ask = Callable[[str, object, float, Callable[[object], None]], None]


class AmqpTokens:
    """Takes what clients show. A part of the head, which calls it for each."""

    def __init__(
        self,
        head: EdgeActor,
        identities: str,
        ask: Ask,
        *,
        renewed: Callable[[AmqpConnection], None],
        handle: Callable[[AmqpConnection, list[Event]], None],
        close: Callable[[AmqpConnection, str], None],
        touched: Callable[[AmqpConnection], None],
    ) -> None:
        """Take what is needed.

        Args:
            head: The actor.
            identities: Address of who judges.
            ask: Sends a request of the head.
            renewed: Is told of a connection that has another token.
            handle: Takes events of a connection.
            close: Ends a connection for a reason.
            touched: Is told of connections for which there is something to write.
        """
        self._head = head
        self._identities = identities
        self._ask = ask
        self._renewed = renewed
        self._handle = handle
        self._close = close
        self._touched = touched

    def sasl(self, connection: AmqpConnection, done: SaslDone) -> None:
        """A client has chosen a mechanism of SASL. All but PLAIN say nothing of who it is."""
        if done.password is None:
            self._handle(connection, connection.engine.sasl_outcome(True))
            return
        user = cbs.parse_plain_user(done.user)
        if isinstance(user, Refusal) or user.identity is None:
            log.warning("%s: SASL PLAIN refused: the user is no device or module", connection.transport.peer)
            self._handle(connection, connection.engine.sasl_outcome(False))
            return
        identity, password = user.identity, done.password

        def judged(verdict: Verdict) -> None:
            if connection.closed:
                return
            if verdict.return_code == TRY_AGAIN:  # SASL would only say that the password is wrong
                self._close(connection, f"cannot be judged now: {verdict.reason}")
                return
            accepted = verdict.return_code == ACCEPTED
            if accepted:
                ends_s = self._head.clock.now_s() if verdict.ends_s is None else verdict.ends_s
                connection.tokens.put(cbs.PutToken(cbs.holder_of(identity), password, ends_s, ""))
                connection.known()
            else:
                log.warning("%s: SASL PLAIN refused: %s", connection.transport.peer, verdict.reason)
            self._handle(connection, connection.engine.sasl_outcome(accepted))

        self.ask_identities(connection, Authenticate(identity.id, password), judged)

    def put(self, connection: AmqpConnection, delivery: Delivery) -> None:
        """Take a token: whether it is genuine is asked when a link is attached, or renewed by it."""
        connection.accept_first(delivery)
        try:
            request = decode(delivery.data)
        except RemoteProtocolError as exc:
            log.warning("%s: a request to $cbs cannot be read: %s", connection.transport.peer, exc)
            connection.cbs_done()
            return
        token = cbs.parse_put_token(request, self._head.clock.now_s())
        refusal = token if isinstance(token, Refusal) else connection.tokens.put(token)
        if refusal is not None:
            log.warning("%s: a token is refused: %s", connection.transport.peer, refusal.reason)
            connection.answer_cbs(cbs.answer(request, cbs.BAD_REQUEST, refusal.reason))
            return
        assert isinstance(token, cbs.PutToken)
        connection.answer_cbs(cbs.answer(request))
        self._renewed(connection)
        identity = named_in(token)
        if not connection.is_known and identity is not None:
            # The Node SDK attaches its first link when it has something to send: it is no stranger till then.
            asked = Authenticate(identity.id, token.token)
            self.ask_identities(connection, asked, lambda verdict: _proved(connection, verdict))

    def ask_identities(
        self, connection: AmqpConnection, asked: Authenticate, judged: Callable[[Verdict], None]
    ) -> None:
        """Have somebody judged who is on this connection."""
        connection.questions += 1

        def answered(answer: object) -> None:
            connection.questions -= 1
            connection.stranger_since_s = self._head.clock.monotonic_s()
            self._touched(connection)
            if isinstance(answer, Verdict):
                judged(answer)
            else:
                reason = f"identities cannot be checked now: {answer}"
                judged(Verdict(asked.identity, TRY_AGAIN, reason))

        self._ask(self._identities, asked, AGENT_LIMIT_S + 2, answered)


def _proved(connection: AmqpConnection, verdict: Verdict) -> None:
    if verdict.return_code == ACCEPTED:
        connection.known()
