"""Direct methods: passes calls to the clients they are for, and their answers back.

Understands: InvokeMethod, MethodAnswered, HeadStarted, ClientChanged, ClientGone, CallDue
Tells:       heads (CallMethod), whoever called (MethodResult, MethodFailed)
Started by:  HubRootActor; a restart forgets the calls, whose callers are told by their deadline

Calls are not kept: they need a client that is there, or comes within their connect time-out.
Source: hub-protocols.md sections 6.1, 7.5
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from msgspec import Struct

from actors.hub.client_services import (
    CallMethod,
    ClientChanged,
    ClientGone,
    HeadStarted,
    InvokeMethod,
    MethodAnswered,
    MethodFailed,
    MethodResult,
)
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from messaging.envelope import Envelope
from messaging.kinds import message
from messaging.topics import Feature

NOT_FOUND: Final = 404
TIMED_OUT: Final = 504
TOO_MANY: Final = 429
MOST_CALLS: Final = 5000  # open at the same time, of all callers


@message
class CallDue:
    """Timer: a call has waited long enough, for its client to connect or to answer."""

    request_id: str
    connecting: bool


class _Call(Struct):
    envelope: Envelope  # of the InvokeMethod, to be answered
    asked: InvokeMethod
    since_s: float  # monotonic
    passed_on: bool = False


class MethodActor(EdgeActor):
    """Knows which head serves which client that wants methods, and which calls are open."""

    def __init__(self, metrics: HubMetrics = OFF) -> None:
        self._metrics = metrics
        self._clients: dict[str, str] = {}  # identity → its head, for those that want methods
        self._calls: dict[str, _Call] = {}  # by request id

    def on_head_started(self, message: HeadStarted) -> None:
        started = self.envelope.sender
        self._clients = {client: head for client, head in self._clients.items() if head != started}

    def on_client_changed(self, message: ClientChanged) -> None:
        if Feature.METHODS.name not in message.features:
            self._clients.pop(message.identity, None)
            return
        self._clients[message.identity] = self.envelope.sender
        for request_id, call in self._calls.items():
            if call.asked.identity == message.identity and not call.passed_on:
                self._pass_on(request_id, call)

    def on_client_gone(self, message: ClientGone) -> None:
        if self._clients.get(message.identity) == self.envelope.sender:
            del self._clients[message.identity]

    def on_invoke_method(self, message: InvokeMethod) -> None:
        if len(self._calls) >= MOST_CALLS:
            self.reply(MethodFailed(TOO_MANY, f"{MOST_CALLS} method calls are open already"))
            return
        request_id = str(uuid.uuid4())
        call = _Call(self.envelope, message, self.clock.monotonic_s())
        if message.identity in self._clients:
            self._calls[request_id] = call
            self._pass_on(request_id, call)
        elif message.connect_timeout_s > 0:
            self._calls[request_id] = call
            self.set_timer(message.connect_timeout_s, CallDue(request_id, connecting=True))
        else:
            self._end(call, _absent(message.identity))

    def on_method_answered(self, message: MethodAnswered) -> None:
        request_id = message.request_id.lower()
        call = self._calls.get(request_id)
        if call is None or not call.passed_on or call.asked.identity != message.identity:
            return  # too late, or nobody asked
        del self._calls[request_id]
        self._end(call, MethodResult(message.status, message.payload))

    def on_call_due(self, message: CallDue) -> None:
        call = self._calls.get(message.request_id)
        if call is None or call.passed_on == message.connecting:
            return
        del self._calls[message.request_id]
        identity, limit_s = call.asked.identity, call.asked.response_timeout_s
        if message.connecting:
            self._end(call, _absent(identity))
        else:
            reason = f"'{identity}' did not answer call {message.request_id} within {limit_s:g} s"
            self._end(call, MethodFailed(TIMED_OUT, reason))

    def describe(self) -> dict[str, Any]:
        return {"clients": tuple(sorted(self._clients)), "calls": len(self._calls)}

    def _end(self, call: _Call, answer: MethodResult | MethodFailed) -> None:
        took_s = self.clock.monotonic_s() - call.since_s
        self._metrics.method_called(call.asked.caller, call.asked.identity, took_s)
        self.reply(answer, call.envelope)

    def _pass_on(self, request_id: str, call: _Call) -> None:
        asked = call.asked
        call.passed_on = True
        self.tell(
            self._clients[asked.identity],
            CallMethod(asked.identity, request_id, asked.name, asked.payload),
        )
        self.set_timer(asked.response_timeout_s, CallDue(request_id, connecting=False))


def _absent(identity: str) -> MethodFailed:
    return MethodFailed(NOT_FOUND, f"'{identity}' is not connected, or takes no method calls")
