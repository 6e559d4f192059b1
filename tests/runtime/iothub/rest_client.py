"""Requests to the REST API without a wire, with the tokens that services and devices send."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from messaging.sas import decode_key, make_token
from runtime.iothub.hub import IotHub
from runtime.iothub.rest.api import RestApi
from runtime.net.web_listener import WebRequest
from tests.runtime.iothub.fakes import HOST

VERSION = "api-version=2021-04-12"


class RestClient:
    """Asks as an account; `reply` is what came last."""

    def __init__(self, hub: IotHub, policy: str = "iothubowner") -> None:
        self._hub = hub
        self._api = RestApi(hub)
        self.policy = policy
        self.status = 0
        self.headers: dict[str, str] = {}

    def token(self, audience: str = HOST, seconds: int = 60) -> str:
        key = self._hub.policies.find(self.policy).primary_key
        return make_token(audience, decode_key(key), int(self._hub.clock.now_s()) + seconds, self.policy)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        query: str = VERSION,
        certificates: tuple[bytes, ...] = (),
        **headers: str | None,
    ) -> Any:
        """Send a request and return the JSON of the reply; a header that is None is left out."""
        sent: dict[str, str | None] = {"authorization": self.token(), "content-type": "application/json"}
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        target = quote(path, safe="/%$") + (f"?{query}" if query else "")
        request = WebRequest(
            method,
            target,
            tuple((name, text) for name, text in sent.items() if text is not None),
            content,
            "test",
            certificates,
        )
        reply = await self._api.handle(request)
        self.status = reply.status
        self.headers = {name.lower(): text for name, text in reply.headers}
        return json.loads(reply.body) if reply.body else None

    async def refused(self, *arguments: Any, **keywords: Any) -> tuple[int, str, int]:
        """Send a request and return status, name and number of its refusal."""
        body = await self.ask(*arguments, **keywords)
        assert set(body) == {"Message", "ExceptionMessage", "errorCode"}, body
        name = body["Message"].partition(";")[0].removeprefix("ErrorCode:")
        assert self.headers["iothub-errorcode"] == name
        return self.status, name, body["errorCode"]
