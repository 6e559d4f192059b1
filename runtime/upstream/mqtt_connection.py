"""One connection of one identity to IoT Hub: its states, and exactly one answer for each number.

It is one state machine, hence one file; what can be said without its state stands in the files beside it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.upstream.connection import CloudAccess, CloudFault, CloudObserver, Fault
from messaging.cloud_topics import (
    C2d,
    DesiredPatch,
    MethodCall,
    TwinAnswer,
    filter_of,
    method_response_topic,
    parse_cloud_topic,
    twin_get_topic,
    twin_reported_topic,
)
from messaging.errors import EdgeError, RemoteProtocolError
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.property_bag import decode_bag, encode_upstream_bag
from messaging.topics import Feature, events_topic
from runtime.upstream import faults
from runtime.upstream.identity_connection import IdentityConnection
from runtime.upstream.shared import SLOWEST_BYTES_PER_S, Shared, Way, token_of

if TYPE_CHECKING:
    from runtime.upstream.mqtt_transport import CloudTransport, HeldMessage

log = logging.getLogger(__name__)

_FEATURES: Final = (Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D)
_BATCH_BYTES: Final = 16 * 1024
_PACKET_HEAD_BYTES: Final = 8  # the cloud's limit is one of packets, and ends the connection
_LONGEST_TOPIC: Final = 65_535
_TICK_S: Final = 1.0
_FAREWELL_S: Final = 2.0


class _State(Enum):
    CLOSED = "closed"
    OPENING = "opening"
    UP = "up"
    DRAINING = "draining"  # the token is about to end: what was sent is waited for, nothing new is sent
    RENEWING = "renewing"  # the connection with the next token opens


class _Unacknowledged(Struct, frozen=True):
    """Telemetry that the cloud has not acknowledged."""

    size_bytes: int
    since_s: float


class SdkConnection(IdentityConnection[str]):
    """Implements `CloudConnection`."""

    def __init__(self, access: CloudAccess, observer: CloudObserver, shared: Shared, way: Way) -> None:
        super().__init__(access, observer, shared)
        self._way = way
        self._openers = shared.openers
        self._clock = shared.clock
        self._topic = events_topic(access.identity)
        self._state = _State.CLOSED
        self._since_s = 0.0  # when the state began
        self._is_ticking = False
        self._attempt = 0  # which connection this is; what an older one still tells is passed over
        self._transport: CloudTransport | None = None
        self._renew_at_s = 0.0  # wall clock
        self._heard_s = 0.0
        self._subscribing: dict[int, float] = {}  # not confirmed, since when
        self._can_ask = False  # the answers to twin requests are subscribed to
        self._waiting: deque[tuple[int, str, bytes]] = deque()  # telemetry: number, topic, body
        self._unacknowledged: dict[int, _Unacknowledged] = {}  # by number, in the order of sending
        self._answers: deque[tuple[str, bytes]] = deque()  # to methods, while the connection is renewed
        self._held = 0  # cloud-to-device messages that are told and not yet taken

    @property
    def _is_connected(self) -> bool:
        return self._state not in (_State.CLOSED, _State.OPENING)

    # opening

    def _open(self) -> None:
        if self._state is not _State.CLOSED or self._is_closed:
            return
        self._connect_as(_State.OPENING)
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.later(_TICK_S, self._tick)

    def _connect_as(self, state: _State) -> None:
        self._attempt += 1
        self._set_state(state)
        self._openers.run(partial(self._connect, self._attempt))

    def _connect(self, attempt: int) -> None:
        """Load the SDK and make the connection. Runs in a thread of its own, because it blocks."""
        try:
            from runtime.upstream.mqtt_transport import CloudTransport

            expires_s = int(self._clock.now_s() + self._times.token_life_s)
            token = token_of(self.access, expires_s)
            trust = self._shared.trust.context(self.access.ca_pem)
            transport = CloudTransport(self.access, trust, self._loop, self._times.keep_alive_s, self._way)
            # Paho holds a lock while it calls: what may close the connection has to wait for its return.
            call = self._loop.call
            transport.on_mqtt_connected_handler = partial(call, self._connected, attempt)
            transport.on_mqtt_connection_failure_handler = partial(call, self._refused, attempt)
            transport.on_mqtt_disconnected_handler = partial(call, self._disconnected, attempt)
            transport.on_mqtt_message_received_handler = partial(self._received, transport)
            transport.refill = self._refill
            transport.heard = self._heard
            self._loop.call(self._adopt, attempt, transport, expires_s - self._times.renew_before_s)
            transport.connect(token)  # type: ignore[no-untyped-call]  # the SDK has few types
        except Exception as exc:  # noqa: BLE001 - the SDK's errors have no common class; their cause tells
            self._loop.call(self._not_connected, attempt, _root(exc))

    def _adopt(self, attempt: int, transport: CloudTransport, renew_at_s: float) -> None:
        if attempt != self._attempt:
            transport.end()
            return
        self._transport = transport
        self._renew_at_s = renew_at_s
        self._set_state(self._state)  # the time limit begins now, not while it waited for its turn

    def _connected(self, attempt: int) -> None:
        if attempt != self._attempt or self._transport is None:
            return
        is_new = self._state is _State.OPENING
        self._set_state(_State.UP)
        self._heard()
        self._subscribe(Feature.TWIN_RESPONSES)
        for feature in _FEATURES:
            # A session in the cloud outlives connections: what is no longer wanted has to be said.
            if feature in self._wanted:
                self._subscribe(feature)
            else:
                self._unsubscribe(feature)
        while self._answers:
            self._publish(*self._answers.popleft())
        if is_new:
            self._observer.connected()
        self._transport.has_more()

    def _not_connected(self, attempt: int, error: BaseException) -> None:
        self._lose_if(attempt, faults.of_connecting(error, self.access.host_name, self._way.port))

    def _refused(self, attempt: int, error: BaseException) -> None:
        if attempt != self._attempt:
            return
        fault = faults.of_connack(error, self._who, self.access.host_name)
        if fault.kind is not Fault.UNAUTHORIZED:
            self._lose(fault)
            return
        self._attempt += 1  # the cloud closes the connection now, which is no news
        self._openers.run(partial(self._compare_clocks, self._attempt, fault))

    def _compare_clocks(self, attempt: int, fault: CloudFault) -> None:
        """Find out whether the key was refused or the time. Runs in a thread of its own."""
        self._loop.call(self._lose_if, attempt, self._shared.key_or_clock(self.access, fault))

    def _lose_if(self, attempt: int, fault: CloudFault) -> None:
        if attempt == self._attempt:
            self._lose(fault)

    # ending

    def _disconnected(self, attempt: int, cause: BaseException | None = None) -> None:
        self._lose_if(attempt, faults.dropped(self.access.host_name, cause))

    def _lose(self, fault: CloudFault) -> None:
        """End the connection and say so; what had no answer has failed, in the order of asking."""
        failed = [*self._unacknowledged, *(number for number, _, _ in self._waiting)]
        failed += self._requests.take_all()
        self._forget_all()
        for number in failed:
            self._observer.failed(number, fault)
        self._observer.lost(fault)

    def _drop(self, fault: CloudFault) -> None:
        if self._state is not _State.CLOSED:
            self._lose(fault)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._forget_all()
            self.on_closed()

    def _forget_all(self) -> None:
        self._attempt += 1
        self._set_state(_State.CLOSED)
        self._waiting.clear()
        self._unacknowledged.clear()
        self._requests.take_all()
        self._calls.clear()
        self._answers.clear()
        self._leave()

    def _leave(self) -> None:
        """End what belongs to this one connection."""
        transport, self._transport = self._transport, None
        self._can_ask = False
        self._subscribing.clear()
        self._held = 0
        if transport is not None:
            transport.end()

    def _set_state(self, state: _State) -> None:
        self._state = state
        self._since_s = time.monotonic()

    # looked after each second

    def _tick(self) -> None:
        if self._state is _State.CLOSED:
            self._is_ticking = False
            return
        self._loop.later(_TICK_S, self._tick)
        now_s = time.monotonic()
        self._fail_overdue(now_s)
        if self._transport is None:
            return  # it waits for its turn to be opened
        if self._state in (_State.OPENING, _State.RENEWING):
            if now_s - self._since_s > self._times.open_s:
                self._lose(faults.silent(self.access.host_name, self._times.open_s))
            return
        limit_s = self._silence_limit_s(now_s)
        if limit_s is not None:
            self._lose(faults.silent(self.access.host_name, limit_s))
            return
        self._transport.look_after()
        if self._state is _State.UP and self._clock.now_s() >= self._renew_at_s:
            self._set_state(_State.DRAINING)
        if self._state is _State.DRAINING:
            self._renew_when_quiet(now_s)

    def _silence_limit_s(self, now_s: float) -> float | None:
        """Return how long the cloud was silent, when that is too long for one that has to answer."""
        limit_s = self._times.silence_s
        waits_since_s = min(self._subscribing.values(), default=None)
        if self._unacknowledged:
            oldest = next(iter(self._unacknowledged.values()))
            limit_s += oldest.size_bytes / SLOWEST_BYTES_PER_S
            waits_since_s = oldest.since_s
        if waits_since_s is None or now_s - max(waits_since_s, self._heard_s) <= limit_s:
            return None
        return limit_s

    def _renew_when_quiet(self, now_s: float) -> None:
        """Connect with a new token once nothing is under way that the change could lose or double."""
        is_late = now_s - self._since_s > self._times.drain_s
        if self._unacknowledged or self._subscribing or self._requests:
            if is_late:
                self._lose(faults.silent(self.access.host_name, self._times.drain_s))
        elif not self._held or is_late:  # what is not taken by now comes again
            self._leave()
            self._connect_as(_State.RENEWING)

    def _heard(self) -> None:
        self._heard_s = time.monotonic()

    # subscriptions

    def _want(self, features: frozenset[Feature]) -> None:
        before, self._wanted = self._wanted, features
        if self._state in (_State.UP, _State.DRAINING):
            for feature in _FEATURES:
                if feature in features - before:
                    self._subscribe(feature)
                elif feature in before - features:
                    self._unsubscribe(feature)

    def _subscribe(self, feature: Feature) -> None:
        if self._transport is not None and self._may_have(feature):
            number = next(self._ids)
            self._subscribing[number] = time.monotonic()
            confirmed = partial(self._subscribed, feature, number)
            self._try(self._transport.subscribe, filter_of(feature, self.access.identity), callback=confirmed)

    def _unsubscribe(self, feature: Feature) -> None:
        if self._transport is not None and self._may_have(feature):
            self._try(self._transport.unsubscribe, filter_of(feature, self.access.identity))

    def _may_have(self, feature: Feature) -> bool:
        """Nothing is ever sent from the cloud to a module."""
        return feature is not Feature.C2D or self.access.identity.module_id is None

    def _subscribed(self, feature: Feature, number: int, cancelled: bool = False) -> None:
        if cancelled or self._subscribing.pop(number, None) is None:
            return
        if feature is Feature.TWIN_RESPONSES:
            self._can_ask = True
            self._send_requests()

    # telemetry

    def _send_telemetry(self, number: int, message: Message) -> None:
        topic = f"{self._topic}/{encode_upstream_bag(message.properties, message.system_properties)}"
        size_bytes = max(message.size_bytes, len(topic) + len(message.body) + _PACKET_HEAD_BYTES)
        if size_bytes > LARGEST_MESSAGE_BYTES:
            self._observer.failed(number, faults.too_large(size_bytes, LARGEST_MESSAGE_BYTES))
        elif len(topic) > _LONGEST_TOPIC:
            fault = faults.too_large(len(topic), _LONGEST_TOPIC, "a message whose encoded properties have")
            self._observer.failed(number, fault)
        else:
            self._waiting.append((number, topic, message.body))
            if self._transport is not None:
                self._transport.has_more()

    def _refill(self) -> bool:
        """Publish some of what waits: asked by the transport when it has room."""
        room_bytes = _BATCH_BYTES
        while self._waiting and room_bytes > 0 and self._state is _State.UP:
            number, topic, body = self._waiting.popleft()
            size_bytes = len(topic) + len(body)
            room_bytes -= size_bytes
            self._unacknowledged[number] = _Unacknowledged(size_bytes, time.monotonic())
            if not self._publish(topic, body, partial(self._published, number)):
                return False
        return bool(self._waiting) and self._state is _State.UP

    def _published(self, number: int, cancelled: bool = False) -> None:
        if not cancelled and self._unacknowledged.pop(number, None) is not None:
            try:
                self._observer.done(number, b"")
            except Exception:
                log.exception("'%s': that a message has arrived could not be told", self._who)

    def _publish(self, topic: str, payload: bytes, acknowledged: Callable[..., None] | None = None) -> bool:
        return self._transport is not None and self._try(
            self._transport.publish, topic, payload, callback=acknowledged
        )

    def _try(self, work: Callable[..., None], *arguments: object, **options: object) -> bool:
        """Do something with the transport; that it cannot means that there is no connection any more."""
        try:
            work(*arguments, **options)
        except Exception as exc:  # noqa: BLE001 - the SDK's errors have no common class
            self._loop.call(self._disconnected, self._attempt, exc)
            return False
        return True

    # twins

    def _send_requests(self) -> None:
        while self._can_ask and self._state is _State.UP:
            request = self._requests.next_to_leave()
            if request is None:
                return
            if request.is_get:
                self._publish(twin_get_topic(request.request_id), b" ")
            else:
                self._publish(twin_reported_topic(request.request_id), request.payload)

    # what the cloud sends

    def _received(self, transport: CloudTransport, topic: str, payload: bytes) -> None:
        transport.hold_nothing()
        if transport is self._transport:
            try:
                self._take(transport, topic, payload)
            except Exception:
                # The SDK would let it pass in silence.
                log.exception("a message of the cloud to '%s' could not be told", self._who)

    def _take(self, transport: CloudTransport, topic: str, payload: bytes) -> None:
        what = parse_cloud_topic(topic)
        if isinstance(what, TwinAnswer):
            self._twin_answered(what.request_id, what.status, payload)
        elif isinstance(what, DesiredPatch):
            if Feature.DESIRED_PROPERTIES in self._wanted:
                self._observer.desired_changed(payload)
        elif isinstance(what, MethodCall):
            if Feature.METHODS in self._wanted:
                self._called(what.request_id, what.name, payload)
        elif isinstance(what, C2d):
            self._message_came(transport, what.bag, payload)
        else:
            log.warning("the cloud, to '%s': %s", self._who, what.reason)

    def _send_answer(self, cloud_id: str, status: int, payload: bytes) -> None:
        topic = method_response_topic(status, cloud_id)
        if self._state is _State.RENEWING:
            self._answers.append((topic, payload))
        else:
            self._publish(topic, payload)

    def _message_came(self, transport: CloudTransport, bag: str, payload: bytes) -> None:
        try:
            properties, system_properties = decode_bag(bag)
        except RemoteProtocolError as exc:
            log.warning("cloud-to-device message for '%s' without properties: %s", self._who, exc)
            properties, system_properties = {}, {}
        held = transport.hold()
        if Feature.C2D not in self._wanted:
            return  # it came before the cloud heard that; it comes again when it is wanted
        self._held += 1
        message = Message("", properties, system_properties, payload)
        self._observer.message_received(message, partial(self._loop.call, self._taken, transport, held))

    def _taken(self, transport: CloudTransport, held: HeldMessage, is_taken: bool) -> None:
        if transport is self._transport and not held.is_settled:
            held.is_settled = True
            self._held -= 1
            if is_taken:
                transport.acknowledge(held)


def _root(error: Exception) -> BaseException:
    """Return what tells most: our own error, else what the SDK wrapped."""
    return error if isinstance(error, EdgeError) else error.__cause__ or error
