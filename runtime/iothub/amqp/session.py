"""One device or module on one AMQP connection of the stand-in: its links, and what travels on them.

To the hub it is what an MQTT connection is: at most one of them is connected per identity.

Source: spec sheet hub-protocols.md sections 3.3 to 3.8, its column of IoT Hub
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from messaging.amqp import codec
from messaging.amqp.addresses import LinkKind, is_paired, replaced_by, settlement_of
from messaging.amqp.conditions import (
    DETACH_FORCED,
    STOLEN,
    UNAUTHORIZED_ACCESS,
    Refusal,
    refusal_of,
)
from messaging.amqp.events import Outcome
from messaging.amqp.link import Delivery, Link
from messaging.amqp.method_messages import method_call, parse_method_answer
from messaging.amqp.twin_messages import TwinOperation, TwinRequest, desired_patch, parse_twin_request
from messaging.errors import RemoteProtocolError
from messaging.identity import Identity
from messaging.topics import Unknown
from runtime.iothub.amqp import twin
from runtime.iothub.amqp.c2d import C2dSender
from runtime.iothub.amqp.inflow import Inflow
from runtime.iothub.amqp.outbox import Outbox
from runtime.iothub.amqp.telemetry import TelemetryReceiver
from runtime.iothub.amqp.tokens import Proof
from runtime.iothub.proofs import end_of_token
from runtime.iothub.records import C2dMessage, CutOff, Features

if TYPE_CHECKING:
    from runtime.iothub.amqp.front import AmqpConnection

log = logging.getLogger(__name__)

CREDIT: Final = 100  # for requests of twins, and for answers to methods

_CUT_OFF: Final = {
    CutOff.REPLACED: STOLEN,
    CutOff.REFUSED: UNAUTHORIZED_ACCESS,
    CutOff.STOPPING: DETACH_FORCED,
}


class AmqpSession:
    """Implements `DeviceSession` for the hub and `LinkOwner` for the connection."""

    def __init__(
        self, connection: AmqpConnection, proof: Proof, forget: Callable[[AmqpSession], None]
    ) -> None:
        self.identity: Identity = proof.grant.identity
        self.holder = proof.holder
        self._connection = connection
        self._hub = connection.hub
        self._grant = proof.grant
        self._ends_s = end_of_token(proof.grant, connection.clock.now_s())
        self._forget = forget
        self._links: dict[LinkKind, Link] = {}
        self._kinds: dict[Link, LinkKind] = {}
        self._channels: dict[LinkKind, str] = {}  # of those links that have one
        self._features = Features()
        self._wants_desired = False
        self._telemetry = TelemetryReceiver(connection, proof.grant, self._end_for)
        self._responses: Inflow
        self._c2d = C2dSender(connection, proof.grant)
        self._calls = Outbox(connection)
        self._answers = Outbox(connection)
        self._requests: deque[tuple[TwinRequest, Inflow]] = deque()  # the first is being served
        self._asking: Inflow
        self._is_over = False

    def open(self) -> None:
        """Count the identity as connected. From here on a change in the registry reaches its links."""
        self._hub.connected(self._grant, self)
        log.info("%s connected from %s over AMQP", self.identity, self._connection.peer)

    # ---- its links

    def attach(self, kind: LinkKind, link: Link, channel: str) -> None:
        """Accept a link. An older one of its kind ends, and one of its pair that names another channel."""
        settlement = settlement_of(kind)
        link.accept(snd_settle_mode=settlement.sender, rcv_settle_mode=settlement.receiver)
        if not link.is_open:
            self._end_if_bare()
            return
        channels = {other: self._channels.get(other, "") for other in self._links}
        for replaced in replaced_by(kind, channel, channels):
            self._end_link(
                self._links[replaced],
                Refusal(STOLEN, f"'{self.identity}' attached another link for the same"),
            )
        self._tell_features()
        self._links[kind], self._kinds[link] = link, kind
        if is_paired(kind):
            self._channels[kind] = channel
        self._connection.accepted(link, self)
        if kind is LinkKind.EVENTS:
            self._telemetry.attach(link)
        elif kind is LinkKind.C2D:
            self._c2d.attach(link)
        elif kind is LinkKind.METHOD_CALLS:
            self._calls.attach(link)
        elif kind is LinkKind.METHOD_RESPONSES:
            self._responses = Inflow(link, CREDIT)
        elif kind is LinkKind.TWIN_REQUESTS:
            self._asking = Inflow(link, CREDIT)
        elif kind is LinkKind.TWIN_ANSWERS:
            self._answers.attach(link)
        self._tell_features()

    def renew(self, expires_s: float) -> None:
        """Its token has another one in its place."""
        if self._ends_s is not None:
            self._ends_s = max(self._ends_s, expires_s)

    def look(self) -> None:
        """End its links when its token has expired, that for messages when these do not get to the disk."""
        self._telemetry.look()
        if self._is_over or self._ends_s is None:
            return
        if self._connection.clock.now_s() >= self._ends_s:
            self._end(Refusal(UNAUTHORIZED_ACCESS, f"the token of '{self.identity}' has expired"))
            self._hub.disconnected(self._grant, self)

    def detached(self, link: Link) -> None:
        """The client ended a link; with the last one it is disconnected."""
        self._remove(link)
        self._tell_features()
        self._end_if_bare()

    def _end_for(self, link: Link, refusal: Refusal) -> None:
        """End one link for what came on it."""
        self._end_link(link, refusal)
        self._tell_features()
        self._end_if_bare()

    def _end_link(self, link: Link, refusal: Refusal) -> None:
        self._connection.detach(link, refusal)
        self._remove(link)

    def _remove(self, link: Link) -> None:
        kind = self._kinds.pop(link)
        del self._links[kind]
        self._channels.pop(kind, None)
        self._c2d.detach(link)
        self._calls.detach(link)
        self._answers.detach(link)
        if kind is LinkKind.TWIN_ANSWERS:
            self._wants_desired = False

    def _end(self, refusal: Refusal) -> None:
        """End all links."""
        self._is_over = True
        log.warning("%s: cut off: %s", self.identity, refusal.reason)
        for link in list(self._kinds):
            self._end_link(link, refusal)
        self._forget(self)

    def _end_if_bare(self) -> None:
        if not self._kinds and not self._is_over:
            self._is_over = True
            self._hub.disconnected(self._grant, self)
            self._forget(self)
            log.info("%s: disconnected", self.identity)

    def _tell_features(self) -> None:
        features = Features(
            methods=LinkKind.METHOD_CALLS in self._links,
            desired=self._wants_desired,
            c2d=LinkKind.C2D in self._links and self.identity.module_id is None,
        )
        if features != self._features and not self._is_over:
            self._features = features
            self._hub.features_changed(self._grant, self, features)

    # ---- what the client sends: LinkOwner

    def received(self, delivery: Delivery) -> None:
        """A message came."""
        kind = self._kinds[delivery.link]
        if kind is LinkKind.EVENTS:
            self._telemetry.received(delivery)
            return
        delivery.accept()  # unless it came settled, as it should
        try:
            message = codec.decode(delivery.data)
        except RemoteProtocolError as exc:
            self._end_for(delivery.link, refusal_of(exc))
            return
        if kind is LinkKind.TWIN_REQUESTS:
            self._take_request(message)
            return
        self._responses.dealt_with()
        answer = parse_method_answer(message)
        if isinstance(answer, Unknown):
            log.warning("%s: %s", self.identity, answer.reason)
        else:
            self._hub.method_answered(self._grant, answer.request_id, answer.status, message.body)

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """The client has decided on a C2D message: nothing else is sent unsettled."""
        self._c2d.settled(delivery, outcome)

    def credited(self, link: Link) -> None:
        """There is credit on a link."""
        kind = self._kinds[link]
        if kind is LinkKind.C2D:
            self._c2d.send()
        elif kind is LinkKind.METHOD_CALLS:
            self._calls.send()
        elif kind is LinkKind.TWIN_ANSWERS:
            self._answers.send()
        elif link.drain:  # inputs of modules, for which IoT Hub has nothing
            link.drained()
            self._connection.flush_soon()

    # twin requests, one after the other: a GET sees the PATCH before it

    def _take_request(self, message: codec.AmqpMessage) -> None:
        request = parse_twin_request(message)
        if isinstance(request, Unknown):
            log.warning("%s: %s", self.identity, request.reason)
            self._asking.dealt_with()
            return
        self._requests.append((request, self._asking))
        if len(self._requests) == 1:
            self._connection.spawn(self._serve_requests())

    async def _serve_requests(self) -> None:
        while self._requests:
            request, asking = self._requests[0]
            answer = await twin.answer(self._hub, self.identity, request)
            self._requests.popleft()
            asking.dealt_with()
            self._connection.flush_soon()
            if self._answers.link is None:
                continue  # nobody listens
            if answer is not None:
                self._answers.put(codec.encode(answer))
            if request.operation in (TwinOperation.PUT, TwinOperation.DELETE):
                self._wants_desired = request.operation is TwinOperation.PUT
                self._tell_features()

    # ---- what the hub sends: DeviceSession

    def desired_patched(self, patch: Mapping[str, Any], version: int) -> None:
        """Pass on a patch of desired properties."""
        body = msgspec.json.encode({**patch, "$version": version})
        self._answers.put(codec.encode(desired_patch(body)))

    def method(self, request_id: str, name: str, payload: bytes) -> None:
        """Pass on a direct method."""
        self._calls.put(codec.encode(method_call(name, request_id, payload)))

    def c2d(self, message: C2dMessage, lock: str) -> None:
        """Pass on a C2D message."""
        self._c2d.put(message, lock)

    def cut_off(self, why: CutOff) -> None:
        """End its links; the connection and everybody else on it stay."""
        self._end(Refusal(_CUT_OFF[why], f"'{self.identity}': {why.value}"))
