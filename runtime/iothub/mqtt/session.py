"""One MQTT connection of the stand-in: what its client sends, is owed and is sent.

PUBACK leaves when the hub says that the message is on disk, in the order of the PUBLISH packets. Whatever
cannot be stored closes the connection: MQTT 3.1.1 clients send again only after a reconnect.

Source: spec sheet hub-protocols.md sections 1 and 5, its column of IoT Hub
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from actors.ports.connections import Transport
from messaging.clock import Clock
from messaging.errors import EdgeError, LocalProtocolError, RemoteProtocolError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
    encode_puback_many,
)
from messaging.text import quoted
from messaging.topics import MethodResponse, desired_patch_topic, method_topic
from runtime.iothub.credit import Credit
from runtime.iothub.hub import IotHub
from runtime.iothub.mqtt import twin
from runtime.iothub.mqtt.incoming import Incoming
from runtime.iothub.mqtt.login import Login, Refusal, log_in
from runtime.iothub.mqtt.outgoing import Outgoing, topic_of
from runtime.iothub.mqtt.subscriptions import Subscriptions
from runtime.iothub.proofs import end_of_token
from runtime.iothub.records import C2dMessage, CutOff, Features, Grant, Telemetry

log = logging.getLogger(__name__)

CONNECT_LIMIT_S: Final = 10.0  # from the TLS handshake to CONNECT
KEEP_ALIVE_FACTOR: Final = 1.5  # [MQTT-3.1.2-24]
LONGEST_SILENCE_S: Final = 1767.0  # also for clients without keep-alive
STORE_LIMIT_S: Final = 20.0  # a publish that is not on disk by then closes its connection
MOST_REQUESTS: Final = 100  # of twins, waiting; beyond, the client is not read
MOST_SUBSCRIPTION_ANSWERS: Final = 100  # waiting for the disk; likewise
MOST_UNSENT_BYTES: Final = 16 * 1024 * 1024  # for a client that does not read; beyond, it is cut off

# Why a socket is not read, besides credit.
_UNREAD: Final = "unread"
_REQUESTS: Final = "requests"
_SESSION: Final = "session"


class _Read(Struct):
    """What one read brought: packet ids to acknowledge, and how much of it is not on disk yet."""

    packet_ids: list[int]
    at_s: float
    size_bytes: int = 0
    undone: int = 0


class MqttSession:
    """One connection, from accept to its end; implements `DeviceSession` once its client is known."""

    def __init__(
        self,
        hub: IotHub,
        clock: Clock,
        credit: Credit,
        transport: Transport,
        ended: Callable[[MqttSession], None],
    ) -> None:
        self.unanswered_bytes = 0
        self._hub = hub
        self._clock = clock
        self._credit = credit
        self._transport = transport
        self._ended = ended
        self._codec = ServerConnection()
        self._opened_at_s = self._seen_at_s = clock.monotonic_s()
        self._silence_s = LONGEST_SILENCE_S
        self._closed = False
        self._client_id = ""
        self._connected = False  # CONNECT was accepted
        self._clean_session = True
        self._will: Will | None = None
        self._grant: Grant
        self._token_ends_s: float | None = None  # seconds since 1970-01-01 UTC
        self._incoming: Incoming
        self._subscriptions: Subscriptions
        self._kept: bytes | None = None  # the subscriptions of a persistent session as they are on disk
        self._features = Features()
        self._subscription_answers: list[SubAck | UnsubAck] = []
        self._saving = False
        self._reads: deque[_Read] = deque()  # not acknowledged, in order
        self._requests: deque[tuple[twin.Request, bytes, _Read]] = deque()
        self._outgoing = Outgoing()
        self._holds: set[str] = set()  # why its socket is not read
        self._write_paused_at_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # what the listener says

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._closed:
            return
        self._seen_at_s = self._clock.monotonic_s()
        try:
            packets = self._codec.receive_data(data)
        except RemoteProtocolError as exc:
            self._offended(exc)
            return
        self._handle(packets)

    def writing_paused(self) -> None:
        """The client does not read. Nor is it read then: each of its packets might be answered with one."""
        self._write_paused_at_s = self._clock.monotonic_s()
        self.hold(_UNREAD)

    def writing_resumed(self) -> None:
        """The client reads again."""
        self.release(_UNREAD)

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._close(reason, logging.INFO)

    # time and room

    def look(self) -> None:
        """End the connection when that is due; what it has sent and is not acknowledged comes again."""
        reason = self._overdue()
        if reason:
            self._close(reason, logging.WARNING)

    def _overdue(self) -> str:
        """Return why the connection has to end now, "" when it may go on."""
        now_s = self._clock.monotonic_s()
        if not self._client_id:
            late = now_s - self._opened_at_s > CONNECT_LIMIT_S
            return f"no CONNECT within {CONNECT_LIMIT_S:.0f} s" if late else ""
        if self._reads and now_s - self._reads[0].at_s > STORE_LIMIT_S:
            return f"a publish was not stored within {STORE_LIMIT_S:.0f} s"
        if _UNREAD in self._holds and now_s - self._write_paused_at_s > self._silence_s:
            return f"reads too slowly: {self._transport.unsent_bytes} bytes wait for it"
        if self._token_ends_s is not None and self._clock.now_s() >= self._token_ends_s:
            return "its token has expired"
        if self._connected and not self._holds and now_s - self._seen_at_s > self._silence_s:
            return f"silent for {now_s - self._seen_at_s:.0f} s"
        return ""

    def stop(self) -> None:
        """The hub stops: end the connection, begin nothing more for it."""
        self._will = None
        while len(self._requests) > 1:  # the first is being served
            self._requests.pop()
        self._close("the hub stops", logging.INFO)

    def hold(self, reason: str) -> None:
        """Stop reading the socket, for this reason too."""
        if not self._holds and not self._closed:
            self._transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        """Read the socket again, when this was the last reason not to."""
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds and not self._closed:
                self._seen_at_s = self._clock.monotonic_s()
                self._transport.resume_reading()

    def _close(self, reason: str, level: int) -> None:
        if self._closed:
            return
        self._closed = True
        self._transport.close()
        who = self._transport.peer
        if self._connected:
            who = self._client_id
        elif self._client_id:  # so far anybody may have written it
            who = f"{who} as {quoted(self._client_id)}"
        log.log(level, "%s: %s", who, reason)
        self._reads.clear()
        unanswered, self.unanswered_bytes = self.unanswered_bytes, 0
        self._credit.give_back(unanswered)
        if self._connected:
            if self._will is not None:
                self._publish_will(self._will)
            self._hub.disconnected(self._grant, self)
        self._ended(self)

    def _publish_will(self, will: Will) -> None:
        try:
            message = self._incoming.read_will(will)
        except RemoteProtocolError as exc:
            log.warning("%s: its will is dropped: %s", self._client_id, exc)
            return

        def stored(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is not None:
                log.error("%s: its will is lost: %s", self._client_id, future.exception())

        self._hub.telemetry(self._grant, [message]).add_done_callback(stored)

    def _offended(self, error: RemoteProtocolError) -> None:
        if error.answer:
            self._transport.write(error.answer)
        self._close(f"broke the protocol: {error}", logging.WARNING)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, EdgeError):
                log.error("%s: internal error", self._transport.peer, exc_info=error)
            self._close(f"a request of it could not be served: {error}", logging.ERROR)

    # what the client sends

    def _handle(self, packets: list[Packet]) -> None:
        read = _Read([], self._seen_at_s)
        messages: list[Telemetry] = []
        offence: RemoteProtocolError | None = None
        left = False
        for packet in packets:
            if type(packet) is Publish:
                try:
                    self._take(packet, read, messages)
                except RemoteProtocolError as exc:
                    offence = exc
                    break
            elif type(packet) is PubAck:
                lock = self._outgoing.acknowledged(packet.packet_id)
                if lock:
                    self._spawn(self._hub.complete_c2d(self._grant, lock))
            elif isinstance(packet, Disconnect):
                self._will, left = None, True
            else:
                self._handle_rare(packet)
                if self._closed:
                    return  # what was published in the same read is not acknowledged, so it comes again
        if read.packet_ids or messages or read.undone:
            self._pass_on(read, messages)
        if len(self._subscription_answers) > MOST_SUBSCRIPTION_ANSWERS:
            self.hold(_SESSION)
        if self._subscription_answers and not self._saving:
            self._saving = True
            self._spawn(self._keep_subscriptions())
        offence = offence or self._codec.offence
        if offence is not None:
            self._offended(offence)
        elif left:
            self._close("disconnected", logging.INFO)

    def _take(self, packet: Publish, read: _Read, messages: list[Telemetry]) -> None:
        incoming = self._incoming.read(packet)
        if packet.packet_id:
            read.packet_ids.append(packet.packet_id)
        if isinstance(incoming, Telemetry):
            messages.append(incoming)
            read.size_bytes += len(packet.payload) + len(packet.topic)
        elif isinstance(incoming, MethodResponse):
            self._hub.method_answered(self._grant, incoming.request_id, incoming.status, packet.payload)
        else:
            read.undone += 1
            self._requests.append((incoming, packet.payload, read))

    def _pass_on(self, read: _Read, messages: list[Telemetry]) -> None:
        self._reads.append(read)
        if messages:
            read.undone += 1
            self.unanswered_bytes += read.size_bytes
            self._hub.telemetry(self._grant, messages).add_done_callback(
                lambda future: self._stored(read, future)
            )
            self._credit.take(self, read.size_bytes)
        if self._requests:
            if self._requests[-1][2] is read and len(self._requests) > MOST_REQUESTS:
                self.hold(_REQUESTS)
            if self._requests[0][2] is read:  # nobody serves those before it
                self._spawn(self._serve_requests())
        if not read.undone:
            self._acknowledge()

    def _stored(self, read: _Read, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None or future.cancelled():
            self._close(f"a publish was not stored: {error or 'the hub stops'}", logging.ERROR)
            return
        self._done(read)

    def _done(self, read: _Read) -> None:
        read.undone -= 1
        if not read.undone and not self._closed:
            self._acknowledge()

    def _acknowledge(self) -> None:
        packet_ids: list[int] = []
        stored_bytes = 0
        while self._reads and not self._reads[0].undone:
            read = self._reads.popleft()
            packet_ids += read.packet_ids
            stored_bytes += read.size_bytes
        if packet_ids:
            self._transport.write(encode_puback_many(packet_ids))
        self.unanswered_bytes -= stored_bytes
        self._credit.give_back(stored_bytes)

    def _handle_rare(self, packet: Packet) -> None:
        if isinstance(packet, PingReq):
            self._transport.write(self._codec.send(PingResp()))
        elif isinstance(packet, Connect):
            self._client_id = packet.client_id
            self._spawn(self._connect(packet))
        elif isinstance(packet, Subscribe):
            codes = tuple(self._subscribe(topic_filter, qos) for topic_filter, qos in packet.topic_filters)
            self._subscription_answers.append(SubAck(packet.packet_id, codes))
        elif isinstance(packet, Unsubscribe):
            for topic_filter in packet.topic_filters:
                self._subscriptions.unsubscribe(topic_filter)
            self._subscription_answers.append(UnsubAck(packet.packet_id))
        # PUBREC, PUBREL, PUBCOMP: nothing is ever sent or kept at QoS 2, so they answer nothing of ours.

    # CONNECT

    async def _connect(self, packet: Connect) -> None:
        verdict = await log_in(self._hub, packet, self._transport.certificates)
        if self._closed:
            return
        if isinstance(verdict, Refusal):
            self._refuse(verdict)
            return
        self._accept(packet, verdict)
        # From here on a change in the registry reaches this connection, and the one before it is gone.
        self._hub.connected(self._grant, self)
        try:
            await self._load_session()
        except EdgeError as exc:
            self._will = None
            self._refuse(Refusal(ReturnCode.SERVER_UNAVAILABLE, str(exc)))
        if self._closed:
            return
        self._seen_at_s = self._clock.monotonic_s()
        accepted = ConnAck(ReturnCode.ACCEPTED, session_present=self._kept is not None)
        self._transport.write(self._codec.send(accepted))
        log.info("%s connected from %s", self._client_id, self._transport.peer)
        self._tell_features()
        try:
            packets = self._codec.authenticated()
        except RemoteProtocolError as exc:
            self._offended(exc)
            return
        self._handle(packets)

    def _accept(self, packet: Connect, login: Login) -> None:
        self._connected = True
        self._grant = login.grant
        self._clean_session, self._will = packet.clean_session, packet.will
        self._silence_s = min(packet.keep_alive_s * KEEP_ALIVE_FACTOR or LONGEST_SILENCE_S, LONGEST_SILENCE_S)
        self._token_ends_s = end_of_token(login.grant, self._clock.now_s())
        self._incoming = Incoming(login.user.identity)
        self._subscriptions = Subscriptions(login.user.identity)
        self._transport.authenticated()

    def _refuse(self, refusal: Refusal) -> None:
        self._transport.write(self._codec.send(ConnAck(refusal.code)))
        self._close(f"refused with CONNACK {refusal.code.value}: {refusal.reason}", logging.WARNING)

    async def _load_session(self) -> None:
        identity = self._grant.identity
        kept = await self._hub.load_session(identity)
        if kept is not None and self._clean_session:
            await self._hub.save_session(identity, None)
        elif kept is not None:
            try:
                self._subscriptions.load(kept)
            except ValueError as exc:
                log.error("%s: its kept session is damaged, so it begins a new one: %s", identity, exc)
            else:
                self._kept = kept

    # subscriptions

    def _subscribe(self, topic_filter: str, qos: int) -> int:
        code = self._subscriptions.subscribe(topic_filter, qos)
        if code > qos:
            log.warning("%s: filter %s is refused", self._client_id, quoted(topic_filter))
        return code

    async def _keep_subscriptions(self) -> None:
        """Answer what changed the subscriptions; those of a persistent session are on disk by then."""
        while self._subscription_answers and not self._closed:
            answers, self._subscription_answers = self._subscription_answers, []
            record = self._subscriptions.encode()
            if not self._clean_session and record != self._kept:
                await self._hub.save_session(self._grant.identity, record)
                self._kept = record
            if not self._closed:
                self._transport.write(b"".join(map(self._codec.send, answers)))
                self._tell_features()
        self._saving = False
        self.release(_SESSION)

    def _tell_features(self) -> None:
        features = self._subscriptions.features
        if features != self._features:
            self._features = features
            self._hub.features_changed(self._grant, self, features)

    # twin requests, one after the other: a GET sees the PATCH before it

    async def _serve_requests(self) -> None:
        while self._requests:
            request, payload, read = self._requests[0]
            topic, body = await twin.answer(self._hub, self._grant.identity, request, payload)
            self._requests.popleft()
            if topic:
                self._push(topic, body)
            self._done(read)
            if len(self._requests) <= MOST_REQUESTS // 2:
                self.release(_REQUESTS)

    # what the hub sends: DeviceSession

    def desired_patched(self, patch: Mapping[str, Any], version: int) -> None:
        """Pass on a patch of desired properties."""
        self._push(desired_patch_topic(version), msgspec.json.encode({**patch, "$version": version}))

    def method(self, request_id: str, name: str, payload: bytes) -> None:
        """Pass on a direct method."""
        self._push(method_topic(name, request_id), payload)

    def c2d(self, message: C2dMessage, lock: str) -> None:
        """Pass on a C2D message."""
        self._push(topic_of(self._grant.identity.device_id, message), message.body, lock)

    def cut_off(self, why: CutOff) -> None:
        """End the connection."""
        self._close(f"cut off: {why.value}", logging.WARNING)

    def _push(self, topic: str, payload: bytes, lock: str = "") -> None:
        """Publish to the client, at the QoS of its filter; without a filter nothing is sent."""
        qos = None if self._closed else self._subscriptions.qos_of(topic)
        if qos is None:
            log.debug("%s does not listen on %s", self._client_id, topic)
            return
        try:
            self._transport.write(self._outgoing.frame(topic, payload, qos, lock))
        except LocalProtocolError as exc:
            log.error("%s: a message is dropped: %s", self._client_id, exc)
            if lock:
                self._spawn(self._hub.reject_c2d(self._grant, lock))
            return
        except OverflowError as exc:
            self._close(str(exc), logging.WARNING)
            return
        if lock and not qos:
            self._spawn(self._hub.complete_c2d(self._grant, lock))  # nothing more will be heard of it
        if self._transport.unsent_bytes > MOST_UNSENT_BYTES:
            self._close(f"does not read: {self._transport.unsent_bytes} bytes wait for it", logging.WARNING)
