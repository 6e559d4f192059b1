"""Connections of bridges to other brokers: TCP or TLS, on the event loop of the thread that asks.

What fails is said in words that name the broker and the way out; libraries' errors end here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from actors.ports.bridges import BridgeAccess, LineHandler
from messaging.errors import ConfigError

log = logging.getLogger(__name__)

CONNECT_LIMIT_S: Final = 20.0  # name, TCP and TLS together
CLOSE_LIMIT_S: Final = 5.0  # for the other broker to take the last bytes
WRITE_BUFFER_BYTES: Final = 1024 * 1024
_HOSTNAME_MISMATCH: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_NOT_YET, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class BridgeLines:
    """Implements `actors.ports.bridges.Lines`."""

    def connect(self, access: BridgeAccess, handler: LineHandler) -> BridgeLine:
        """Begin to connect; ends in `opened` or `closed` of the handler."""
        return BridgeLine(access, handler)


class BridgeLine(asyncio.Protocol):
    """One connection; also the Transport that its bridge writes to."""

    certificates: tuple[bytes, ...] = ()

    def __init__(self, access: BridgeAccess, handler: LineHandler) -> None:
        """Start on the event loop of this thread."""
        self.peer = access.address
        self._access = access
        self._handler: LineHandler | None = handler
        self._transport: asyncio.Transport | None = None
        self._cut_off: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_event_loop()
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        access = self._access
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                # Reading the system's authorities takes tens of milliseconds.
                trust = await asyncio.to_thread(tls_context, access) if access.is_tls else None
                await self._loop.create_connection(
                    lambda: self, access.host, access.port, ssl=trust, server_hostname=None
                )
        except (OSError, UnicodeError, ConfigError) as exc:  # ssl.SSLError and TimeoutError are OSErrors
            self._end(why(exc, access))

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        connected = self._transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._handler is None:
            self._transport.abort()
        else:
            self._tell(self._handler.opened, self)

    def data_received(self, data: bytes) -> None:
        if self._handler is not None:
            self._tell(self._handler.received, data)

    def _tell(self, what: Callable[[Any], None], about: object) -> None:
        try:
            what(about)
        except Exception as exc:  # one bridge's connection must not end the others'
            log.exception("%s: what came of it could not be handled", self.peer)
            self._end(f"internal error: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
        self._end(f"the connection was lost{f': {exc}' if exc else ''}")

    def _end(self, reason: str) -> None:
        handler, self._handler = self._handler, None
        if self._transport is not None:
            self._transport.abort()
        if handler is not None:
            handler.closed(reason)

    # Line

    def abandon(self) -> None:
        """Give it up at once; nothing is told any more."""
        self._handler = None
        self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()

    # Transport

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Send what waits, and close; nothing is told any more."""
        self._handler = None
        if self._transport is not None and self._cut_off is None:
            self._transport.close()
            self._cut_off = self._loop.call_later(CLOSE_LIMIT_S, self._transport.abort)

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def authenticated(self) -> None:
        """Nothing: there is no admission in this direction."""


def tls_context(access: BridgeAccess) -> ssl.SSLContext:
    """Return whom a bridge trusts, and what it shows of itself.

    Raises:
        ConfigError: A file cannot be read or has no certificate; names it.
    """
    try:
        context = ssl.create_default_context(cafile=access.ca_file or None)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(f"ca_file '{access.ca_file}' cannot be used: {_reason(exc)}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.certificate_file:
        try:
            context.load_cert_chain(access.certificate_file, access.key_file or None)
        except OSError as exc:
            raise ConfigError(
                f"certificate_file '{access.certificate_file}' and key_file '{access.key_file}' cannot be "
                f"used: {_reason(exc)}"
            ) from exc
    return context


def why(exc: Exception, access: BridgeAccess) -> str:
    """Return why there is no connection, and what can be done about it."""
    if isinstance(exc, ConfigError):
        return str(exc)
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _untrusted(exc, access)
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {_reason(exc)}; is that port one for MQTT over TLS?"
    if isinstance(exc, ConnectionResetError) and access.is_tls:
        return "it ended the connection before TLS was there; is that port one for MQTT over TLS?"
    if isinstance(exc, TimeoutError):
        return f"no connection within {CONNECT_LIMIT_S:.0f} s"
    if isinstance(exc, (socket.gaierror, UnicodeError)):
        return f"the name '{access.host}' cannot be resolved: {_reason(exc)}"
    return f"cannot be reached: {_reason(exc)}"


def _untrusted(exc: ssl.SSLCertVerificationError, access: BridgeAccess) -> str:
    found = exc.verify_message
    if exc.verify_code in _HOSTNAME_MISMATCH:
        return (
            f"its certificate is not for '{access.host}' ({found}); use the name that is in the certificate "
            "as the host of its address"
        )
    if exc.verify_code in (_NOT_YET, _EXPIRED):
        return f"its certificate does not hold now ({found}); renew it, or set the clock of this device"
    trusted = f"by ca_file '{access.ca_file}'" if access.ca_file else "by this system"
    return f"its certificate is not trusted {trusted} ({found}); name its CA with ca_file in the settings"


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLError):
        return exc.reason or str(exc)
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
