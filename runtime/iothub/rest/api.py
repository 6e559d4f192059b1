"""The REST API of the hub: finds the route of a request, checks who asks, turns refusals into replies.

Order of the checks: path, method, api-version, credentials, permission, body.

Source: spec sheet security-daemon.md sections 4.3, 4.5 and 4.6
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from messaging import sas
from messaging.errors import AuthError, IotHubError, StoreError, StoreFull
from messaging.text import quoted
from runtime.http_exchange import Response
from runtime.iothub import refusals, registry
from runtime.iothub.hub import IotHub
from runtime.iothub.rest import configuration_calls, message_calls, registry_calls, scope_calls, twin_calls
from runtime.iothub.rest.call import Call, Route, decoded, error_reply, split_target
from runtime.web_listener import WebRequest

log = logging.getLogger(__name__)

ROUTES: Sequence[Route] = (
    *registry_calls.ROUTES,
    *twin_calls.ROUTES,
    *configuration_calls.ROUTES,
    *message_calls.ROUTES,
    *scope_calls.ROUTES,
)

# Any version: SDKs, the extension of az and edge components each send another one, and all mean the same.
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?", re.ASCII)


class RestApi:
    """Answers requests. `handle` fits `runtime.web_listener.WebListener`."""

    def __init__(self, hub: IotHub) -> None:
        self._hub = hub
        self._routes = [(re.compile(_pattern(route.path)), route) for route in ROUTES]

    async def handle(self, request: WebRequest) -> Response:
        """Answer one request; what is refused is answered, too."""
        try:
            return await self._answer(request)
        except IotHubError as exc:
            error = exc
        except AuthError as exc:
            error = refusals.unauthorized(str(exc))
        except StoreFull as exc:
            log.error("%s", exc)
            error = refusals.unavailable("the hub has no space left on its disk")
        except StoreError as exc:
            log.error("%s", exc)
            error = refusals.server_error("the database of the hub cannot do this now; see its log")
        tracking_id = uuid.uuid4().hex
        log.debug("%s %s: %d %s (%s)", request.method, request.target, error.code, error, tracking_id)
        return error_reply(error, tracking_id, self._hub.clock.now_s())

    async def _answer(self, request: WebRequest) -> Response:
        path, query = split_target(request.target)
        route, ids = self._find(request.method, path)
        _check_version(query)
        policy = await self._authorize(request, route, ids, path)
        return await route.answer(Call(self._hub, request, ids, query, policy))

    def _find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        allowed = []
        for pattern, route in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if route.method == method:
                return route, {name: decoded(text) for name, text in found.groupdict().items()}
            allowed.append(route.method)
        if allowed:
            raise refusals.method_not_allowed(method, allowed)
        raise refusals.no_such_resource(path)

    async def _authorize(
        self, request: WebRequest, route: Route, ids: Mapping[str, str], path: str
    ) -> str | None:
        """Return the name of the account that asks, None when a device or module asks by itself."""
        text = request.header("authorization")
        if text is None and not request.certificates:
            raise refusals.unauthorized("the header Authorization is missing")
        token = None if text is None else sas.parse_token(text)
        if token is not None and token.key_name:
            policy = self._hub.policies.find(token.key_name)
            now_s = self._hub.clock.now_s()
            sas.check_resource(token, policy.keys, policy.name, unquote(path), self._hub.hosts, now_s)
            if not policy.permissions & route.needs:
                raise refusals.not_permitted(
                    f"the shared access policy '{policy.name}' does not allow {request.method} {quoted(path)}"
                )
            return policy.name
        if not route.by:
            raise refusals.unauthorized(
                f"{request.method} {quoted(path)} needs the token of a shared access policy (with skn)"
            )
        await self._check_identity(request, text, route, ids)
        return None

    async def _check_identity(
        self, request: WebRequest, token: str | None, route: Route, ids: Mapping[str, str]
    ) -> None:
        # The id is taken from the path: the identity service of an edge writes its audience in small letters.
        own, *issuers = request.certificates or (None,)
        refused: AuthError | None = None
        for module_id in route.by:
            identity = registry.identity_of(ids["device"], module_id or None)
            try:
                await self._hub.authenticate(identity, token, own, [der for der in issuers if der])
            except AuthError as exc:
                refused = refused or exc
            else:
                return
        if refused is not None:
            raise refused


def _pattern(path: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)) + "/?"


def _check_version(query: Mapping[str, str]) -> None:
    version = query.get("api-version")
    if version is None:
        raise refusals.bad_version("api-version is missing in the query string")
    if not _VERSION.fullmatch(version):
        raise refusals.bad_version(f"api-version {quoted(version)} is not of the form 2021-04-12")
