"""The identities on AMQP connections: who may attach which link, who gives way to whom, whose proof is over.

Source: spec sheet hub-protocols.md sections 3.2, 3.3 and 5.6; cases 58, 60 to 62 of section 8.4
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from actors.heads.amqp_connection import AmqpClient, AmqpConnection
from actors.heads.amqp_deliveries import AmqpDeliveries
from actors.heads.amqp_links import ClientLink, EventsLink, MessageLink, ReplyLink, RequestLink
from actors.heads.amqp_login import question, refusal_of
from actors.heads.amqp_services import AmqpServices
from actors.heads.amqp_telemetry import Telemetry
from actors.heads.connected_clients import GIVE_WAY_LIMIT_S, ConnectedClients
from actors.heads.presence import Presence
from actors.hub.client_services import GiveWay
from actors.hub.identity_messages import ACCEPTED, NOT_AUTHORIZED, Authenticate, Verdict
from actors.kernel.base import EdgeActor
from actors.manifest.hub_environment import MAX_CONNECTED_CLIENTS, HubEnvironment
from messaging.amqp.addresses import (
    DeviceLink,
    LinkKind,
    LinkProperties,
    is_paired,
    parse_address,
    parse_link_properties,
    replaced_by,
    settlement_of,
)
from messaging.amqp.conditions import DETACH_FORCED, RESOURCE_LIMIT_EXCEEDED, UNAUTHORIZED_ACCESS, Refusal
from messaging.amqp.events import LinkDetached
from messaging.amqp.link import Link

log = logging.getLogger(__name__)

_REQUESTS: Final = (LinkKind.TWIN_REQUESTS, LinkKind.METHOD_RESPONSES)
_REPLIES: Final = (LinkKind.TWIN_ANSWERS, LinkKind.METHOD_CALLS)
_EXPIRED: Final = "what it proved itself with has expired: its token, or its certificate"

AskIdentities = Callable[[AmqpConnection, Authenticate, Callable[[Verdict], None]], None]
Ask = Callable[[str, object, float, Callable[[object], None]], None]


class AmqpClients:
    """Who is connected to this head. A part of it."""

    def __init__(
        self,
        head: EdgeActor,
        environment: HubEnvironment,
        connected: ConnectedClients,
        telemetry: Telemetry,
        deliveries: AmqpDeliveries,
        services: AmqpServices,
        presence: Presence,
        ask_identities: AskIdentities,
        ask: Ask,
        touched: Callable[[AmqpConnection], None],
        close: Callable[[AmqpConnection, str, Refusal | None], None],
    ) -> None:
        self._head = head
        self._environment = environment
        self._connected = connected
        self._telemetry = telemetry
        self._deliveries = deliveries
        self._services = services
        self._presence = presence
        self._ask_identities = ask_identities
        self._ask = ask
        self._touched = touched
        self._close = close
        self._by_identity: dict[str, AmqpClient] = {}

    def connected(self) -> list[AmqpClient]:
        """Return who is connected."""
        return list(self._by_identity.values())

    def find(self, identity: str) -> AmqpClient | None:
        """Return a client that is connected."""
        return self._by_identity.get(identity)

    # links

    def asked(self, connection: AmqpConnection, link: Link) -> None:
        """A client asks for a link that is not one of `$cbs`."""
        wanted = parse_address(link.address, client_sends=not link.is_sender)
        if isinstance(wanted, Refusal):
            self._refuse(connection, link, wanted)
            return
        properties = parse_link_properties(link.properties)
        client = connection.clients.get(wanted.identity.id)
        if client is None:
            client = AmqpClient(connection, wanted.identity)
            connection.clients[client.client_id] = client
        if client.is_connected:
            self._attach(client, link, wanted, properties)
            return
        client.attaching.append((link, wanted, properties))
        if not client.is_asked_about:
            self._ask_about(client, properties.auth_chain)

    def detached(self, event: LinkDetached) -> None:
        """A client has ended a link, or its session."""
        one = event.link.context
        if not isinstance(one, ClientLink):
            return  # it was not attached yet, or never will be
        client = one.client
        if event.condition:
            log.info(
                "%s ends its link for %s: %s %s",
                client.client_id,
                one.kind.value,
                event.condition,
                event.description,
            )
        self._drop(one)
        self._settle_down(client, closes=not event.condition)

    def _attach(self, client: AmqpClient, link: Link, wanted: DeviceLink, properties: LinkProperties) -> None:
        kind, channel = wanted.kind, properties.channel
        channels = {other: its.channel for other, its in client.links.items()}
        for replaced in replaced_by(kind, channel, channels):
            one = client.links[replaced]
            reason = f"another link for {kind.value} of '{client.client_id}' was attached"
            one.link.detach(DETACH_FORCED, Refusal(DETACH_FORCED, reason).description)
            self._drop(one)
        if properties.model_id:
            client.model_id = properties.model_id
        settlement = settlement_of(kind)
        link.accept(snd_settle_mode=settlement.sender, rcv_settle_mode=settlement.receiver)
        if link.is_open:
            client.links[kind] = self._made(client, kind, link, channel if is_paired(kind) else "")
        self._deliveries.update(client)
        self._services.update(client)

    def _made(self, client: AmqpClient, kind: LinkKind, link: Link, channel: str) -> ClientLink:
        if kind is LinkKind.EVENTS:
            return self._telemetry.attach(client, link, channel)
        if kind in _REQUESTS:
            return RequestLink(client, kind, link, channel)
        if kind in _REPLIES:
            return ReplyLink(client, kind, link, channel)
        return MessageLink(client, kind, link, channel, self._head.clock.monotonic_s())

    def _drop(self, one: ClientLink) -> None:
        """Forget a link that has ended."""
        one.link.context = None
        if isinstance(one, EventsLink):
            self._telemetry.forget(one)
        if one.client.links.get(one.kind) is one:
            del one.client.links[one.kind]

    def detach(self, one: ClientLink, refusal: Refusal) -> None:
        """End a link."""
        one.link.detach(refusal.condition, refusal.description)
        self._drop(one)
        self._settle_down(one.client, closes=False)

    def _settle_down(self, client: AmqpClient, *, closes: bool) -> None:
        """A link has ended; with the last one its client goes, with the last client, soon, the connection.

        Not after a fault: then the client may attach another link at once.
        """
        self._touched(client.connection)
        if client.links:
            self._deliveries.update(client)
            self._services.update(client)
        elif client.is_connected:
            self._forget(client)
            log.info("%s has ended its last link", client.client_id)
            if closes:
                client.connection.linkless_since_s = self._head.clock.monotonic_s()

    def _refuse(self, connection: AmqpConnection, link: Link, refusal: Refusal) -> None:
        log.warning("%s: a link is refused: %s", connection.transport.peer, refusal.reason)
        link.refuse(refusal.condition, refusal.description)

    # who is who

    def _ask_about(self, client: AmqpClient, auth_chain: tuple[str, ...]) -> None:
        connection = client.connection
        client.auth_chain = auth_chain
        client.is_asked_about = True  # also while another head gives way
        asked = self._question(client)
        if isinstance(asked, Refusal):
            self._refuse_all(client, asked)
            return
        self._ask_identities(connection, asked, lambda verdict: self._judged(client, verdict))

    def _question(self, client: AmqpClient) -> Authenticate | Refusal:
        connection = client.connection
        return question(
            client.identity,
            client.auth_chain,
            connection.tokens,
            lambda: connection.transport.certificates,
            self._environment,
        )

    def _judged(self, client: AmqpClient, verdict: Verdict) -> None:
        if client.connection.closed or client.is_gone:
            return
        if verdict.return_code != ACCEPTED:
            self._refuse_all(client, refusal_of(verdict))
            return
        self._admit(client, verdict)

    def _admit(self, client: AmqpClient, verdict: Verdict) -> None:
        """Connect an identity that has proved itself, once it is connected nowhere else."""
        earlier = self._by_identity.get(client.client_id)
        other = self._connected.head_of(client.client_id)
        if earlier is not None:
            reason = "the same identity has connected again"
            self.end(client.client_id, Refusal(DETACH_FORCED, reason))
        elif other:
            way = GiveWay(client.client_id)
            # Its identity may be another one by then, so it is judged again.
            self._ask(other, way, GIVE_WAY_LIMIT_S, lambda _: self._judge_again(client))
            return
        elif self._connected.is_full:
            most = self._connected.most
            reason = f"{most} clients are connected, as many as {MAX_CONNECTED_CLIENTS} allows"
            self._refuse_all(client, Refusal(RESOURCE_LIMIT_EXCEEDED, reason))
            return
        client.is_connected = True
        client.ends_s = verdict.ends_s
        client.connection.known()
        self._by_identity[client.client_id] = client
        self._connected.came(client.client_id, self._head.address)
        log.info("%s connected from %s", client.client_id, client.connection.transport.peer)
        self._touched(client.connection)
        attaching, client.attaching = client.attaching, []
        for link, wanted, properties in attaching:
            self._attach(client, link, wanted, properties)
        if not client.links:  # the client has ended all of them meanwhile
            self._settle_down(client, closes=True)

    def _judge_again(self, client: AmqpClient) -> None:
        if not (client.connection.closed or client.is_gone):
            self._ask_about(client, client.auth_chain)

    def _refuse_all(self, client: AmqpClient, refusal: Refusal) -> None:
        """Refuse the links of an identity that may not connect."""
        attaching, client.attaching = client.attaching, []
        for link, _, _ in attaching:
            self._refuse(client.connection, link, refusal)
        self._touched(client.connection)
        self._forget(client)

    def renew(self, connection: AmqpConnection) -> None:
        """A token was put: it counts from now on for those on this connection whom it proves."""
        for client in list(connection.clients.values()):
            asked = self._question(client) if client.is_connected else None
            if isinstance(asked, Authenticate) and asked.token.reveal():
                self._ask_identities(connection, asked, self._renewal(client))

    def _renewal(self, client: AmqpClient) -> Callable[[Verdict], None]:
        def judged(verdict: Verdict) -> None:
            if client.is_gone:
                return
            if verdict.return_code == ACCEPTED:
                client.ends_s = verdict.ends_s
            elif verdict.return_code == NOT_AUTHORIZED:
                self.end(client.client_id, refusal_of(verdict))
            else:  # what it showed before goes on to count, until that is over
                log.warning("%s: its new token cannot be judged: %s", client.client_id, verdict.reason)

        return judged

    # the end of one identity

    def look(self, connection: AmqpConnection) -> None:
        """End who has no valid proof any more; send again what is due."""
        wall_s = self._head.clock.now_s()
        for client in list(connection.clients.values()):
            if not client.is_connected:
                continue
            if client.ends_s is not None and wall_s >= client.ends_s:
                self.end(client.client_id, Refusal(UNAUTHORIZED_ACCESS, _EXPIRED))
                continue
            self._telemetry.look(client)
            for link in list(client.links.values()):
                if isinstance(link, MessageLink) and (link.in_flight or link.refused):
                    self._deliveries.look(link)
                    self._touched(connection)

    def pump(self, connection: AmqpConnection) -> None:
        """Send what waits for a client that reads again."""
        for client in connection.clients.values():
            for link in client.links.values():
                if isinstance(link, MessageLink):
                    self._deliveries.pump(link)
                elif isinstance(link, ReplyLink):
                    link.pump()

    def end(self, identity: str, refusal: Refusal) -> None:
        """End all links of an identity, and its connection if nobody else is on it."""
        client = self._by_identity.get(identity)
        if client is None:
            return
        log.warning("%s: %s", identity, refusal.reason)
        for one in list(client.links.values()):
            one.link.detach(refusal.condition, refusal.description)
        self._forget(client)
        self._touched(client.connection)
        self._close_if_empty(client.connection, refusal.reason, refusal)

    def lost(self, connection: AmqpConnection) -> None:
        """A connection is gone."""
        for client in list(connection.clients.values()):
            self._forget(client)

    def _close_if_empty(self, connection: AmqpConnection, reason: str, refusal: Refusal | None) -> None:
        if not connection.clients and not connection.closed:
            self._close(connection, reason, refusal)

    def _forget(self, client: AmqpClient) -> None:
        """Forget an identity on a connection, and all that hangs on it."""
        client.is_gone = True
        if client.connection.clients.get(client.client_id) is client:
            del client.connection.clients[client.client_id]
        for one in list(client.links.values()):
            self._drop(one)
        if client.is_connected:
            client.is_connected = False
            del self._by_identity[client.client_id]
            self._connected.went(client.client_id, self._head.address)
            self._deliveries.update(client)
            self._presence.gone(client)


def names(clients: Iterable[AmqpClient]) -> str:
    """Return the names of those who are connected, for the log."""
    return ", ".join(sorted(client.client_id for client in clients if client.is_connected))
