"""Twins and direct methods over the connections of the link."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from actors.hub.client_services import InvokeMethod, MethodResult
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import GET_TWIN, OFF, UPDATE_REPORTED, HubMetrics
from actors.upstream.connection import CloudConnection, CloudFault
from actors.upstream.events import MethodCalled
from actors.upstream.messages import CloudRefused, CloudTwin, DesiredChanged, DesiredFollowed, ReportedSent
from actors.upstream.rate import is_probed
from actors.upstream.source import Source, TwinRequest
from messaging.envelope import Envelope

log = logging.getLogger(__name__)

# The cloud's caller decides how long to wait; this is when the hub gives up. hub-protocols.md section 6.1
METHOD_LIMIT_S: Final = 330.0
ANSWER_LIMIT_S: Final = METHOD_LIMIT_S + 10.0
_NO_TWIN: Final = "the cloud's answer is not a twin"


class _Twin(msgspec.Struct):
    """A twin as the cloud tells it; both sections stay as they came."""

    desired: msgspec.Raw
    reported: msgspec.Raw


class _Patch(msgspec.Struct):
    version: int = msgspec.field(name="$version")


class UpstreamServices:
    """A part of the actor of the link. Numbers of twin requests count down from -1."""

    def __init__(self, actor: EdgeActor, twins: str, methods: str, metrics: HubMetrics = OFF) -> None:
        self._metrics = metrics
        self._actor = actor
        self._twins = twins
        self._methods = methods
        self._numbers = itertools.count(-1, -1)
        self._calls: dict[
            int, tuple[CloudConnection, str]
        ] = {}  # correlation id → whose call, its request id

    # twins

    def ask(self, source: Source, envelope: Envelope, patch: bytes | None) -> None:
        """Take a request for the twin of a source: to fetch it, or to send a patch of what is reported."""
        source.twins.append(TwinRequest(envelope, patch))

    def send(self, source: Source) -> None:
        """Send what is asked and not on its way, in order, as far as somebody still waits for it."""
        now_s = self._actor.clock.monotonic_s()
        self._drop_late(source, now_s)
        connection = source.connection
        assert connection is not None
        for request in source.twins:
            if request.number:
                continue
            if not source.is_waited_for:
                source.moved_s = now_s
            request.number = next(self._numbers)
            if request.patch is None:
                connection.get_twin(request.number)
            else:
                connection.patch_reported(request.number, request.patch)

    def answered(self, source: Source, number: int, answer: bytes) -> None:
        """The cloud did what was asked."""
        request = self._taken(source, number)
        if request is None:
            return
        if request.patch is not None:
            self._actor.reply(ReportedSent(source.identity), request.envelope)
            return
        try:
            twin = msgspec.json.decode(answer, type=_Twin)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.error("upstream: twin of '%s': %s", source.identity, _NO_TWIN)
            self._actor.reply(CloudRefused(source.identity, 0, _NO_TWIN), request.envelope)
        else:
            told = CloudTwin(source.identity, bytes(twin.desired), bytes(twin.reported))
            self._actor.reply(told, request.envelope)

    def failed(self, source: Source, number: int, fault: CloudFault) -> None:
        """The cloud did not. What got no answer is asked again over the next connection."""
        if is_probed(fault.kind):
            return
        request = self._taken(source, number)
        if request is not None:
            self._refuse(source, request, fault.status, fault.reason)

    def lost(self, source: Source, fault: CloudFault | None) -> None:
        """The connection is gone; with an answer of the cloud for a reason, nothing more can be asked."""
        for request in source.twins:
            if request.number:
                self._metrics.repeated(source.identity, UPDATE_REPORTED if request.patch else GET_TWIN)
            request.number = 0
        if fault is not None:
            self._refuse_all(source, fault.status, fault.reason)

    def forget(self, sources: Iterable[Source]) -> None:
        """The link is down."""
        for source in sources:
            self._refuse_all(source, 0, "the link is down")

    def look(self, sources: Iterable[Source]) -> None:
        """Forget what nobody waits for any more and no connection has."""
        now_s = self._actor.clock.monotonic_s()
        for source in sources:
            if source.twins:
                self._drop_late(source, now_s)

    def _drop_late(self, source: Source, now_s: float) -> None:
        late = [r for r in source.twins if not r.number and r.envelope.deadline_s < now_s]
        for request in late:
            source.twins.remove(request)

    def _taken(self, source: Source, number: int) -> TwinRequest | None:
        for request in source.twins:
            if request.number == number:
                source.twins.remove(request)
                source.twin_done_s = self._actor.clock.monotonic_s()
                return request
        return None

    def _refuse_all(self, source: Source, status: int, reason: str) -> None:
        while source.twins:
            self._refuse(source, source.twins.popleft(), status, reason)

    def _refuse(self, source: Source, request: TwinRequest, status: int, reason: str) -> None:
        self._actor.reply(CloudRefused(source.identity, status, reason), request.envelope)

    def desired_followed(self, source: Source) -> None:
        """Patches of desired properties come from now on; a twin that is fetched later has those before."""
        if all(request.patch is not None or request.number for request in source.twins):
            self._actor.tell(self._twins, DesiredFollowed(source.identity))

    def desired_patched(self, source: Source, patch: bytes) -> None:
        """Desired properties were patched in the cloud."""
        try:
            version = msgspec.json.decode(patch, type=_Patch).version
        except (msgspec.MsgspecError, UnicodeDecodeError):
            log.error("upstream: a patch of the desired properties of '%s' has no $version", source.identity)
            return
        self._actor.tell(self._twins, DesiredChanged(source.identity, version, patch))

    # methods

    def called(self, source: Source, connection: CloudConnection, call: MethodCalled) -> None:
        """The cloud calls a method of a source's client."""
        invoke = InvokeMethod(source.identity, call.name, call.payload, METHOD_LIMIT_S, 0.0)
        number = self._actor.request(self._methods, invoke, ANSWER_LIMIT_S)
        self._calls[number] = connection, call.request_id

    def method_result(self, number: int, result: MethodResult) -> None:
        """The client answered."""
        self._answer(number, result.status, result.payload or b"null")

    def method_failed(self, number: int, status: int, reason: str) -> None:
        """The client did not; the caller is told why."""
        self._answer(number, status, msgspec.json.encode({"message": reason}))

    def _answer(self, number: int, status: int, payload: bytes) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            connection, request_id = call
            connection.answer_method(request_id, status, payload)
