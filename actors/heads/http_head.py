"""The HTTP head: modules call direct methods of other clients, and one may pass on certificates of its own.

Understands: Verdict, MethodResult, MethodFailed, RequestFailed, DeadlinePassed; and requests, from its gate
             on the same thread
Tells:       hub/identities (Authenticate), hub/methods (InvokeMethod)
Started by:  HubRootActor, on the event loop of the listeners; a restart leaves open requests unanswered

Source: hub-protocols.md sections 1.16, 5.5, 6.1, 8.4 rows 36 to 42
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import unquote

from msgspec import Struct

from actors.addresses import IDENTITIES, METHODS
from actors.hub.client_services import InvokeMethod, MethodFailed, MethodResult
from actors.hub.identities import AGENT_LIMIT_S
from actors.hub.identity_messages import ACCEPTED, TRY_AGAIN, Authenticate, Verdict
from actors.kernel.base import EdgeActor
from messaging.envelope import Secret
from messaging.errors import ConfigError, RemoteProtocolError
from messaging.identity import Identity
from messaging.lifecycle import DeadlinePassed, RequestFailed
from messaging.method_call import MethodCall, encode_result, parse_call
from messaging.text import quoted

CALLER: Final = "x-ms-edge-moduleid"
PROXIED_CERTIFICATE: Final = "x-ms-edge-clientcert"
EXTRA_S: Final = 5.0  # beyond a call's own time-outs; those say more

_METHODS = re.compile(r"/twins/([^/]+)(?:/modules/([^/]+))?/methods/?")


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request that arrived."""

    method: str
    path: str  # without query, still percent-encoded
    headers: tuple[tuple[str, str], ...] = field(repr=False)  # names in lower case
    body: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(default=(), repr=False)  # what the TLS client showed

    def all(self, name: str) -> list[str]:
        """Return the values of all headers of a name, given in lower case."""
        return [value for key, value in self.headers if key == name]


class HttpAnswer(Struct, frozen=True):
    """What to answer; JSON."""

    status: int
    body: bytes


Answered = Callable[[HttpAnswer], None]


class HttpHandler(Protocol):
    """Takes requests."""

    def requested(self, call: HttpCall, answered: Answered) -> None: ...

    def certificate_passed_on(self, call: HttpCall, answered: Answered) -> None:
        """Answer 200 when `call` is of the module that may pass on the certificate of a client of its own."""
        ...


class HttpGate(Protocol):
    """Where requests come from."""

    def open(self, handler: HttpHandler) -> None:
        """Hand requests to `handler`, on the loop of this thread."""
        ...

    def close(self) -> None:
        """Hand over no more."""
        ...


@dataclass(frozen=True, slots=True)
class _Refused(Exception):  # ends the handling of a request, here and nowhere else
    status: int
    reason: str


class _Open(Struct, frozen=True):
    target: str
    caller: str
    call: MethodCall
    answered: Answered


