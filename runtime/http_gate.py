"""Hands HTTP requests from the web listener to the HTTP head, which lives on the same event loop."""

from __future__ import annotations

import asyncio

from actors.http_head import HttpAnswer, HttpCall, HttpHandler
from runtime.http_exchange import Refusal, Response
from runtime.web_listener import WebRequest

NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
JSON = ("Content-Type", "application/json; charset=utf-8")


class HttpGate:
    """Implements `actors.http_head.HttpGate`; `answer` is for the listener."""

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
        if self._handler is None:
            raise Refusal(503, "the hub is starting; try again")
        answered: asyncio.Future[HttpAnswer] = asyncio.get_running_loop().create_future()
        path = request.target.partition("?")[0]
        call = HttpCall(request.method, path, request.headers, request.body, request.certificates)

        def answer(answer: HttpAnswer) -> None:
            if not answered.done():  # the caller may have gone
                answered.set_result(answer)

        self._handler.requested(call, answer)
        found = await answered
        return Response(found.status, found.body, (JSON, NO_SNIFFING))
