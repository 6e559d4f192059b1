"""The workload API: what a module asks the security daemon. A request goes in, a reply comes out; no socket.

Stricter than the reference in one point: a socket serves its own module alone, where the reference lets any
module use any socket. Keys of issued certificates are EC P-256 where the reference makes RSA-2048.

Source: spec sheet security-daemon.md section 1
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from messaging.errors import AuthError, EdgeError
from runtime.daemon.api import Request, Route, find_route, read_body
from runtime.daemon.caller import Caller, ModuleContainer, ModuleProcess, is_module, is_user
from runtime.daemon.module_details import ModuleState, module_details
from runtime.net.http_messages import Refusal, Response, error_response, json_response
from runtime.security.certificates import EdgeCa
from runtime.security.key_store import KeyStore

if TYPE_CHECKING:  # heavy: imported where a certificate is issued
    from runtime.security.certificate_issue import IssuedCertificate

log = logging.getLogger(__name__)

COMMON_NAME_LIMIT = 64  # ub-common-name, RFC 5280 appendix A.1
IV_LENGTHS_BYTES = range(1, 129)  # OpenSSL takes no longer ones


class _SignRequest(msgspec.Struct):
    data: str


class _EncryptRequest(msgspec.Struct, rename="camel"):
    plaintext: str
    initialization_vector: str


class _DecryptRequest(msgspec.Struct, rename="camel"):
    ciphertext: str
    initialization_vector: str


class _ServerCertificateRequest(msgspec.Struct, rename="camel"):
    common_name: str


class WorkloadApi:
    """Answers the requests that come in by any module's socket.

    The callbacks run in the thread that calls `handle`.
    """

    def __init__(
        self,
        *,
        hub_host: str,
        keys: KeyStore,
        edge_ca: Callable[[], EdgeCa | None],
        process_of: Callable[[str], ModuleProcess | ModuleContainer | None],
        modules: Callable[[], Sequence[ModuleState]],
        now_s: Callable[[], float],
        trusted_pem: str = "",
    ) -> None:
        """Keep what is needed to answer.

        Args:
            hub_host: Host name of the IoT Hub, as it stands in tokens.
            keys: Signs and seals.
            edge_ca: The edge CA of this moment, or None while there is none.
            process_of: The process or container of a module by its name without `$`, None if it does not run.
            modules: What `GET /modules` lists.
            now_s: Seconds since 1970-01-01 UTC.
            trusted_pem: CA certificates that the trust bundle holds besides the edge CA.
        """
        self._trusted_pem = trusted_pem
        self._hub_host = hub_host
        self._keys = keys
        self._edge_ca = edge_ca
        self._process_of = process_of
        self._modules = modules
        self._now_s = now_s
        self._routes = (
            Route("GET", "/trust-bundle", self._trust_bundle),
            Route("GET", "/manifest-trust-bundle", self._manifest_trust_bundle),
            Route("GET", "/modules", self._list_modules),
            Route("GET", "/modules/", self._list_modules),
            Route("POST", "/modules/{m}/genid/{g}/sign", self._sign),
            Route("POST", "/modules/{m}/genid/{g}/encrypt", self._encrypt),
            Route("POST", "/modules/{m}/genid/{g}/decrypt", self._decrypt),
            Route("POST", "/modules/{m}/certificate/identity", self._identity_certificate),
            Route("POST", "/modules/{m}/genid/{g}/certificate/server", self._server_certificate),
        )

    def handle(self, request: Request, caller: Caller | None) -> Response:
        """Return the reply to one request; a refusal is a reply too.

        Args:
            request: What was asked.
            caller: The process that connected, or None when it ended or cannot be seen.
        """
        try:
            route, segments = find_route(self._routes, request)
            if "m" in segments:
                self._check_caller(request, segments["m"], caller)
            return route.answer(request, segments)
        except Refusal as refusal:
            return error_response(refusal.status, refusal.message)

    def _check_caller(self, request: Request, module_id: str, caller: Caller | None) -> None:
        module = module_id.removeprefix("$")
        if module == request.socket_module:
            uid = request.socket_uid
            if is_module(caller, self._process_of(module)) if uid is None else is_user(caller, uid):
                return
        log.warning(
            "workload API: process %s is not module '%s' and was refused",
            "unknown" if caller is None else caller.pid,
            module_id,
        )
        raise Refusal(403, "forbidden")

    def _trust_bundle(self, request: Request, segments: Mapping[str, str]) -> Response:
        ca = self._edge_ca()
        if ca is None:
            raise Refusal(404, 'certificate "aziot-edged-trust-bundle" not found')
        return json_response(200, {"certificate": ca.certificate_pem + self._trusted_pem})

    def _manifest_trust_bundle(self, request: Request, segments: Mapping[str, str]) -> Response:
        return json_response(200, {"certificate": ""})

    def _list_modules(self, request: Request, segments: Mapping[str, str]) -> Response:
        return json_response(200, {"modules": [module_details(module) for module in self._modules()]})

    def _sign(self, request: Request, segments: Mapping[str, str]) -> Response:
        data = _bytes_of(read_body(request, _SignRequest).data, "data")
        try:
            digest = self._keys.sign(segments["m"], data)
        except AuthError as exc:
            raise Refusal(500, f"failed to get module identity for {segments['m']}: {exc}") from exc
        return json_response(200, {"digest": _text_of(digest)})

    def _encrypt(self, request: Request, segments: Mapping[str, str]) -> Response:
        body = read_body(request, _EncryptRequest)
        plaintext = _bytes_of(body.plaintext, "plaintext")
        iv = _iv_of(body.initialization_vector)
        sealed = self._keys.encrypt(segments["m"], segments["g"], iv, plaintext)
        return json_response(200, {"ciphertext": _text_of(sealed)})

    def _decrypt(self, request: Request, segments: Mapping[str, str]) -> Response:
        body = read_body(request, _DecryptRequest)
        sealed = _bytes_of(body.ciphertext, "ciphertext")
        iv = _iv_of(body.initialization_vector)
        try:
            plaintext = self._keys.decrypt(segments["m"], segments["g"], iv, sealed)
        except AuthError as exc:
            raise Refusal(500, f"failed to decrypt for {segments['m']}: {exc}") from exc
        return json_response(200, {"plaintext": _text_of(plaintext)})

    def _identity_certificate(self, request: Request, segments: Mapping[str, str]) -> Response:
        from runtime.security import certificate_issue

        ca = self._issuing_ca(segments["m"])
        try:
            issued = certificate_issue.issue_identity(
                ca, self._hub_host, self._keys.device_id, segments["m"], self._now_s()
            )
        except EdgeError as exc:
            raise Refusal(500, f"failed to issue a certificate for {segments['m']}: {exc}") from exc
        return _certificate_response(issued)

    def _server_certificate(self, request: Request, segments: Mapping[str, str]) -> Response:
        from runtime.security import certificate_issue

        common_name = read_body(request, _ServerCertificateRequest).common_name
        if not 0 < len(common_name.encode()) <= COMMON_NAME_LIMIT:
            raise Refusal(500, f"commonName must have 1 to {COMMON_NAME_LIMIT} bytes")
        ca = self._issuing_ca(segments["m"])
        names = (common_name, segments["m"].removeprefix("$"))
        try:
            issued = certificate_issue.issue_server(ca, common_name, names, self._now_s())
        except EdgeError as exc:
            raise Refusal(500, f"failed to issue a certificate for {segments['m']}: {exc}") from exc
        return _certificate_response(issued)

    def _issuing_ca(self, module_id: str) -> EdgeCa:
        if not self._keys.has_module(module_id):
            raise Refusal(500, f"failed to get module identity for {module_id}: it has none on this edge")
        ca = self._edge_ca()
        if ca is None:
            raise Refusal(500, f"failed to issue a certificate for {module_id}: there is no edge CA yet")
        return ca


def _certificate_response(issued: IssuedCertificate) -> Response:
    content = {
        "privateKey": {"type": "key", "bytes": issued.private_key_pem},
        "certificate": issued.chain_pem,
        "expiration": datetime.fromtimestamp(issued.not_after_s, UTC).isoformat(),
    }
    return json_response(201, content)


def _bytes_of(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Refusal(400, f"invalid parameter: {name} is not base64") from exc


def _iv_of(text: str) -> bytes:
    iv = _bytes_of(text, "initializationVector")
    if len(iv) not in IV_LENGTHS_BYTES:
        first, last = IV_LENGTHS_BYTES[0], IV_LENGTHS_BYTES[-1]
        raise Refusal(400, f"invalid parameter: initializationVector must have {first} to {last} bytes")
    return iv


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
