"""The MQTT protocol head: clients connect, publish, subscribe, and get what routes send to their inputs.

Understands: Stored, RequestFailed, DeadlinePassed, Verdict, Ready, Endpoints, Sessions, SessionSaved,
             IdentityRevoked, ActorRestarted, Tick; and, from its listener on the same thread, connections
Tells:       hub/router (Publish, ListEndpoints), hub/store (Attach, Detach, Delivered, SaveSession, …),
             hub/identities (Authenticate)
Started by:  HubRootActor, on an event loop; a restart closes its connections and the clients come back

PUBACK leaves when the store says that the message is on disk. Whatever cannot be stored closes its
connection: MQTT 3.1.1 clients send again only after a reconnect.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any, Final

from actors.base import EdgeActor
from actors.identities import (
    ACCEPTED,
    AGENT_LIMIT_S,
    NOT_AUTHORIZED,
    TRY_AGAIN,
    Authenticate,
    IdentityRevoked,
    Verdict,
)
from actors.module_inputs import ModuleInputs
from actors.mqtt_client import Batch, MqttClient, Unanswered, add_position
from actors.ports import Listener, Transport
from actors.router import Endpoints, ListEndpoints, Publish
from actors.store import (
    Attach,
    DeleteSession,
    Delivered,
    Detach,
    LoadSessions,
    Ready,
    SaveSession,
    Sessions,
    SessionSaved,
    Stored,
    Undeliverable,
)
from messaging.envelope import Secret
from messaging.errors import RemoteProtocolError
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, DeadlinePassed, RequestFailed, Watch
from messaging.mqtt.connection import State
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
    encode_puback_many,
    encode_publish,
)
from messaging.mqtt.packets import Publish as PublishPacket
from messaging.text import quoted
from messaging.username import UserName, parse_user_name

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
CONNECT_LIMIT_S: Final = 5.0  # from the TLS handshake to CONNECT
KEEP_ALIVE_FACTOR: Final = 1.5  # [MQTT-3.1.2-24]
LONGEST_SILENCE_S: Final = 600.0  # also for clients without keep-alive; hub-protocols.md section 1.4
STORE_LIMIT_S: Final = 20.0  # a publish that is not on disk by then closes its connection
REDELIVER_S: Final = 30.0  # MessageAckTimeoutSecs of the reference
WINDOW_MESSAGES: Final = 1000
WINDOW_BYTES: Final = 1024 * 1024
CLIENT_CREDIT_BYTES: Final = 4 * 1024 * 1024  # unanswered Publish bytes of one client …
HEAD_CREDIT_BYTES: Final = 16 * 1024 * 1024  # … and of all: beyond, sockets are not read
MOST_FILTERS: Final = 100  # per client; IoT Hub's own clients use six at most
MOST_FILTER_BYTES: Final = 64 * 1024  # of all filters of a client
MOST_SUBSCRIPTION_ANSWERS: Final = 100  # waiting for the disk; beyond, the client is not read

# Why a socket is not read.
CREDIT: Final = "credit"  # too much of what it sent is not on disk yet
UNREAD: Final = "unread"  # the client does not read what it is sent
SESSION: Final = "session"  # too many of its subscriptions are not on disk yet


@message
class Tick:
    """Timer: look for clients that are silent, late or stuck."""


class MqttHead(EdgeActor):
    """Serves MQTT 3.1.1 clients. The listener calls `connected`, `received` and `disconnected`."""

    def __init__(
        self, listener: Listener, device_id: str, *, store: str, router: str, identities: str
    ) -> None:
        self._listener = listener
        self._device_id = device_id
        self._store = store
        self._router = router
        self._identities = identities
        self._numbers = itertools.count(1)
        self._clients: dict[int, MqttClient] = {}
        self._by_identity: dict[str, MqttClient] = {}
        self._sessions: dict[str, dict[str, int]] | None = None
        self._inputs = ModuleInputs()
        self._attached: dict[str, tuple[int, MqttClient, int]] = {}  # endpoint → (attachment, client, QoS)
        self._batches: dict[int, tuple[MqttClient, Unanswered]] = {}  # by correlation id of the Publish
        self._ids = itertools.count(1)  # of batches, attachments, epochs
        self._credit_used = 0
        self._paused: set[MqttClient] = set()  # for want of credit
        self._waiting: dict[int, Callable[[object], None]] = {}  # correlation id → what to do with the answer

    # life

    def on_start(self) -> None:
        # What belongs to ids from before a restart may still arrive, and epochs must never go back. Not the
        # time of day: when that was set back, nobody could publish until it has caught up.
        self._ids = itertools.count(int(self.clock.monotonic_s() * 1e6))
        for address in (self._store, self._router, self._identities):
            self.tell(address, Watch())
        self._ask(self._store, LoadSessions(), STORE_LIMIT_S, self._sessions_loaded)
        self.tell(self._router, ListEndpoints())
        self.set_timer(TICK_S, Tick())

    def on_stop(self) -> None:
        self._listener.close()
        for client in list(self._clients.values()):
            client.closed = True
            client.transport.close()

    def _sessions_loaded(self, answer: object) -> None:
        if not isinstance(answer, Sessions):
            raise RuntimeError(f"the sessions could not be loaded: {answer}")
        self._sessions = {identity: dict(filters) for identity, filters in answer.sessions.items()}
        self._listener.open(self)

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        if message.address == self._store:
            for endpoint_id, (_, client, qos) in list(self._attached.items()):
                client.forget_in_flight(endpoint_id)
                self._attach(endpoint_id, client, qos)
        elif message.address == self._router:
            self.tell(self._router, ListEndpoints())

    def on_tick(self, message: Tick) -> None:
        self.set_timer(TICK_S, Tick())
        now_s = self.clock.monotonic_s()
        for client in list(self._clients.values()):
            reason = self._overdue(client, now_s)
            if reason:
                self._close(client, reason)
            elif client.in_flight:
                oldest = next(iter(client.in_flight.values()))
                idle_s = now_s - max(oldest[3], client.acknowledged_at_s)
                if idle_s > REDELIVER_S and not client.transport.unsent_bytes:
                    log.warning("%s acknowledges nothing: sending again", client.client_id)
                    client.transport.write(b"".join(client.frames_again(now_s)))

    @staticmethod
    def _overdue(client: MqttClient, now_s: float) -> str:
        if not client.client_id:
            late = now_s - client.opened_at_s > CONNECT_LIMIT_S
            return f"no CONNECT within {CONNECT_LIMIT_S:.0f} s" if late else ""
        if client.unanswered and now_s - client.unanswered[0].sent_at_s > STORE_LIMIT_S:
            return f"a publish was not stored within {STORE_LIMIT_S:.0f} s"
        if UNREAD in client.holds and now_s - client.write_paused_at_s > client.keep_alive_s:
            return f"reads too slowly: {client.transport.unsent_bytes} bytes wait for it"
        if client.is_connected and not client.holds and now_s - client.seen_at_s > client.keep_alive_s:
            return f"silent for {now_s - client.seen_at_s:.0f} s"
        return ""

    def describe(self) -> dict[str, Any]:
        return {
            "connections": len(self._clients),
            "clients": tuple(sorted(self._by_identity)),
            "attached": tuple(sorted(self._attached)),
            "unanswered_bytes": self._credit_used,
        }

    # connections, called by the listener

    def connected(self, transport: Transport) -> MqttClient:
        """A connection was accepted, TLS included."""
        client = MqttClient(next(self._numbers), transport, self.clock.monotonic_s())
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
        self._handle(client, packets)

    def writing_paused(self, client: MqttClient) -> None:
        """The client does not read. Nor is it read then: each of its packets might be answered with one."""
        client.write_paused_at_s = self.clock.monotonic_s()
        self._hold(client, UNREAD)

    def writing_resumed(self, client: MqttClient) -> None:
        """The client reads again."""
        unsaid, client.unsaid = client.unsaid, []
        for delivered in unsaid:
            self.tell(self._store, delivered)
        self._release(client, UNREAD)

    def disconnected(self, client: MqttClient, error: str) -> None:
        """The connection is gone."""
        self._close(client, error, logging.INFO)

    @staticmethod
    def _hold(client: MqttClient, reason: str) -> None:
        """Stop reading a socket, for this reason too."""
        if not client.holds and not client.closed:
            client.transport.pause_reading()
        client.holds.add(reason)

    def _release(self, client: MqttClient, reason: str) -> None:
        """Read a socket again, when this was the last reason not to."""
        if reason in client.holds:
            client.holds.discard(reason)
            if not client.holds and not client.closed:
                client.seen_at_s = self.clock.monotonic_s()
                client.transport.resume_reading()

    def _handle(self, client: MqttClient, packets: list[Packet]) -> None:
        batch = Batch()
        acknowledged: dict[str, list[tuple[int, int]]] = {}
        in_flight = client.in_flight
        offence: RemoteProtocolError | None = None
        ends = ""
        dropped: list[str] = []
        for packet in packets:
            kind = type(packet)
            if kind is PublishPacket:
                assert isinstance(packet, PublishPacket)
                try:
                    problem = client.add_publish(packet, batch)
                except RemoteProtocolError as exc:
                    offence = exc
                    break
                if problem:
                    dropped.append(problem)
                if packet.qos == 2:
                    ends = "published at QoS 2, which IoT Hub does not offer"
                    break
            elif kind is PubAck:
                assert isinstance(packet, PubAck)
                sent = in_flight.pop(packet.packet_id, None)
                if sent is not None:
                    add_position(acknowledged, sent[0], sent[1])
            elif isinstance(packet, Disconnect):
                client.will = None
                ends = "disconnected"
            else:
                self._handle_rare(client, packet)
                if client.closed:
                    break
        if acknowledged:
            client.acknowledged_at_s = client.seen_at_s
        for endpoint_id, ranges in acknowledged.items():
            attachment = self._attached.get(endpoint_id, (0,))[0]  # 0: unsubscribed in the same read
            self.tell(self._store, Delivered(endpoint_id, attachment, tuple(ranges)))
        if dropped:
            log.warning("%s: %d messages dropped: %s", client.client_id, len(dropped), dropped[0])
        if client.closed:
            return  # what was published in the same read is not acknowledged, so it comes again
        if batch.packet_ids or batch.entries:
            self._publish(client, batch)
        if client.subscription_answers:
            self._keep_subscriptions(client)
        offence = offence or client.codec.offence
        if offence is not None:
            self._offended(client, offence)
        elif ends:
            self._close(client, ends, logging.INFO if client.codec.state is State.LEFT else logging.WARNING)

    def _handle_rare(self, client: MqttClient, packet: Packet) -> None:
        if isinstance(packet, PingReq):
            client.transport.write(client.codec.send(PingResp()))
        elif isinstance(packet, Connect):
            self._connect(client, packet)
        elif isinstance(packet, Subscribe):
            self._subscribe(client, packet)
        elif isinstance(packet, Unsubscribe):
            self._unsubscribe(client, packet)
        # PUBREC, PUBREL, PUBCOMP: nothing is ever sent or kept at QoS 2, so they answer nothing of ours.

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
        self._paused.discard(client)
        who = client.transport.peer
        if client.epoch:
            who = client.client_id
        elif client.client_id:  # so far anybody may have written it
            who = f"{who} as {quoted(client.client_id)}"
        log.log(level, "%s: %s", who, reason)
        if client.epoch and client.will is not None:
            self._publish_will(client, client.will)
        for batch_id in [k for k, (owner, _) in self._batches.items() if owner is client]:
            del self._batches[batch_id]
        self._credit_used -= client.unanswered_bytes
        client.unanswered.clear()
        client.unanswered_bytes = 0
        if self._by_identity.get(client.client_id) is client:
            del self._by_identity[client.client_id]
            self._inputs.remove(client.client_id)
        for endpoint_id in [k for k, (_, owner, _) in self._attached.items() if owner is client]:
            self._detach(endpoint_id)
        self._resume_readers()

    def _publish_will(self, client: MqttClient, will: Will) -> None:
        batch = Batch()
        try:
            problem = client.add_will(will, batch)
        except RemoteProtocolError as exc:
            problem = str(exc)
        if problem:
            log.warning("%s: its will is dropped: %s", client.client_id, problem)
            return
        headers, entries = tuple(batch.headers), tuple(batch.entries)
        self.tell(self._router, Publish(client.client_id, client.epoch, client.next_index, headers, entries))

    # CONNECT

    def _connect(self, client: MqttClient, packet: Connect) -> None:
        client.client_id = packet.client_id
        try:
            user = parse_user_name(packet.user_name or "")
        except RemoteProtocolError as exc:
            code = TRY_AGAIN if packet.user_name else NOT_AUTHORIZED
            self._refuse(client, code, str(exc))
            return
        if packet.client_id != user.identity.id:
            self._refuse(
                client,
                NOT_AUTHORIZED,
                f"the client id is not the identity of the user name, '{user.identity}'",
            )
            return
        if not packet.password:
            self._refuse(client, NOT_AUTHORIZED, "no password: a shared access signature is needed")
            return
        client.identity = user.identity
        client.clean_session = packet.clean_session
        client.will = packet.will
        silence_s = packet.keep_alive_s * KEEP_ALIVE_FACTOR or LONGEST_SILENCE_S
        client.keep_alive_s = min(silence_s, LONGEST_SILENCE_S)

        def answered(answer: object) -> None:
            if isinstance(answer, Verdict):
                self._judged(client, user, answer)
            else:
                self._refuse(client, TRY_AGAIN, f"identities cannot be checked now: {answer}")

        asked = Authenticate(user.identity.id, Secret(packet.password))
        self._ask(self._identities, asked, AGENT_LIMIT_S + 2, answered)

    def _judged(self, client: MqttClient, user: UserName, verdict: Verdict) -> None:
        if client.closed:
            return
        if verdict.return_code != ACCEPTED:
            self._refuse(client, verdict.return_code, verdict.reason)
            return
        earlier = self._by_identity.get(client.client_id)
        if earlier is not None:
            self._close(earlier, "the same identity has connected again")
        client.accept(next(self._ids), self._device_id, user.model_id)
        client.transport.authenticated()
        self._by_identity[client.client_id] = client
        assert self._sessions is not None
        kept = self._sessions.get(client.client_id)
        if client.clean_session and kept is not None:
            del self._sessions[client.client_id]
            self.tell(self._store, DeleteSession(client.client_id))
            kept = None
        if kept:
            client.subscriptions = dict(kept)
        client.seen_at_s = self.clock.monotonic_s()
        client.transport.write(client.codec.send(ConnAck(ReturnCode.ACCEPTED, kept is not None)))
        log.info("%s connected from %s", client.client_id, client.transport.peer)
        self._update_inputs(client)
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
            self._close(client, "its identity was removed, disabled or got other keys")

    # subscriptions

    def _subscribe(self, client: MqttClient, packet: Subscribe) -> None:
        wanted = client.subscriptions
        wanted.update({topic_filter: min(qos, 1) for topic_filter, qos in packet.topic_filters})
        if len(wanted) > MOST_FILTERS:
            self._close(client, f"subscribed to {len(wanted)} filters; the limit is {MOST_FILTERS}")
            return
        size_bytes = sum(map(len, wanted))
        if size_bytes > MOST_FILTER_BYTES:
            self._close(client, f"its filters have {size_bytes} bytes; the limit is {MOST_FILTER_BYTES}")
            return
        codes = tuple(min(qos, 1) for _, qos in packet.topic_filters)
        client.subscription_answers.append(SubAck(packet.packet_id, codes))

    def _unsubscribe(self, client: MqttClient, packet: Unsubscribe) -> None:
        for topic_filter in packet.topic_filters:
            client.subscriptions.pop(topic_filter, None)
        client.subscription_answers.append(UnsubAck(packet.packet_id))

    def _keep_subscriptions(self, client: MqttClient) -> None:
        """Apply the subscriptions; those of a persistent session are on disk before they are acknowledged.

        Once for all that a read brought, and one save at a time: a client may change its mind a thousand
        times in one read.
        """
        if client.saving:
            if len(client.subscription_answers) > MOST_SUBSCRIPTION_ANSWERS:
                self._hold(client, SESSION)
            return
        sessions, client_id, wanted = self._sessions, client.client_id, dict(client.subscriptions)
        assert sessions is not None
        answers, client.subscription_answers = client.subscription_answers, []

        def kept(saved: object) -> None:
            client.saving = False
            if isinstance(saved, SessionSaved):
                sessions[client_id] = wanted
            if client.closed:
                return
            if not isinstance(saved, SessionSaved | None):
                self._close(client, f"its subscriptions could not be stored: {saved}")
                return
            client.transport.write(b"".join(map(client.codec.send, answers)))
            self._update_inputs(client)
            if client.subscription_answers:
                self._keep_subscriptions(client)
            self._release(client, SESSION)

        if client.clean_session or sessions.get(client_id, {}) == wanted:
            kept(None)
            return
        client.saving = True
        session = SaveSession(client.client_id, tuple(wanted.items()))
        self._ask(self._store, session, STORE_LIMIT_S, kept)

    def on_endpoints(self, message: Endpoints) -> None:
        self._inputs.set_endpoints(message.endpoints)
        for client in list(self._by_identity.values()):
            self._update_inputs(client)

    def _update_inputs(self, client: MqttClient) -> None:
        """Attach the endpoints that this client's subscriptions now cover, detach the others."""
        wanted = self._inputs.subscribe(client.client_id, client.subscriptions)
        for endpoint_id in [k for k, (_, owner, _) in self._attached.items() if owner is client]:
            if endpoint_id not in wanted:
                self._detach(endpoint_id)
                client.forget_in_flight(endpoint_id)
        for endpoint_id, qos in wanted.items():
            known = self._attached.get(endpoint_id)
            if known is None or known[1] is not client:
                self._attach(endpoint_id, client, qos)
            elif known[2] != qos:
                self._attached[endpoint_id] = (known[0], client, qos)

    def _attach(self, endpoint_id: str, client: MqttClient, qos: int) -> None:
        attachment = next(self._ids)
        self._attached[endpoint_id] = (attachment, client, qos)
        self.tell(self._store, Attach(endpoint_id, attachment, WINDOW_MESSAGES, WINDOW_BYTES))

    def _detach(self, endpoint_id: str) -> None:
        del self._attached[endpoint_id]
        self.tell(self._store, Detach(endpoint_id))

    # messages out

    def on_ready(self, message: Ready) -> None:
        endpoint_id = message.endpoint_id
        attachment, client, qos = self._attached.get(endpoint_id, (0, None, 0))
        if client is None or attachment != message.attachment:
            return  # detached meanwhile: the store sends them to whoever attaches next
        now_s = self.clock.monotonic_s()
        frames: list[bytes] = []
        done: list[tuple[int, int]] = []  # QoS 0 is delivered when it is written
        poison: list[tuple[int, int]] = []
        for run_first, headers, run_entries in message.runs:
            topics = [self._topic_of(endpoint_id, header) for header in headers]
            parts = [(run_first, run_entries)]
            if None in topics:
                singles = [(run_first + at, (entry,)) for at, entry in enumerate(run_entries)]
                parts = [part for part in singles if topics[part[1][0][0]] is not None]
                poison += [(first, first) for first, (entry,) in singles if topics[entry[0]] is None]
            for first, entries in parts:
                if qos == 0:
                    frames += [encode_publish(topics[i], body, 0, 0) for i, body in entries]  # type: ignore[arg-type]
                    done.append((first, first + len(entries) - 1))
                elif not client.frame_run(endpoint_id, first, topics, entries, now_s, frames):
                    self._close(client, "acknowledges nothing: no packet id is left")
                    return
        if frames:
            client.transport.write(b"".join(frames))
        if poison:
            log.error("%s: %d messages dropped: they make no valid topic", endpoint_id, len(poison))
            self.tell(self._store, Undeliverable(endpoint_id, attachment, tuple(poison)))
        if done:
            delivered = Delivered(endpoint_id, attachment, tuple(done))
            if UNREAD in client.holds:
                client.unsaid.append(delivered)  # or the store would send more and more
            else:
                self.tell(self._store, delivered)

    def _topic_of(self, endpoint_id: str, header: bytes) -> bytes | None:
        """Return the topic of a message; None for one that can have none, whatever the reason.

        A failure of ours would end with the next delivery of the same message, and so on for ever.
        """
        try:
            return self._inputs.topic_of(endpoint_id, header)
        except Exception:
            log.exception("%s: no topic can be made for a message", endpoint_id)
            return None

    # messages in

    def _publish(self, client: MqttClient, batch: Batch) -> None:
        now_s = self.clock.monotonic_s()
        unanswered = Unanswered(batch.packet_ids, batch.size_bytes, now_s, done=not batch.entries)
        client.unanswered.append(unanswered)
        if not batch.entries:
            self._acknowledge(client)
            return
        client.unanswered_bytes += batch.size_bytes
        self._credit_used += batch.size_bytes
        batch_id = next(self._ids)
        self._batches[batch_id] = (client, unanswered)
        publish = Publish(
            client.client_id, client.epoch, client.next_index, tuple(batch.headers), tuple(batch.entries)
        )
        client.next_index += 1
        self.context.send(self._router, publish, correlation_id=batch_id, deadline_s=now_s + STORE_LIMIT_S)
        over = client.unanswered_bytes > CLIENT_CREDIT_BYTES or self._credit_used > HEAD_CREDIT_BYTES
        if over and client not in self._paused:
            self._paused.add(client)
            self._hold(client, CREDIT)

    def on_stored(self, message: Stored) -> None:
        clients: dict[int, MqttClient] = {}
        for batch_id in message.batches:
            found = self._batches.pop(batch_id, None)
            if found is not None:
                client, unanswered = found
                unanswered.done = True
                clients[client.number] = client
        for client in clients.values():
            self._acknowledge(client)
        self._resume_readers()

    def _acknowledge(self, client: MqttClient) -> None:
        before = client.unanswered_bytes
        packet_ids = client.acknowledged()
        self._credit_used -= before - client.unanswered_bytes
        if packet_ids:
            client.transport.write(encode_puback_many(packet_ids))

    def _resume_readers(self) -> None:
        if not self._paused or self._credit_used > HEAD_CREDIT_BYTES // 2:
            return
        for client in list(self._paused):
            if client.unanswered_bytes <= CLIENT_CREDIT_BYTES // 2:
                self._paused.discard(client)
                self._release(client, CREDIT)

    # answers to requests

    def _ask(self, to: str, request: object, limit_s: float, answered: Callable[[object], None]) -> None:
        self._waiting[self.request(to, request, limit_s)] = answered

    def _answered(self, answer: object) -> bool:
        then = self._waiting.pop(self.envelope.correlation_id, None)
        if then is not None:
            then(answer)
        return then is not None

    def on_verdict(self, message: Verdict) -> None:
        self._answered(message)

    def on_sessions(self, message: Sessions) -> None:
        self._answered(message)

    def on_session_saved(self, message: SessionSaved) -> None:
        self._answered(message)

    def on_request_failed(self, message: RequestFailed) -> None:
        if self._answered(message.reason):
            return
        found = self._batches.pop(self.envelope.correlation_id, None)
        if found is not None:
            self._close(found[0], f"a publish was not stored: {message.reason}")

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        then = self._waiting.pop(message.correlation_id, None)
        if then is not None:
            then(f"{message.address} did not answer in time")
