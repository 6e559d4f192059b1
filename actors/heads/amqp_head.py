"""The AMQP protocol head: clients show tokens, attach links, send, and get what waits for them.

Understands: Stored, Ready, Endpoints, IdentityRevoked, ForgetIdentity, GiveWay, ActorRestarted, AmqpTick,
             CallMethod, DesiredPatch, what every ProtocolHead does; and, from its listener on the same
             thread, connections
Tells:       hub/router (Publish, ListEndpoints), hub/store (Attach, Detach, Delivered, ForgetClient),
             hub/identities (Authenticate), hub/twins, hub/methods, hub/upstream, hub/client, other heads
             (see client_services.py)
Started by:  HubRootActor, on an event loop; a restart closes its connections and the clients come back

A message is accepted when the store says that it is on disk. One that cannot be stored is rejected, with all
that its sender has sent behind it, and the link ends: nothing overtakes what has to come again.

Source: spec sheet hub-protocols.md section 3
"""

from __future__ import annotations

import itertools
import logging
from typing import Any, Final

from actors.addresses import HUB_CLIENT, IDENTITIES, METHODS, ROUTER, STORE, TWINS, UPSTREAM
from actors.heads.amqp_clients import AmqpClients, names
from actors.heads.amqp_connection import AmqpClient, AmqpConnection
from actors.heads.amqp_deliveries import AmqpDeliveries
from actors.heads.amqp_links import EventsLink, MessageLink, ReplyLink, RequestLink
from actors.heads.amqp_patience import CLOSE_LIMIT_S, why_to_end
from actors.heads.amqp_services import TWIN_LIMIT_S, AmqpServices
from actors.heads.amqp_telemetry import Telemetry
from actors.heads.amqp_tokens import AmqpTokens
from actors.heads.connected_clients import ConnectedClients
from actors.heads.forgetting import when_forgotten
from actors.heads.intake import STORE_LIMIT_S
from actors.heads.presence import Presence
from actors.heads.protocol_head import ProtocolHead
from actors.heads.readers import ReadOn
from actors.hub.client_services import CallMethod, DesiredPatch, ForgetIdentity, ForgetTwin, GaveWay, GiveWay
from actors.hub.identity_messages import IdentityRevoked
from actors.hub.router import Endpoints, ListEndpoints
from actors.manifest.hub_environment import HubEnvironment
from actors.ports.connections import Listener, Transport
from actors.store.messages import ForgetClient, Ready, Stored
from messaging.amqp.addresses import is_cbs
from messaging.amqp.conditions import CONNECTION_FORCED, DETACH_FORCED, UNAUTHORIZED_ACCESS, Refusal
from messaging.amqp.events import (
    CreditGranted,
    Ended,
    Event,
    LinkAttached,
    LinkDetached,
    Opened,
    Received,
    SaslDone,
    Settled,
)
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, Watch

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
MOST_STRANGER_BYTES: Final = 64 * 1024  # before anybody has proved who he is


@message
class AmqpTick:
    """Timer: look for clients that are silent, late or stuck, or whose token has expired."""


