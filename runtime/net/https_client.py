"""Requests to a service of the cloud: HTTPS, or the Unix socket of the stand-in. Blocks: for worker threads.

What goes wrong comes as `CloudError` with the fault that a decision needs: away, not trusted, clock, refused.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from actors.upstream.connection import CloudFault, Fault
from messaging import sas
from messaging.errors import EdgeError
from messaging.text import quoted
from messaging.version import VERSION
from runtime.config.device_credentials import IdentityFiles

CONNECT_LIMIT_S: Final = 10.0
ANSWER_LIMIT_S: Final = 70.0  # of the reference; security-daemon.md section 4.3
MOST_BYTES: Final = 16 * 1024 * 1024  # of an answer: a page of a scope has 100 devices

# OpenSSL's: certificate is not yet valid, has expired. Source: openssl/x509_vfy.h
_NOT_NOW: Final = (9, 10)
_OTHER_NAME: Final = (62, 64)  # host name, IP address
_BY_STATUS: Final = {401: Fault.UNAUTHORIZED, 403: Fault.UNAUTHORIZED, 429: Fault.THROTTLED}


class CloudError(EdgeError):
    """The cloud was not reached, or did not do what was asked."""

    def __init__(self, fault: CloudFault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class Service(Struct, frozen=True):
    """Where a service of the cloud is found, and what its certificate is to be trusted by."""

    host: str
    port: int = 443
    ca_pem: str = ""  # besides the system's own authorities
    socket: Path | None = None  # in the place of host and port
    identity: IdentityFiles | None = None  # the certificate that we show; read at each connection

    def __str__(self) -> str:
        return self.host if self.port == 443 or self.socket else f"{self.host}:{self.port}"


class Answer(Struct, frozen=True):
    """An answer with a status below 300."""

    status: int
    headers: Mapping[str, str]  # names in small letters
    body: Any  # JSON; None when there is none


class HttpsClient:
    """One connection, kept open between requests; used by one thread at a time."""

    def __init__(self, service: Service, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self._service = service
        self._answer_limit_s = answer_limit_s
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> HttpsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make a request and return its answer.

        Raises:
            CloudError: no connection, no answer, or a status of 300 or more.
        """
        sent = {"User-Agent": f"edge-actors/{VERSION}", "Accept": "application/json", **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["Content-Type"] = "application/json; charset=utf-8"
        reused = self._connection is not None and self._connection.sock is not None
        try:
            return self._exchange(method, target, data, sent)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as exc:
            self.close()
            if not reused:
                raise self._away(f"it ended the connection ({exc})") from exc
        # One that was kept open may have been closed by the other side meanwhile.
        try:
            return self._exchange(method, target, data, sent)
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            raise self._away(f"it ended the connection ({exc})") from exc

    def _exchange(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection = self._connection
        if connection is None or connection.sock is None:  # the last answer was the last on that one
            connection = self._connection = self._connect()
        try:
            connection.request(method, target, data, dict(headers))
            response = connection.getresponse()
            content = response.read(MOST_BYTES + 1)
        except TimeoutError as exc:
            self.close()
            raise CloudError(
                CloudFault(Fault.TIMEOUT, f"{self._service} did not answer within {self._answer_limit_s:g} s")
            ) from exc
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            raise
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            raise self._away(f"it broke the connection ({exc})") from exc
        if len(content) > MOST_BYTES:
            self.close()
            raise self._no_hub(response.status)
        if response.status >= 300:
            raise self._refused(response.status, content, response.headers.get("Date"))
        try:
            answer = json.loads(content) if content else None
        except (ValueError, RecursionError) as exc:
            raise self._no_hub(response.status) from exc
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, answer)

    def _connect(self) -> http.client.HTTPConnection:
        service = self._service
        try:
            sock = self._open_socket()
        except ssl.SSLCertVerificationError as exc:
            raise CloudError(self._untrusted(exc)) from exc
        except ssl.SSLError as exc:
            raise self._away(f"it does not speak TLS there ({exc.reason})") from exc
        except TimeoutError as exc:
            raise self._away(f"no answer within {CONNECT_LIMIT_S:g} s") from exc
        except socket.gaierror as exc:
            raise self._away(f"its name is not known here: {exc.strerror}") from exc
        except OSError as exc:
            raise self._away(exc.strerror or str(exc)) from exc
        sock.settimeout(self._answer_limit_s)
        connection = http.client.HTTPConnection(service.host, service.port, timeout=self._answer_limit_s)
        connection.sock = sock
        connection.auto_open = 0  # it would do so without TLS
        return connection

    def _open_socket(self) -> socket.socket:
        service = self._service
        if service.socket is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(CONNECT_LIMIT_S)
            try:
                sock.connect(str(service.socket))
            except BaseException:
                sock.close()
                raise
            return sock
        context = ssl.create_default_context()
        if service.ca_pem:
            context.load_verify_locations(cadata=service.ca_pem)
        if service.identity is not None:
            _show(context, service.identity)
        sock = socket.create_connection((service.host, service.port), CONNECT_LIMIT_S)
        try:
            return context.wrap_socket(sock, server_hostname=service.host)
        except BaseException:
            sock.close()
            raise

    # what went wrong

    def _away(self, why: str) -> CloudError:
        reason = f"{self._service} cannot be reached: {quoted(why)[1:-1]}"
        return CloudError(CloudFault(Fault.UNREACHABLE, reason))

    def _no_hub(self, status: int) -> CloudError:
        text = f"{self._service} answers ({status}), but not as an IoT Hub does; is the host name right?"
        return CloudError(CloudFault(Fault.REFUSED, text, status))

    def _untrusted(self, exc: ssl.SSLCertVerificationError) -> CloudFault:
        if exc.verify_code in _NOT_NOW:
            text = (
                f"the certificate of {self._service} counts as invalid at the time of this device "
                f"({exc.verify_message}); set the clock of this device, or renew that certificate"
            )
            return CloudFault(Fault.CLOCK, text)
        if exc.verify_code in _OTHER_NAME:
            text = f"the certificate of {self._service} is for another name; check the host name"
        else:
            text = (
                f"the certificate of {self._service} is not trusted ({exc.verify_message}); if it is a "
                "stand-in, name its ca.pem with the setting cloud.ca"
            )
        return CloudFault(Fault.UNTRUSTED, text)

    def _refused(self, status: int, content: bytes, date: str | None) -> CloudError:
        name, text = _read_error(content)
        kind = _BY_STATUS.get(status, Fault.UNREACHABLE if status >= 500 else Fault.REFUSED)
        if kind is Fault.UNAUTHORIZED:
            if "Quota" in name:
                kind = Fault.QUOTA
            elif "expired" in text or abs(_ahead_s(date, time.time())) > sas.CLOCK_SKEW_S:
                kind = Fault.CLOCK
        said = f": {text}" if text else ""
        return CloudError(
            CloudFault(kind, f"{self._service} answers {status} {name}".rstrip() + said, status)
        )


def _show(context: ssl.SSLContext, identity: IdentityFiles) -> None:
    """Have a context show our certificate; another file by now is another certificate."""
    try:
        context.load_cert_chain(identity.cert, identity.key, password=_no_password)
    except (OSError, ValueError) as exc:
        said = exc.reason if isinstance(exc, ssl.SSLError) else getattr(exc, "strerror", None) or str(exc)
        text = (
            f"the certificate of this device cannot be used ({said}): '{identity.cert}' with the key "
            f"'{identity.key}'; `edge-actors config check` says what is wrong"
        )
        raise CloudError(CloudFault(Fault.UNAUTHORIZED, text)) from exc


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted")


def _ahead_s(date: str | None, now_s: float) -> float:
    """Return how far the clock of the other side is ahead of ours; 0 when it does not say."""
    try:
        return 0.0 if date is None else parsedate_to_datetime(date).timestamp() - now_s
    except ValueError:
        return 0.0


def _read_error(content: bytes) -> tuple[str, str]:
    """Return the name of an error and its text, both cut and on one line; "" where there is none.

    Source: spec sheet security-daemon.md sections 4.3, 4.6 and 5.2
    """
    try:
        body = json.loads(content)
        fields = [body.get(key) for key in ("Message", "errorMessage", "ErrorMessage", "message")]
        message = next((text for text in fields if isinstance(text, str) and text), "")
    except (ValueError, AttributeError, RecursionError):
        return "", ""
    name = ""
    if message.startswith("ErrorCode:"):
        name, _, message = message.removeprefix("ErrorCode:").partition(";")
    return name if name.isalnum() else "", quoted(message)[1:-1]
