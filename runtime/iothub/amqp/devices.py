"""The devices and modules of one AMQP connection of the stand-in: each link is let in, or refused, alone.

Source: spec sheet hub-protocols.md sections 3.3, 5.4, 5.6 and 7.8
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from messaging.amqp.addresses import DeviceLink, parse_link_properties
from messaging.amqp.conditions import Refusal
from messaging.amqp.link import Link
from messaging.identity import Identity
from runtime.iothub.amqp.session import AmqpSession

if TYPE_CHECKING:
    from runtime.iothub.amqp.front import AmqpConnection


class DeviceLinks:
    """Belongs to one connection."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._sessions: dict[Identity, AmqpSession] = {}

    @property
    def any(self) -> bool:
        """Whether somebody has links here."""
        return bool(self._sessions)

    async def attach(self, link: Link, asked: DeviceLink) -> Refusal | None:
        """Accept a link of an identity, or say why not. The first one counts it as connected.

        Raises:
            StoreError: the database does not answer; it may be tried again.
        """
        connection = self._connection
        properties = parse_link_properties(link.properties)
        session = self._sessions.get(asked.identity)
        if session is None:
            proof = await connection.tokens.authenticate(
                asked.identity, properties.auth_chain, connection.certificates
            )
            if isinstance(proof, Refusal):
                return proof
            if not connection.is_open:
                return None
            connection.authenticated()
            session = AmqpSession(connection, proof, self._forget)
            self._sessions[asked.identity] = session
            session.open()
        session.attach(asked.kind, link, properties.channel)
        return None

    def renewed(self, holder: str) -> None:
        """The token of a holder has another one in its place."""
        for session in self._sessions.values():
            if session.holder == holder:
                session.renew(self._connection.tokens.expires_s(holder))

    def look(self) -> None:
        """End the links of those whose token has expired."""
        for session in list(self._sessions.values()):
            session.look()

    def _forget(self, session: AmqpSession) -> None:
        self._sessions.pop(session.identity, None)