class AmqpHead(ProtocolHead):
    """Serves AMQP 1.0 clients. The listener calls `connected`, `received` and `disconnected`."""

    def __init__(
        self,
        listener: Listener,
        device_id: str,
        *,
        environment: HubEnvironment,
        connected: ConnectedClients,
    ) -> None:
        """Take the listener, settings, and what heads share."""
        super().__init__()
        self._listener = listener
        self._environment = environment
        self._connected = connected
        self._numbers = itertools.count(1)
        self._connections: dict[int, AmqpConnection] = {}
        self._touched: set[AmqpConnection] = set()  # for which there is something to write
        self._presence = Presence(self, TWINS, METHODS, UPSTREAM, HUB_CLIENT)
        self._telemetry = Telemetry(self, ROUTER, connected.next_number, device_id, self._detach)
        self._deliveries = AmqpDeliveries(
            self,
            STORE,
            connected.next_number,
            environment.max_pending_outbound_messages,
            environment.message_ack_timeout_s,
            connected.metrics,
        )
        self._services = AmqpServices(self, TWINS, METHODS, self._presence, self.ask, self._touch_client)
        self._tokens = AmqpTokens(
            self,
            IDENTITIES,
            self.ask,
            renewed=lambda connection: self._clients.renew(connection),
            handle=self._handle,
            close=self._close,
            touched=self._touched.add,
        )
        self._clients = AmqpClients(
            self,
            environment,
            connected,
            self._telemetry,
            self._deliveries,
            self._services,
            self._presence,
            self._tokens.ask_identities,
            self.ask,
            self._touched.add,
            self._close,
        )

    # life

    def on_start(self) -> None:
        self._connected.head_started(self.address, self.clock.monotonic_s())
        for address in (STORE, ROUTER, IDENTITIES):
            self.tell(address, Watch())
        self.tell(ROUTER, ListEndpoints())
        self._presence.started()
        self.set_timer(TICK_S, AmqpTick())
        self._listener.open(self)

    def on_stop(self) -> None:
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.closed = True
            connection.engine.close(CONNECTION_FORCED, "the hub stops, or starts again")
            connection.flush()
            connection.transport.close()

    def on_turn_end(self) -> None:
        self._flush()

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        if message.address == STORE:
            self._deliveries.store_restarted()
        elif message.address == ROUTER:
            self.tell(ROUTER, ListEndpoints())
        else:
            self._presence.restarted(message.address, self._clients.connected())

    def on_amqp_tick(self, message: AmqpTick) -> None:
        self.set_timer(TICK_S, AmqpTick())
        now_s = self.clock.monotonic_s()
        for connection in list(self._connections.values()):
            if connection.closes_at_s:
                if now_s >= connection.closes_at_s:
                    self._end(connection)
                continue
            if now_s >= connection.tick_due_s:
                self._handle(connection, connection.tick(now_s))
                self._touched.add(connection)
            reason = why_to_end(connection, now_s)
            if reason:
                self._close(connection, reason)
            else:
                self._clients.look(connection)

    def describe(self) -> dict[str, Any]:
        return {
            "connections": len(self._connections),
            "clients": tuple(sorted(client.client_id for client in self._clients.connected())),
            "attached": self._deliveries.attached(),
            "unanswered_bytes": self._telemetry.unanswered_bytes,
        }

    # connections, called by the listener

    def connected(self, transport: Transport) -> AmqpConnection:
        """A connection was accepted, TLS included."""
        now_s = self.clock.monotonic_s()
        connection = AmqpConnection(next(self._numbers), transport, now_s)
        self._connections[connection.number] = connection
        connection.tick(now_s)
        return connection

    def received(self, connection: AmqpConnection, data: bytes) -> None:
        """Bytes of a client."""
        if connection.engine.ended or connection.number not in self._connections:
            return
        if not connection.is_known and not connection.closed:
            connection.stranger_bytes += len(data)
            if connection.stranger_bytes > MOST_STRANGER_BYTES:
                self._close(connection, f"sent {connection.stranger_bytes} bytes and no proof of who it is")
                return
        self._handle(connection, connection.engine.receive_data(data))
        self._touched.add(connection)
        self._flush()

    def writing_paused(self, connection: AmqpConnection) -> None:
        """The client does not read. Nor is it read then: most of what it sends has to be answered."""
        connection.pause(self.clock.monotonic_s())

    def writing_resumed(self, connection: AmqpConnection) -> None:
        """The client reads again."""
        connection.go_on()
        self._clients.pump(connection)
        self._touched.add(connection)
        self._flush()

    def disconnected(self, connection: AmqpConnection, error: str) -> None:
        """The connection is gone."""
        self._lost(connection, error, logging.INFO)
        connection.engine.receive_data(b"")  # so its memory is given back
        connection.engine.data_to_send()
        self._end(connection)

    # what the engine tells

    def _handle(self, connection: AmqpConnection, events: list[Event]) -> None:
        for event in events:
            if connection.closed and not isinstance(event, Ended):
                continue
            kind = type(event)
            if kind is Received:
                assert isinstance(event, Received)
                link = event.delivery.link.context
                if type(link) is EventsLink:
                    self._telemetry.received(link, event.delivery)
                elif type(link) is RequestLink:
                    self._services.received(link, event.delivery)
                elif connection.is_cbs(event.delivery.link):
                    self._tokens.put(connection, event.delivery)
                else:  # its link was ended by what came in front of it
                    event.delivery.release()
            elif kind is Settled:
                assert isinstance(event, Settled)
                link = event.delivery.link.context
                if type(link) is MessageLink:
                    connection.outcomes.setdefault(link, []).append(event)
            else:
                self._finish_read(connection)  # what came before the end of a link counts
                self._handle_rare(connection, event)
        self._finish_read(connection)

    def _finish_read(self, connection: AmqpConnection) -> None:
        """Hand on what messages a read brought, and what it answered to ours: once for all of them."""
        if connection.outcomes:
            outcomes, connection.outcomes = connection.outcomes, {}
            for link, its in outcomes.items():
                self._deliveries.settled(link, its)
                self._deliveries.pump(link)
        if connection.events_links:
            self._telemetry.read(connection)

    def _handle_rare(self, connection: AmqpConnection, event: Event) -> None:
        if isinstance(event, CreditGranted):
            link = event.link.context
            if isinstance(link, MessageLink):
                connection.outcomes.setdefault(link, [])  # of this read, before credit is used
            elif isinstance(link, ReplyLink):
                link.pump()
            else:
                connection.pump_cbs()
        elif isinstance(event, LinkAttached):
            if is_cbs(event.link.address):
                connection.attach_cbs(event.link)
            else:
                self._clients.asked(connection, event.link)
        elif isinstance(event, LinkDetached):
            if connection.is_cbs(event.link):
                connection.detached_cbs(event.link)
            else:
                self._clients.detached(event)
        elif isinstance(event, SaslDone):
            self._tokens.sasl(connection, event)
        elif isinstance(event, Opened):
            connection.engine.open()
        elif isinstance(event, Ended):
            reason = f"{event.condition}: {event.description}" if event.condition else "disconnected"
            self._lost(connection, reason, logging.WARNING if event.offence else logging.INFO)
            self._end(connection)

    # identities

    def on_identity_revoked(self, message: IdentityRevoked) -> None:
        reason = "its identity was removed, disabled or has to prove itself anew"
        self._clients.end(message.identity, Refusal(UNAUTHORIZED_ACCESS, reason))

    def on_forget_identity(self, message: ForgetIdentity) -> None:
        """Have store and twins forget it at once: what a client of the same name says comes behind."""
        self.on_identity_revoked(IdentityRevoked(message.identity))
        forgotten = when_forgotten(self, message.identity, self.envelope)
        self.ask(STORE, ForgetClient(message.identity), STORE_LIMIT_S, forgotten)
        self.ask(TWINS, ForgetTwin(message.identity), TWIN_LIMIT_S, forgotten)

    def on_give_way(self, message: GiveWay) -> None:
        reason = "the same identity has connected over another protocol"
        self._clients.end(message.identity, Refusal(DETACH_FORCED, reason))
        self.reply(GaveWay(message.identity))

    # the end

    def _close(self, connection: AmqpConnection, reason: str, refusal: Refusal | None = None) -> None:
        """Say Close and wait a while for the client's."""
        if connection.closed:
            return
        condition, description = ("", "") if refusal is None else (refusal.condition, refusal.description)
        self._lost(connection, reason, logging.WARNING if refusal else logging.INFO)
        connection.engine.close(condition, description)
        connection.closes_at_s = self.clock.monotonic_s() + CLOSE_LIMIT_S
        if connection.engine.ended or connection.is_unread:
            self._end(connection)
        self._touched.add(connection)

    def _lost(self, connection: AmqpConnection, reason: str, level: int) -> None:
        """Forget what hangs on a connection."""
        if connection.closed:
            return
        connection.closed = True
        who = names(connection.clients.values()) or connection.transport.peer
        log.log(level, "%s: %s", who, reason)
        self._clients.lost(connection)

    def _end(self, connection: AmqpConnection) -> None:
        """Close the transport."""
        if self._connections.pop(connection.number, None) is not None:
            connection.flush()
            self._touched.discard(connection)
            connection.transport.close()

    def _flush(self) -> None:
        while self._touched:
            self._touched.pop().flush()

    def _detach(self, link: EventsLink, refusal: Refusal) -> None:
        self._clients.detach(link, refusal)

    def _touch_client(self, client: AmqpClient) -> None:
        self._touched.add(client.connection)

    # messages in and out

    def on_endpoints(self, message: Endpoints) -> None:
        self._deliveries.set_endpoints(message.endpoints)
        for client in self._clients.connected():
            self._deliveries.update(client)

    def on_ready(self, message: Ready) -> None:
        link = self._deliveries.ready(message)
        if link is not None:
            self._touched.add(link.connection)

    def on_read_on(self, message: ReadOn) -> None:
        self._telemetry.read_on()

    def on_stored(self, message: Stored) -> None:
        for link in self._telemetry.stored(message.batches):
            self._touched.add(link.connection)

    # services

    def on_call_method(self, message: CallMethod) -> None:
        client = self._clients.find(message.identity)
        if client is not None:
            self._services.call(client, message)

    def on_desired_patch(self, message: DesiredPatch) -> None:
        client = self._clients.find(message.identity)
        if client is not None:
            self._services.desired(client, message)

    def not_stored(self, batch_id: int, reason: str) -> None:
        link = self._telemetry.failed(batch_id, reason)
        if link is not None:
            self._touched.add(link.connection)
