"""Twins and direct methods of MQTT clients: topics here, messages of actors there.

Source: hub-protocols.md sections 1.5, 1.9, 1.12 and 1.13
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Final

from actors.broker.user_topics import iothub_filters
from actors.heads.mqtt_client import MqttClient
from actors.heads.presence import Presence
from actors.hub.c2d_queues import granted_qos
from actors.hub.client_services import (
    CallMethod,
    DesiredPatch,
    DesiredTold,
    ForgetTwin,
    GetTwin,
    MethodAnswered,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from actors.kernel.base import EdgeActor
from messaging.mqtt.filters import MAX_TEXT_BYTES, matches
from messaging.mqtt.packets import encode_publish
from messaging.topics import (
    Feature,
    Incoming,
    MethodResponse,
    TwinGet,
    TwinReported,
    classify_filter,
    desired_patch_topic,
    method_topic,
    twin_response_topic,
)

log = logging.getLogger(__name__)

TWIN_LIMIT_S: Final = 20.0  # within which a twin request is answered, if only with an error
# What is in flight to a client and no message of the store; a patch stands at its version.
REPLIES: Final = "$replies"
PATCHES: Final = "$patches"
_TIMED_OUT: Final = 504

Ask = Callable[[str, object, float, Callable[[object], None]], None]


class Services:
    """What the clients of this head use besides messages. A part of the head, which calls it for each."""

    def __init__(
        self, head: EdgeActor, twins: str, methods: str, cloud: str, hub_client: str, ask: Ask
    ) -> None:
        self._head = head
        self._twins = twins
        self._methods = methods
        self._presence = Presence(head, twins, methods, cloud, hub_client)
        self._ask = ask

    # who is there

    def started(self) -> None:
        """The head serves clients from now on."""
        self._presence.started()

    def restarted(self, service: str, clients: Iterable[MqttClient]) -> None:
        """A service may have forgotten who there is."""
        self._presence.restarted(service, clients)

    def update(self, client: MqttClient) -> None:
        """A client has connected or subscribed: tell the services what it wants, if that is news."""
        filters = iothub_filters(client)
        features = {classify_filter(topic_filter) for topic_filter in filters}
        features.discard(Feature.UNKNOWN)
        if granted_qos(client.client_id, filters) is None:
            features.discard(Feature.C2D)  # a module, or a filter for another device
        self._presence.wants(client, tuple(sorted(feature.name for feature in features)))

    def forget(self, client: MqttClient) -> None:
        """The connection is gone."""
        self._presence.gone(client)

    # from clients

    def forget_twin(self, identity: str, then: Callable[[object], None]) -> None:
        """Forget the twin of an identity that is gone; `then` gets the answer."""
        self._ask(self._twins, ForgetTwin(identity), TWIN_LIMIT_S, then)

    def request(self, client: MqttClient, incoming: Incoming, payload: bytes) -> None:
        """Handle a publish that is no telemetry."""
        identity = client.client_id
        if isinstance(incoming, TwinGet):
            request_id = incoming.request_id
            asked: object = GetTwin(identity)
            self._ask(
                self._twins, asked, TWIN_LIMIT_S, lambda answer: self._answer(client, request_id, answer)
            )
        elif isinstance(incoming, TwinReported):
            patch_id = incoming.request_id
            asked = PatchReported(identity, payload)
            self._ask(self._twins, asked, TWIN_LIMIT_S, lambda answer: self._answer(client, patch_id, answer))
        elif isinstance(incoming, MethodResponse):
            answered = MethodAnswered(identity, incoming.request_id, incoming.status, payload)
            self._head.tell(self._methods, answered)

    def _answer(self, client: MqttClient, request_id: str | None, answer: object) -> None:
        """Publish what became of a twin request; without a request id nobody waits for it."""
        if request_id is None:
            if not isinstance(answer, ReportedPatched):
                log.warning("%s: reported properties were not taken: %s", client.client_id, answer)
            return
        if isinstance(answer, Twin):
            self._publish(client, twin_response_topic(200, request_id), answer.document)
        elif isinstance(answer, ReportedPatched):
            self._publish(client, twin_response_topic(204, request_id), b"")
        else:
            if isinstance(answer, TwinRefused):
                status, reason = answer.status, answer.reason
            else:
                status, reason = _TIMED_OUT, str(answer)
            # The Node SDK looks at the body alone, and takes an empty one for a twin.
            body = json.dumps({"errorCode": status, "message": reason}).encode()
            log.warning("%s: twin request refused with %d: %s", client.client_id, status, reason)
            self._publish(client, twin_response_topic(status, request_id), body)

    # to clients

    def call(self, client: MqttClient, message: CallMethod) -> None:
        """Pass a method call on; one that the client does not want any more is never answered."""
        self._publish(client, method_topic(message.name, message.request_id), message.payload)

    def desired(self, client: MqttClient, message: DesiredPatch) -> None:
        """Pass a change of desired properties on."""
        topic, what = desired_patch_topic(message.version), (PATCHES, message.version)
        if self._publish(client, topic, message.patch, what) == 0:
            self._told(client, message.version)

    def acknowledged(self, client: MqttClient, in_flight: dict[str, list[tuple[int, int]]]) -> None:
        """A client has these; what is not a message of the store is taken out."""
        in_flight.pop(REPLIES, None)
        for _, version in in_flight.pop(PATCHES, ()):
            self._told(client, version)

    def _told(self, client: MqttClient, version: int) -> None:
        self._head.tell(self._twins, DesiredTold(client.client_id, version))

    def _publish(
        self, client: MqttClient, topic: str, payload: bytes, what: tuple[str, int] = (REPLIES, 0)
    ) -> int | None:
        """Publish at the QoS that the client asked for and return it; None when no filter of it matches."""
        if client.closed or len(topic.encode()) > MAX_TEXT_BYTES:
            return None
        granted = [qos for wanted, qos in iothub_filters(client).items() if matches(wanted, topic)]
        if not granted:
            return None
        if max(granted) == 0:
            client.transport.write(encode_publish(topic.encode(), payload, 0, 0))
            return 0
        frames: list[bytes] = []
        now_s = self._head.clock.monotonic_s()
        if client.frame_run(what[0], what[1], [topic.encode()], [(0, payload)], now_s, frames):
            client.transport.write(frames[0])
        return 1
