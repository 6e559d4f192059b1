"""The MQTT protocol head: clients connect, publish, subscribe, and get what waits for them.

Understands: Stored, Ready, Endpoints, Sessions, IdentityRevoked, ForgetIdentity, GiveWay, ActorRestarted,
             Tick, ReadOn, CallMethod, DesiredPatch, what every ProtocolHead does; and, from its listener on
             the same thread, connections
Tells:       hub/router (Publish, ListEndpoints), hub/store (Attach, Detach, Delivered, SaveSession, …),
             hub/identities (Authenticate), hub/twins, hub/methods, hub/upstream, hub/client, other heads
             (see client_services.py)
Started by:  HubRootActor, on an event loop; a restart closes its connections and the clients come back

PUBACK leaves when the store says that the message is on disk. Whatever cannot be stored closes its
connection: MQTT 3.1.1 clients send again only after a reconnect.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any, Final

from actors.addresses import HUB_CLIENT, IDENTITIES, METHODS, ROUTER, STORE, TWINS, UPSTREAM
from actors.broker.hub_broker import HubBroker, PolicyChanged, SessionsEnded
from actors.broker.policy_recheck import PolicyRecheck, RecheckDue
from actors.broker.user_topics import UserTopics
from actors.heads.connected_clients import GIVE_WAY_LIMIT_S, ConnectedClients
from actors.heads.forgetting import when_forgotten
from actors.heads.intake import STORE_LIMIT_S, Intake
from actors.heads.mqtt_client import UNREAD, MqttClient, Packets, Published
from actors.heads.mqtt_deliveries import Deliveries
from actors.heads.mqtt_login import Login, ReadLogin, Refusal, read_login
from actors.heads.mqtt_patience import keep_alive_s, wants_repetition, why_to_end
from actors.heads.mqtt_services import Services
from actors.heads.mqtt_sessions import Subscriptions
from actors.heads.protocol_head import ProtocolHead
from actors.heads.readers import Readers, ReadOn
from actors.hub.client_services import CallMethod, DesiredPatch, ForgetIdentity, GaveWay, GiveWay
from actors.hub.identities import AGENT_LIMIT_S
from actors.hub.identity_messages import ACCEPTED, NOT_AUTHORIZED, TRY_AGAIN, IdentityRevoked, Verdict
from actors.hub.router import Endpoints, ListEndpoints, Publish
from actors.manifest.hub_environment import MAX_CONNECTED_CLIENTS, HubEnvironment
from actors.metrics.hub_metrics import RETRY_TO_MODULE
from actors.ports.connections import Listener, Transport
from actors.store.messages import LoadSessions, Ready, Sessions, Stored
from messaging.errors import AuthError, RemoteProtocolError
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, Watch
from messaging.mqtt.connection import State
from messaging.mqtt.packets import (
    PUBCOMP,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAcks,
    PubComp,
    Publishes,
    PubRec,
    PubRel,
    ReturnCode,
    Subscribe,
    Unsubscribe,
    Will,
)
from messaging.mqtt.packets import Publish as PublishPacket
from messaging.text import quoted

log = logging.getLogger(__name__)

TICK_S: Final = 1.0


@message
class Tick:
    """Timer: look for clients that are silent, late or stuck, or whose token has expired."""


class MqttHead(ProtocolHead):
    """Serves MQTT 3.1.1 clients. The listener calls `connected`, `received` and `disconnected`."""

    def __init__(
        self,
        listener: Listener,
        device_id: str,
        *,
        environment: HubEnvironment,
        connected: ConnectedClients,
        broker: HubBroker | None = None,
        read_login: ReadLogin = read_login,
    ) -> None:
        """Take the listener, settings, and what heads share.

        Without a `broker` there are no topics but those of IoT Hub.
        """
        super().__init__()
        self._read_login = read_login
        self._environment = environment
        self._connected = connected
        self._listener = listener
        self._device_id = device_id
        self._numbers = itertools.count(1)
        self._clients: dict[int, MqttClient] = {}
        self._by_identity: dict[str, MqttClient] = {}
        self._published: dict[str, Published] = {}  # last, by identities that are not connected
        self._intake = Intake(
            self, ROUTER, connected.next_number, environment.max_pending_inbound_acknowledgements
        )
        self._readers = Readers(self)
        self._deliveries = Deliveries(
            self, STORE, connected.next_number, self._close, environment.max_pending_outbound_messages
        )
        self._services = Services(self, TWINS, METHODS, UPSTREAM, HUB_CLIENT, self.ask)
        self._topics = None if broker is None else UserTopics(self, broker)
        self._subscriptions = Subscriptions(
            self, STORE, self._ask_store, self._close, self._update, self._topics
        )
        self._recheck = (
            None
            if self._topics is None
            else PolicyRecheck(self, self._topics, self._all_subscriptions, self._cut_off)
        )

    # life

    def on_start(self) -> None:
        self._connected.head_started(self.address, self.clock.monotonic_s())
        for address in (STORE, ROUTER, IDENTITIES):
            self.tell(address, Watch())
        self._ask_store(LoadSessions(), self._sessions_loaded)
        self.tell(ROUTER, ListEndpoints())
        self._services.started()
        self.set_timer(TICK_S, Tick())

    def on_stop(self) -> None:
        self._listener.close()
        for client in list(self._clients.values()):
            client.closed = True
            client.transport.close()
            if self._topics is not None:
                if client.will is not None:
                    self._topics.takes_will(client, client.will)
                self._topics.end(client)

    def _sessions_loaded(self, answer: object) -> None:
        if not isinstance(answer, Sessions):
            raise RuntimeError(f"the sessions could not be loaded: {answer}")
        self._subscriptions.load(answer.sessions)
        if self._recheck is not None:
            self._recheck.begin()  # the rules may have changed while no hub ran
        self._listener.open(self)

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        if message.address == STORE:
            self._deliveries.store_restarted()
        elif message.address == ROUTER:
            self.tell(ROUTER, ListEndpoints())
        else:
            self._services.restarted(message.address, self._by_identity.values())

    def on_tick(self, message: Tick) -> None:
        self.set_timer(TICK_S, Tick())
        now_s, wall_s = self.clock.monotonic_s(), self.clock.now_s()
        for client in list(self._clients.values()):
            reason = why_to_end(client, now_s, wall_s, self._environment)
            if reason:
                self._close(client, reason)
            elif wants_repetition(client, now_s, self._environment):
                log.warning("%s acknowledges nothing: sending again", client.client_id)
                client.redeliveries += 1
                self._connected.metrics.repeated(client.client_id, RETRY_TO_MODULE)
                client.transport.write(b"".join(client.frames_again(now_s)))

    def describe(self) -> dict[str, Any]:
        return {
            "connections": len(self._clients),
            "clients": tuple(sorted(self._by_identity)),
            "attached": self._deliveries.attached(),
            "unanswered_bytes": self._intake.unanswered_bytes,
        }

    # connections, called by the listener

    def connected(self, transport: Transport) -> MqttClient:
        """A connection was accepted, TLS included."""
        client = MqttClient(
            next(self._numbers),
            transport,
            self.clock.monotonic_s(),
            self._environment.max_inbound_message_bytes,
        )
        self._clients[client.number] = client
        return client

    def received(self, client: MqttClient, data: bytes) -> None:
        """Bytes of a client."""
        if client.closed:
            return
        client.seen_at_s = self.clock.monotonic_s()
        try:
            packets = client.codec.receive_data(data)
        except RemoteProtocolError as exc:
            self._offended(client, exc)
            return
        if len(packets) == 1 and not client.in_flight and self._topics is not None:
            [packet] = packets
            if type(packet) is PubAcks and client.codec.offence is None:
                # Most reads of a subscriber are this; a third of the time goes without the detour.
                self._topics.acknowledged(client, packet.packet_ids)
                self._topics.end_of_turn()
                return
        self._handle(client, packets)

    def writing_paused(self, client: MqttClient) -> None:
        """The client does not read. Nor is it read then: each of its packets might be answered with one."""
        client.write_paused_at_s = self.clock.monotonic_s()
        client.hold(UNREAD)
        if self._topics is not None:
            self._topics.unread(client)

    def writing_resumed(self, client: MqttClient) -> None:
        """The client reads again."""
        self._deliveries.unread_taken(client)
        if self._topics is not None:
            self._topics.read_again(client)
        client.release(UNREAD, self.clock.monotonic_s())

    def disconnected(self, client: MqttClient, error: str) -> None:
        """The connection is gone."""
        self._close(client, error, logging.INFO)

    def _handle(self, client: MqttClient, packets: list[Packet]) -> None:
        batch = Packets()
        acknowledged: dict[str, list[tuple[int, int]]] = {}
        offence: RemoteProtocolError | None = None
        ends = ""
        dropped: list[str] = []
        user_topics = client.user_topics
        for packet in client.spread(packets):
            kind = type(packet)
            if kind is PublishPacket:
                assert isinstance(packet, PublishPacket)
                if packet.topic in user_topics:
                    client.add_to_topic(packet, batch)
                    continue
                try:
                    problem = client.add_publish(packet, batch)
                except RemoteProtocolError as exc:
                    offence = exc
                    break
                except AuthError as exc:
                    ends = str(exc)
                    break
                if problem:
                    dropped.append(problem)
                if packet.qos == 2 and not (batch.topics and batch.topics[-1] is packet):
                    ends = "published at QoS 2, which IoT Hub does not offer"
                    break
            elif kind is Publishes:
                assert isinstance(packet, Publishes)
                client.add_publishes(packet, batch)
            elif kind is PubAcks:
                assert isinstance(packet, PubAcks)
                if self._topics is not None:
                    self._topics.acknowledged(client, packet.packet_ids)
                if client.in_flight:
                    client.take_acknowledged(packet.packet_ids, acknowledged)
            elif isinstance(packet, Disconnect):
                client.will = None
                ends = "disconnected"
            elif self._topics is not None and isinstance(packet, PubRec | PubRel | PubComp):
                self._handle_qos_2(self._topics, client, packet, batch)
            else:
                self._handle_rare(client, packet)
                if client.closed:
                    break
        if acknowledged:
            client.acknowledged_at_s = client.seen_at_s
            client.redeliveries = 0
            self._services.acknowledged(client, acknowledged)
            self._deliveries.acknowledged(acknowledged)
        if dropped:
            log.warning("%s: %d messages dropped: %s", client.client_id, len(dropped), dropped[0])
        if client.closed:
            return  # what was published in the same read is not acknowledged, so it comes again
        if self._topics is not None and batch.topics:
            batch.waits |= self._topics.publish(client, batch.topics)
        if batch.answers or batch.entries:
            self._take_in(client, packets, batch)
        for incoming, payload in batch.requests:
            self._services.request(client, incoming, payload)
        if client.subscription_answers:
            self._subscriptions.keep(client)
        if self._topics is not None:
            self._topics.end_of_turn()
        offence = offence or client.codec.offence
        if offence is not None:
            self._offended(client, offence)
        elif ends:
            self._close(client, ends, logging.INFO if client.codec.state is State.LEFT else logging.WARNING)

    def _take_in(self, client: MqttClient, packets: list[Packet], batch: Packets) -> None:
        """Have what a read brought brought to the disk, and answered then."""
        unanswered = self._intake.publish(client, batch, also_waits=batch.waits)
        if batch.entries:
            self._readers.has_read(client, len(batch.entries), batch.size_bytes)
        if batch.waits and self._topics is not None:

            def written(problem: str) -> None:
                if problem:
                    self._close(client, f"a publish was not stored: {problem}")
                elif not client.closed:
                    self._intake.stored_elsewhere(client, unanswered)

            self._topics.when_written(written)
        if batch.answers:
            client.remember(packets, unanswered)

    def _handle_qos_2(
        self, topics: UserTopics, client: MqttClient, packet: PubRec | PubRel | PubComp, batch: Packets
    ) -> None:
        if isinstance(packet, PubRec):
            topics.received(client, packet.packet_id)
        elif isinstance(packet, PubComp):
            topics.completed(client, packet.packet_id)
        else:
            if batch.topics:  # in front of it: one of them may be what it releases
                batch.waits |= topics.publish(client, batch.topics)
                batch.topics = []
            batch.waits |= topics.released(client, packet.packet_id)
            batch.answers.append(PUBCOMP | packet.packet_id)

    def _handle_rare(self, client: MqttClient, packet: Packet) -> None:
        if isinstance(packet, PingReq):
            client.transport.write(client.codec.send(PingResp()))
        elif isinstance(packet, Connect):
            self._connect(client, packet)
        elif isinstance(packet, Subscribe):
            self._subscriptions.subscribe(client, packet)
        elif isinstance(packet, Unsubscribe):
            self._subscriptions.unsubscribe(client, packet)
        # PUBREC, PUBREL, PUBCOMP: without a broker nothing is ever at QoS 2, so they answer nothing of ours.

    def _offended(self, client: MqttClient, error: RemoteProtocolError) -> None:
        if error.answer:
            client.transport.write(error.answer)
        self._close(client, f"broke the protocol: {error}")

    def _close(self, client: MqttClient, reason: str, level: int = logging.WARNING) -> None:
        """End a connection and everything that hangs on it."""
        if client.closed:
            return
        client.closed = True
        client.transport.close()
        self._clients.pop(client.number, None)
        who = client.transport.peer
        if client.epoch:
            who = client.client_id
        elif client.client_id:  # so far anybody may have written it
            who = f"{who} as {quoted(client.client_id)}"
        log.log(level, "%s: %s", who, reason)
        if client.epoch and client.will is not None:
            self._publish_will(client, client.will)
        if self._by_identity.get(client.client_id) is client:
            del self._by_identity[client.client_id]
            self._connected.went(client.client_id, self.address)
            if not client.clean_session:
                self._published[client.client_id] = client.published()
            self._deliveries.forget(client)
            self._services.forget(client)
        self._intake.forget(client)
        self._readers.forget(client)
        if self._topics is not None:
            self._topics.end(client)

    def _publish_will(self, client: MqttClient, will: Will) -> None:
        if self._topics is not None and self._topics.takes_will(client, will):
            return
        batch = Packets()
        try:
            problem = client.add_will(will, batch)
        except RemoteProtocolError as exc:
            problem = str(exc)
        if problem:
            log.warning("%s: its will is dropped: %s", client.client_id, problem)
            return
        headers, entries = tuple(batch.headers), tuple(batch.entries)
        self.tell(ROUTER, Publish(client.client_id, client.epoch, client.next_index, headers, entries))

    # CONNECT

    def _connect(self, client: MqttClient, packet: Connect) -> None:
        client.client_id = packet.client_id
        certificates = () if packet.password else client.transport.certificates  # reading them costs
        login = self._read_login(packet, certificates, self._environment)
        if isinstance(login, Refusal):
            self._refuse(client, login.code, login.reason)
            return
        client.client_id = login.client_id
        client.identity = login.user.identity
        client.clean_session = packet.clean_session
        client.will = packet.will
        client.keep_alive_s = keep_alive_s(packet.keep_alive_s, self._environment)
        self._judge(client, login)

    def _judge(self, client: MqttClient, login: Login) -> None:
        if client.closed:
            return

        def answered(answer: object) -> None:
            if client.closed:
                return
            if isinstance(answer, Verdict):
                self._judged(client, login, answer)
            else:
                self._refuse(client, TRY_AGAIN, f"identities cannot be checked now: {answer}")

        self.ask(IDENTITIES, login.question, AGENT_LIMIT_S + 2, answered)

    def _judged(self, client: MqttClient, login: Login, verdict: Verdict) -> None:
        if verdict.return_code != ACCEPTED:
            code = verdict.return_code
            if self._topics is not None and code == NOT_AUTHORIZED:
                code = ReturnCode.BAD_USER_NAME_OR_PASSWORD  # 5 says that the rules of the broker say no
            self._refuse(client, code, verdict.reason)
            return
        if self._topics is not None and (reason := self._topics.refusal(client)):
            self._refuse(client, NOT_AUTHORIZED, reason)
            return
        earlier = self._by_identity.get(client.client_id)
        other = self._connected.head_of(client.client_id)
        if earlier is not None:
            self._close(earlier, "the same identity has connected again")
        elif other:
            way = GiveWay(client.client_id)
            # The identity may be another one by then, so it is judged again.
            self.ask(other, way, GIVE_WAY_LIMIT_S, lambda _: self._judge(client, login))
            return
        elif self._connected.is_full:
            most = self._connected.most
            reason = f"{most} clients are connected, as many as {MAX_CONNECTED_CLIENTS} allows"
            self._refuse(client, TRY_AGAIN, reason)
            return
        client.ends_s = verdict.ends_s
        earlier_publishes = self._published.pop(client.client_id, {})
        if not client.clean_session:
            client.earlier = earlier_publishes
        client.accept(self._connected.next_number(), self._device_id, login.user.model_id)
        client.transport.authenticated()
        if self._topics is not None and not client.clean_session:
            kept = self._subscriptions.kept().get(client.client_id, {})
            if reason := self._topics.why_cut_off(client.client_id, kept):
                self._cut_off(client.client_id, reason)  # it was not looked at yet
        self._by_identity[client.client_id] = client
        self._connected.came(client.client_id, self.address)
        present = self._subscriptions.begin(client)
        if self._topics is not None:
            present = self._topics.begin(client) or present
        client.seen_at_s = self.clock.monotonic_s()
        client.transport.write(client.codec.send(ConnAck(ReturnCode.ACCEPTED, present)))
        log.info("%s connected from %s", client.client_id, client.transport.peer)
        self._update(client)
        if self._topics is not None:
            self._topics.resume(client)
            self._topics.end_of_turn()
        try:
            packets = client.codec.authenticated()
        except RemoteProtocolError as exc:
            self._offended(client, exc)
            return
        self._handle(client, packets)

    def _refuse(self, client: MqttClient, code: int, reason: str) -> None:
        if client.closed:
            return
        client.transport.write(client.codec.send(ConnAck(ReturnCode(code))))
        self._close(client, f"refused with CONNACK {code}: {reason}")

    def on_identity_revoked(self, message: IdentityRevoked) -> None:
        client = self._by_identity.get(message.identity)
        if client is not None:
            client.will = None
            self._close(client, "its identity was removed, disabled or has to prove itself anew")
        self._published.pop(message.identity, None)

    def on_give_way(self, message: GiveWay) -> None:
        client = self._by_identity.get(message.identity)
        if client is not None:
            self._close(client, "the same identity has connected over another protocol")
        self.reply(GaveWay(message.identity))

    def on_forget_identity(self, message: ForgetIdentity) -> None:
        """Have store and twins forget it at once: what a client of the same name says comes behind."""
        identity = message.identity
        self.on_identity_revoked(IdentityRevoked(identity))
        forgotten = when_forgotten(self, identity, self.envelope)
        self._subscriptions.forget(identity, forgotten)
        if self._topics is not None:
            self._topics.forget(identity)
        self._services.forget_twin(identity, forgotten)

    def _update(self, client: MqttClient) -> None:
        """A client has connected or subscribed anew."""
        self._deliveries.update(client)
        self._services.update(client)

    def on_policy_changed(self, message: PolicyChanged) -> None:
        """Look at every session: one that may not go on ends with all it has, its client connected or not."""
        assert self._recheck is not None
        for client in self._clients.values():
            client.user_topics.clear()
        self._recheck.begin(self.envelope)

    def on_sessions_ended(self, message: SessionsEnded) -> None:
        for client_id in message.client_ids:
            if client_id not in self._by_identity:
                self._subscriptions.end(client_id)

    def on_recheck_due(self, message: RecheckDue) -> None:
        assert self._recheck is not None
        self._recheck.go_on()

    def _all_subscriptions(self) -> dict[str, dict[str, int]]:
        """Return client id → filter → QoS of all sessions, connected or not."""
        connected = {client.client_id: client.subscriptions for client in self._by_identity.values()}
        return self._subscriptions.kept() | connected

    def _cut_off(self, name: str, reason: str) -> None:
        assert self._topics is not None
        client = self._by_identity.get(name)
        if client is not None:
            self._close(client, reason)
        else:
            log.warning("%s: its session ends: %s", name, reason)
        self._topics.forget(name)
        self._subscriptions.end(name)

    # messages in and out

    def on_endpoints(self, message: Endpoints) -> None:
        self._deliveries.set_endpoints(message.endpoints)
        for client in list(self._by_identity.values()):
            self._deliveries.update(client)

    def on_ready(self, message: Ready) -> None:
        self._deliveries.ready(message)

    def on_stored(self, message: Stored) -> None:
        self._intake.stored(message.batches)
        self._readers.committed()

    def on_read_on(self, message: ReadOn) -> None:
        self._readers.read_on()

    # services

    def on_call_method(self, message: CallMethod) -> None:
        client = self._by_identity.get(message.identity)
        if client is not None:
            self._services.call(client, message)

    def on_desired_patch(self, message: DesiredPatch) -> None:
        client = self._by_identity.get(message.identity)
        if client is not None:
            self._services.desired(client, message)

    def not_stored(self, batch_id: int, reason: str) -> None:
        self._readers.committed()
        client = self._intake.failed(batch_id)
        if client is not None:
            self._close(client, f"a publish was not stored: {reason}")

    def on_sessions(self, message: Sessions) -> None:
        self.answered(message)

    def _ask_store(self, request: object, answered: Callable[[object], None]) -> None:
        self.ask(STORE, request, STORE_LIMIT_S, answered)
