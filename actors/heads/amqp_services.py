"""Twins and direct methods of AMQP clients: links and AMQP messages here, messages of actors there.

Source: spec sheet hub-protocols.md section 3.7
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from actors.heads.amqp_connection import AmqpClient
from actors.heads.amqp_links import ReplyLink, RequestLink
from actors.heads.presence import Presence
from actors.hub.client_services import (
    CallMethod,
    DesiredPatch,
    DesiredTold,
    GetTwin,
    MethodAnswered,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from actors.kernel.base import EdgeActor
from messaging.amqp.addresses import DeviceLink, LinkKind, feature_of
from messaging.amqp.codec import AmqpMessage, MessageId, decode, encode
from messaging.amqp.link import Delivery
from messaging.amqp.method_messages import method_call, parse_method_answer
from messaging.amqp.twin_messages import (
    TwinOperation,
    desired_patch,
    parse_twin_request,
    twin_answer,
    twin_refusal,
)
from messaging.errors import RemoteProtocolError
from messaging.topics import Feature, Unknown

log = logging.getLogger(__name__)

TWIN_LIMIT_S: Final = 20.0  # within which a twin request is answered, if only with an error
_TIMED_OUT: Final = 504

Ask = Callable[[str, object, float, Callable[[object], None]], None]


class AmqpServices:
    """What the clients of this head use besides messages. A part of the head, which calls it for each."""

    def __init__(
        self,
        head: EdgeActor,
        twins: str,
        methods: str,
        presence: Presence,
        ask: Ask,
        touched: Callable[[AmqpClient], None],
    ) -> None:
        """Take what is needed; `touched` is told of clients for which there is something to write."""
        self._head = head
        self._twins = twins
        self._methods = methods
        self._presence = presence
        self._ask = ask
        self._touched = touched

    def update(self, client: AmqpClient) -> None:
        """A client has connected, attached or ended a link, or wants no more patches: tell the services."""
        features: set[Feature | None] = {
            feature_of(DeviceLink(kind, client.identity)) for kind in client.links
        }
        twins = client.links.get(LinkKind.TWIN_ANSWERS)
        if isinstance(twins, ReplyLink) and not twins.wants_desired:
            features.discard(Feature.DESIRED_PROPERTIES)
        self._presence.wants(client, tuple(sorted(one.name for one in features if one is not None)))

    # from clients

    def received(self, link: RequestLink, delivery: Delivery) -> None:
        """A client has sent a twin request, or the answer to a method call."""
        client = link.client
        client.connection.accept_first(delivery)
        try:
            message = decode(delivery.data)
        except RemoteProtocolError as exc:
            self._passed_over(link, str(exc))
            return
        if link.kind is LinkKind.TWIN_REQUESTS:
            self._twin_requested(link, client, message)
        else:
            self._method_answered(link, client, message)

    def _method_answered(self, link: RequestLink, client: AmqpClient, message: AmqpMessage) -> None:
        answer = parse_method_answer(message)
        if isinstance(answer, Unknown):
            self._passed_over(link, answer.reason)
            return
        answered = MethodAnswered(client.client_id, answer.request_id, answer.status, message.body)
        self._head.tell(self._methods, answered)
        link.answered()

    def _twin_requested(self, link: RequestLink, client: AmqpClient, message: AmqpMessage) -> None:
        request = parse_twin_request(message)
        if isinstance(request, Unknown):
            self._passed_over(link, request.reason)
            return
        asked: object
        if request.operation is TwinOperation.GET:
            asked = GetTwin(client.client_id)
        elif request.operation is TwinOperation.PATCH:
            asked = PatchReported(client.client_id, request.patch)
        else:
            twins = client.links.get(LinkKind.TWIN_ANSWERS)
            if isinstance(twins, ReplyLink):
                twins.wants_desired = request.operation is TwinOperation.PUT
                self.update(client)
            self._answer(link, request.correlation_id, None)
            return
        self._ask(
            self._twins,
            asked,
            TWIN_LIMIT_S,
            lambda answer: self._answer(link, request.correlation_id, answer),
        )

    def _answer(self, link: RequestLink, correlation_id: MessageId | None, answer: object) -> None:
        """Send what became of a twin request; None: it was done at once."""
        client = link.client
        link.answered()
        self._touched(client)
        if isinstance(answer, Twin):
            status, reason = 200, ""
        elif isinstance(answer, ReportedPatched):
            status, reason = 204, ""
        elif isinstance(answer, TwinRefused):
            status, reason = answer.status, answer.reason
        else:
            status, reason = (200, "") if answer is None else (_TIMED_OUT, str(answer))
        if reason:
            log.warning("%s: twin request refused with %d: %s", client.client_id, status, reason)
        if correlation_id is None:
            return  # nobody waits for it
        if reason:
            message = twin_refusal(correlation_id, status, reason)
        else:
            body = answer.document if isinstance(answer, Twin) else b""
            message = twin_answer(correlation_id, status, body)
        self._send(client, LinkKind.TWIN_ANSWERS, message)

    # to clients

    def call(self, client: AmqpClient, message: CallMethod) -> None:
        """Pass a method call on; one that the client does not want any more is never answered."""
        call = method_call(message.name, message.request_id, message.payload)
        self._send(client, LinkKind.METHOD_CALLS, call)

    def desired(self, client: AmqpClient, message: DesiredPatch) -> None:
        """Pass a change of desired properties on; it counts as told when it was sent."""
        told = DesiredTold(message.identity, message.version)
        self._send(
            client,
            LinkKind.TWIN_ANSWERS,
            desired_patch(message.patch),
            lambda: self._head.tell(self._twins, told),
        )

    def _send(
        self,
        client: AmqpClient,
        kind: LinkKind,
        message: AmqpMessage,
        sent: Callable[[], None] = lambda: None,
    ) -> None:
        link = client.links.get(kind)
        if not isinstance(link, ReplyLink):
            return  # it has ended the link meanwhile
        if not link.send(encode(message), sent):
            log.warning("%s: no credit on its link for %s; one is dropped", client.client_id, kind.value)
        self._touched(client)

    def _passed_over(self, link: RequestLink, reason: str) -> None:
        log.warning("%s: %s", link.client.client_id, reason)
        link.answered()
