"""The REST API of the hub: finds the route of a request, checks who asks, turns refusals into replies.

Order of the checks: path, method, api-version, credentials, permission, body.

Source: spec sheet security-daemon.md sections 4.3, 4.5 and 4.6
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import unquote

from messaging import sas
from messaging.errors import AuthError, IotHubError, StoreError, StoreFull
from messaging.text import quoted
from runtime.iothub import refusals, registry
from runtime.iothub.hub import IotHub
from runtime.iothub.rest import (
    certificate_calls,
    configuration_calls,
    message_calls,
    registry_calls,
    scope_calls,
    twin_calls,
)
from runtime.iothub.rest.call import Call, Route, decoded, error_reply, split_target
from runtime.net.http_messages import Response
from runtime.net.web_listener import WebRequest

log = logging.getLogger(__name__)

ROUTES: Sequence[Route] = (
    *registry_calls.ROUTES,
    *twin_calls.ROUTES,
    *configuration_calls.ROUTES,
    *certificate_calls.ROUTES,
    *message_calls.ROUTES,
    *scope_calls.ROUTES,
)

# Any version: SDKs, the extension of az and edge components each send another one, and all mean the same.
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?", re.ASCII)


class RestApi:
    """Answers requests. `handle` fits `runtime.net.web_listener.WebListener`."""

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
        except Exception:
            log.exception("%s %s could not be answered", request.method, quoted(request.target))
            error = refusals.server_error("an error of the hub itself; see its log")
        tracking_id = uuid.uuid4().hex
        log.debug("%s %s: %d %s (%s)", request.method, request.target, error.code, error, tracking_id)
        reply = error_reply(error, tracking_id, self._hub.clock.now_s())
        if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
            allow = ", ".join(self._methods(split_target(request.target)[0]))
            reply = Response(reply.status, reply.body, (*reply.headers, ("Allow", allow)))
        return reply

    async def _answer(self, request: WebRequest) -> Response:
        path, query = split_target(request.target)
        route, ids = self._find(request.method, path)
        _check_version(query)
        await self._authorize(request, route, ids, path)
        return await route.answer(Call(self._hub, request, ids, query))

    def _find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        for pattern, route in self._routes:
            found = pattern.fullmatch(path) if route.method == method else None
            if found is not None:
                return route, {name: decoded(text) for name, text in found.groupdict().items()}
        allowed = self._methods(path)
        if allowed:
            raise refusals.method_not_allowed(method, allowed)
        raise refusals.no_such_resource(path)

    def _methods(self, path: str) -> list[str]:
        """Return the methods that a path is there for."""
        return sorted({route.method for pattern, route in self._routes if pattern.fullmatch(path)})

    async def _authorize(self, request: WebRequest, route: Route, ids: Mapping[str, str], path: str) -> None:
        """Return when an account asks that may, or a device or module for which the call is there.

        Raises:
            AuthError, IotHubError: neither does.
        """
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
        elif route.by is not None:
            # The id comes from the path: the identity service of an edge writes audiences in small letters.
            identity = registry.identity_of(ids["device"], route.by or None)
            own = request.certificates[0] if request.certificates else None
            await self._hub.authenticate(identity, text, own, request.certificates[1:])
        else:
            raise refusals.unauthorized(
                f"{request.method} {quoted(path)} needs the token of a shared access policy (with skn)"
            )


def _pattern(path: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)) + "/?"


def _check_version(query: Mapping[str, str]) -> None:
    version = query.get("api-version")
    if version is None:
        raise refusals.bad_version("api-version is missing in the query string")
    if not _VERSION.fullmatch(version):
        raise refusals.bad_version(f"api-version {quoted(version)} is not of the form 2021-04-12")
