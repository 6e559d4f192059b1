"""Hands HTTP requests from the web listener to the HTTP head, which lives on the same event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import unquote

from actors.heads.http_head import PROXIED_CERTIFICATE, Answered, HttpAnswer, HttpCall, HttpHandler
from runtime.net.http_messages import Refusal, Response
from runtime.net.web_listener import WebRequest
from runtime.security.trust_bundle import ders

NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
JSON = ("Content-Type", "application/json; charset=utf-8")


class HttpGate:
    """Implements `actors.heads.http_head.HttpGate`; `answer` and `passed_on` are for the listener."""

    def __init__(self) -> None:
        self._handler: HttpHandler | None = None

    def open(self, handler: HttpHandler) -> None:
        """Hand requests to `handler` from now on."""
        self._handler = handler

    def close(self) -> None:
        """Hand over no more."""
        self._handler = None

    async def answer(self, request: WebRequest) -> Response:
        """Return what the head answers.

        Raises:
            Refusal: 503, there is no head at the moment.
        """
        handler = self._head()
        found = await _answer_of(handler.requested, _call(request))
        return Response(found.status, found.body, (JSON, NO_SNIFFING))

    async def passed_on(self, request: WebRequest) -> tuple[bytes, ...]:
        """Return the certificates, as DER, that a proxy has had from its client and passes on.

        Raises:
            Refusal: 401, it is not the one that may, or passes on something else; 503 as `answer`.

        Source: spec sheet hub-protocols.md sections 1.16 and 5.5
        """
        handler, call = self._head(), _call(request)
        found = await _answer_of(handler.certificate_passed_on, call)
        if found.status != 200:
            raise Refusal(found.status, str(json.loads(found.body)["message"]))
        try:
            [text] = call.all(PROXIED_CERTIFICATE)
            certificates = ders(unquote(text))
        except ValueError:
            certificates = ()
        if not certificates:
            raise Refusal(401, f"{PROXIED_CERTIFICATE} is no percent-encoded PEM certificate")
        return certificates

    def _head(self) -> HttpHandler:
        if self._handler is None:
            raise Refusal(503, "the hub is starting; try again")
        return self._handler


def _call(request: WebRequest) -> HttpCall:
    path = request.target.partition("?")[0]
    return HttpCall(request.method, path, request.headers, request.body, request.certificates)


async def _answer_of(ask: Callable[[HttpCall, Answered], None], call: HttpCall) -> HttpAnswer:
    answered: asyncio.Future[HttpAnswer] = asyncio.get_running_loop().create_future()

    def answer(answer: HttpAnswer) -> None:
        if not answered.done():  # the caller may have gone
            answered.set_result(answer)

    ask(call, answer)
    return await answered
