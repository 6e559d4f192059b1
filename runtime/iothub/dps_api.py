"""The provisioning service over HTTP: devices register, services keep enrollments.

Knows no socket.

Source: spec sheet security-daemon.md section 5.2; learn.microsoft.com: rest/api/iot-dps
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from messaging.errors import AuthError, IotHubError, StoreError
from messaging.text import quoted
from messaging.time_text import iso_utc
from runtime.iothub import enrollments, refusals
from runtime.iothub.enrollments import Kind
from runtime.iothub.provisioning import RETRY_AFTER_S, SCOPE_PREFIX, Provisioning, Registrant
from runtime.net.http_messages import Response
from runtime.net.web_listener import WebRequest

log = logging.getLogger(__name__)

_QUERY: Final = re.compile(r"\s*select\s+\*\s+from\s+(enrollments|enrollmentgroups)\s*", re.IGNORECASE)
_KINDS: Final[Mapping[str, Kind]] = {"enrollments": "enrollment", "enrollmentGroups": "enrollmentGroup"}


class DpsApi:
    """Answers requests. `authorize` says whether a token lets a service change (True) or read enrollments."""

    def __init__(self, service: Provisioning, authorize: Callable[[str, str, bool], None]) -> None:
        self._service = service
        self._authorize = authorize

    def serves(self, target: str) -> bool:
        """Whether a target is one of the provisioning service rather than of the hub."""
        segments = _segments(target)
        if segments[0] in (*_KINDS, "registrations"):
            return True
        # A device, too, may be called `registrations`.
        return len(segments) >= 3 and segments[1] == "registrations" and segments[0].startswith(SCOPE_PREFIX)

    async def answer(self, request: WebRequest) -> Response:
        """Answer one request; never raises."""
        try:
            return await self._answer(request)
        except AuthError as exc:
            return error_response(401002, str(exc))
        except IotHubError as exc:
            return error_response(exc.code, str(exc))
        except StoreError as exc:
            log.error("%s", exc)
            return error_response(500001, "the provisioning service could not store it; its log says why")

    async def _answer(self, request: WebRequest) -> Response:
        segments = _segments(request.target)
        _check_version(request.target)
        if segments[0] in _KINDS:
            return await self._answer_enrollments(request, segments)
        if segments[0] == "registrations":
            return await self._answer_records(request, segments)
        return await self._answer_device(request, segments)

    # ---- devices

    async def _answer_device(self, request: WebRequest, segments: Sequence[str]) -> Response:
        match request.method, segments[3:]:
            case "PUT", ["register"]:
                _check_content_type(request)
                registrant = self._registrant(request, segments)
                check_body(request.body, registrant)
                operation = await self._service.register(registrant)
                return _response(202, operation, ("Retry-After", str(RETRY_AFTER_S)))
            case "GET", ["operations", operation_id]:
                registrant = self._registrant(request, segments)
                return _response(200, await self._service.operation(registrant, operation_id))
            case "POST", []:
                registrant = self._registrant(request, segments)
                return _response(200, await self._service.registration(registrant.registration_id))
            case _, ["register"] | ["operations", _] | []:
                raise _wrong_method(request)
        raise _no_such_path(request)

    def _registrant(self, request: WebRequest, segments: Sequence[str]) -> Registrant:
        token = request.header("authorization")
        return self._service.authenticate(segments[0], segments[2], token, request.certificates)

    # ---- services

    async def _answer_enrollments(self, request: WebRequest, segments: Sequence[str]) -> Response:
        kind = _KINDS[segments[0]]
        changes = request.method in ("PUT", "DELETE")
        self._check_service(request, changes)
        if_match = request.header("if-match")
        match request.method, segments[1:]:
            case "POST", ["query"]:
                return self._answer_query(request, kind)
            case "GET", [name]:
                return _response(200, enrollments.shown(self._service.get(kind, name)))
            case "POST", [name, "attestationmechanism"]:
                self._check_service(request, changes=True)  # it shows keys
                document = enrollments.to_document(self._service.get(kind, name))
                return _response(200, document["attestation"])
            case "PUT", [name]:
                body = _json_body(request)
                put = await self._service.put(kind, name, body, if_match)
                return _response(200, enrollments.shown(put))
            case "DELETE", [name]:
                await self._service.delete(kind, name, if_match)
                return Response(204)
            case _, [_] | [_, "attestationmechanism"]:
                raise _wrong_method(request)
        raise _no_such_path(request)

    def _answer_query(self, request: WebRequest, kind: Kind) -> Response:
        query = _json_body(request).get("query")
        found = _QUERY.fullmatch(query) if isinstance(query, str) else None
        if found is None or found[1].lower() not in ("enrollments", f"{kind}s".lower()):
            raise refusals.argument_invalid(
                f"the query is not `SELECT * FROM {kind}s`, the only one there is"
            )
        return _response(200, [enrollments.shown(one) for one in self._service.list(kind)])

    async def _answer_records(self, request: WebRequest, segments: Sequence[str]) -> Response:
        self._check_service(request, request.method == "DELETE")
        match request.method, segments[1:]:
            case "GET", [name]:
                return _response(200, await self._service.registration(name))
            case "DELETE", [name]:
                await self._service.delete_registration(name)
                return Response(204)
            case _, [_]:
                raise _wrong_method(request)
        raise _no_such_path(request)

    def _check_service(self, request: WebRequest, changes: bool) -> None:
        path = unquote(request.target.partition("?")[0])
        self._authorize(request.header("authorization") or "", path, changes)


def error_response(code: int, message: str) -> Response:
    """Return a refusal in the form of the provisioning service, over HTTP and over MQTT."""
    body = {
        "errorCode": code,
        "trackingId": secrets.token_hex(16),
        "message": message,
        "timestampUtc": iso_utc(time.time()),
    }
    return _response(code // 1000, body)


def check_body(body: bytes, registrant: Registrant) -> None:
    """Return when the body of a registration is one of this device.

    Raises:
        IotHubError: 400 it is not.
    """
    named = _json_object(body).get("registrationId")
    if named is not None and str(named).lower() != registrant.registration_id.lower():
        raise refusals.argument_invalid(
            f"registrationId in the body is {quoted(str(named))}, and it is '{registrant.registration_id}' "
            "that has proven who it is"
        )


def _response(status: int, content: object, *headers: tuple[str, str]) -> Response:
    return Response(status, msgspec.json.encode(content), headers)


def _segments(target: str) -> list[str]:
    path = target.partition("?")[0]
    return [unquote(segment) for segment in path.removeprefix("/").split("/")]


def _check_version(target: str) -> None:
    if "api-version=" not in target.partition("?")[2]:
        raise IotHubError(400001, "InvalidProtocolVersion", "the query string has no api-version")


def _json_body(request: WebRequest) -> dict[str, Any]:
    _check_content_type(request)
    return _json_object(request.body)


def _check_content_type(request: WebRequest) -> None:
    content_type = (request.header("content-type") or "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise IotHubError(
            415001, "UnsupportedMediaType", f"Content-Type {quoted(content_type)} is not application/json"
        )


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(data or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise refusals.argument_invalid(f"the body is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise refusals.argument_invalid("the body is not a JSON object")
    return body


def _wrong_method(request: WebRequest) -> IotHubError:
    path = request.target.partition("?")[0]
    return IotHubError(405001, "MethodNotAllowed", f"{quoted(path)} does not take {request.method}")


def _no_such_path(request: WebRequest) -> IotHubError:
    return IotHubError(404000, "NotFound", f"there is nothing at {quoted(request.target.partition('?')[0])}")