class HttpHead(EdgeActor):
    """Checks who calls, then has the method called. No request waits for another."""

    def __init__(self, gate: HttpGate, device_id: str, proxy_module_id: str) -> None:
        self._gate = gate
        self._device_id = device_id
        self._proxy = _id(device_id, proxy_module_id)
        self._open: dict[int, _Open] = {}  # by correlation id of what was asked for it last
        self._vouching: dict[int, Answered] = {}  # by that of the question whether it is the proxy

    def on_start(self) -> None:
        self._gate.open(self)

    def on_stop(self) -> None:
        self._gate.close()

    def describe(self) -> dict[str, Any]:
        return {"requests": len(self._open)}

    # requests, handed over by the gate

    def requested(self, call: HttpCall, answered: Answered) -> None:
        """A request arrived."""
        try:
            target = _target_of(call)
            parsed = _parsed(call.body)
            authenticate = self._authentication(call)
            asked = _Open(target, authenticate.identity, parsed, answered)
        except _Refused as refused:
            answered(_error(refused.status, refused.reason))
            return
        self._open[self.request(IDENTITIES, authenticate, AGENT_LIMIT_S + 2)] = asked

    def certificate_passed_on(self, call: HttpCall, answered: Answered) -> None:
        """A request has the certificate of somebody else, whose key the hub has seen no proof of."""
        tokens = call.all("authorization")
        if len(tokens) != 1:
            reason = f"{PROXIED_CERTIFICATE} needs the token of '{self._proxy}' in Authorization, once"
            answered(_error(401, reason))
            return
        question = Authenticate(self._proxy, Secret(tokens[0].encode()))
        self._vouching[self.request(IDENTITIES, question, AGENT_LIMIT_S + 2)] = answered

    def _authentication(self, call: HttpCall) -> Authenticate:
        """Return the question who calls."""
        callers = call.all(CALLER)
        if len(callers) != 1 or callers[0].count("/") != 1 or not all(callers[0].split("/")):
            raise _Refused(400, f"header {CALLER} has to be there once, as DEVICE/MODULE")
        device_id, _, module_id = callers[0].partition("/")
        if device_id != self._device_id:
            raise _Refused(401, f"module {quoted(callers[0])} is not of this edge device")
        if call.certificates or call.all(PROXIED_CERTIFICATE):
            # A certificate decides wherever there is one, and a module has none of its own (section 5.5).
            raise _Refused(401, f"module '{callers[0]}' cannot prove itself with a certificate")
        tokens = call.all("authorization")
        if len(tokens) != 1:
            raise _Refused(401, f"header Authorization is there {len(tokens)} times; once is needed")
        return Authenticate(_id(device_id, module_id), Secret(tokens[0].encode()))

    # answers

    def on_verdict(self, message: Verdict) -> None:
        vouched = self._vouching.pop(self.envelope.correlation_id, None)
        if vouched is not None:
            statuses = {ACCEPTED: 200, TRY_AGAIN: 503}
            vouched(_error(statuses.get(message.return_code, 401), message.reason))
            return
        asked = self._open.pop(self.envelope.correlation_id, None)
        if asked is None:
            return
        if message.return_code == TRY_AGAIN:
            asked.answered(_error(503, message.reason))
        elif message.return_code != ACCEPTED:
            asked.answered(_error(401, message.reason))
        else:
            call = asked.call
            invoke = InvokeMethod(
                asked.target,
                call.name,
                call.payload,
                call.response_timeout_s,
                call.connect_timeout_s,
                asked.caller,
            )
            limit_s = call.response_timeout_s + call.connect_timeout_s + EXTRA_S
            self._open[self.request(METHODS, invoke, limit_s)] = asked

    def on_method_result(self, message: MethodResult) -> None:
        self._answer(
            self.envelope.correlation_id, HttpAnswer(200, encode_result(message.status, message.payload))
        )

    def on_method_failed(self, message: MethodFailed) -> None:
        self._answer(self.envelope.correlation_id, _error(message.status, message.reason))

    def on_request_failed(self, message: RequestFailed) -> None:
        self._answer(self.envelope.correlation_id, _error(500, message.reason))

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._answer(message.correlation_id, _error(500, f"{message.address} does not answer"))

    def _answer(self, correlation_id: int, answer: HttpAnswer) -> None:
        asked = self._open.pop(correlation_id, None)
        answered = asked.answered if asked is not None else self._vouching.pop(correlation_id, None)
        if answered is not None:
            answered(answer)


def _target_of(call: HttpCall) -> str:
    """Return the id of the client whose method is called."""
    found = _METHODS.fullmatch(call.path)
    if found is None:
        raise _Refused(404, "there is nothing at this path")
    if call.method != "POST":
        raise _Refused(405, f"{call.method} is not for methods; POST is")
    device_id, module_id = (None if part is None else unquote(part) for part in found.groups())
    assert device_id is not None
    return _id(device_id, module_id)


def _id(device_id: str, module_id: str | None) -> str:
    try:
        return Identity(device_id, module_id).id
    except ConfigError as exc:
        raise _Refused(400, str(exc)) from exc


def _parsed(body: bytes) -> MethodCall:
    try:
        return parse_call(body)
    except RemoteProtocolError as exc:
        raise _Refused(400, str(exc)) from exc


def _error(status: int, reason: str) -> HttpAnswer:
    return HttpAnswer(status, json.dumps({"message": reason}).encode())
