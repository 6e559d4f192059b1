"""Accepts TCP connections, with TLS or without, as many as its admission lets in."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from actors.heads.admission import MOST_CONNECTIONS, Admission
from runtime.agent.connection_keeper import GivenConnections
from runtime.net.tls_connection import TlsConnection
from runtime.net.tls_server import ServerCertificate

log = logging.getLogger(__name__)

_UNTRUSTED: Final = "the client does not trust this server: give it the CA, or mind the name it uses"
# By the names that OpenSSL has for what ended a handshake.
_HINTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": _UNTRUSTED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _UNTRUSTED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _UNTRUSTED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "to the client the certificate has expired: compare the clocks",
    "HTTP_REQUEST": "the client does not speak TLS, which this port wants",
    "WRONG_VERSION_NUMBER": "the client does not speak TLS, which this port wants",
    "UNSUPPORTED_PROTOCOL": "the client's version of TLS is too old; it has to be 1.2 or 1.3",
}

HANDSHAKE_LIMIT_S: Final = 10.0
# A handshake costs the loop a millisecond. When all clients come back at once, the others wait for no more
# of them in a row than this: who is connected is served in between (figures in actors/DESIGN.md).
ACCEPTED_AT_ONCE: Final = 2
ACCEPT_RETRY_S: Final = 1.0
TOLD_EVERY_S: Final = 1.0  # of connections that are turned away: a line for each would fill the disk
SPARE_DESCRIPTORS: Final = 256  # for everything but connections


class TcpListener:
    """Listening sockets that somebody else owns, on the event loop of the thread that opens it.

    Accepts by itself: `create_server(ssl=…)` tells nobody of a TLS handshake that failed, and closes the
    sockets it was given, with everybody who waits in their backlog.
    """

    def __init__(
        self,
        speaks: str,
        tls: Iterable[socket.socket],
        plain: Iterable[socket.socket],
        certificate: ServerCertificate | None,
        admission: Admission,
        kept: GivenConnections | None = None,
    ) -> None:
        """Take the sockets. `speaks` names the protocol for the log; `admission` and `kept` may be shared.

        Without `tls` sockets there need be no certificate.
        """
        self._speaks = speaks
        self._certificates: dict[socket.socket, ServerCertificate | None] = dict.fromkeys(tls, certificate)
        self._certificates.update(dict.fromkeys(plain))
        self._loop: asyncio.AbstractEventLoop
        self._make_protocol: Callable[[Visit], asyncio.Protocol]
        self._handshakes: set[asyncio.Task[None]] = set()
        self._admission = admission
        self._kept = kept
        self._turned_away = 0  # since the log was last told
        self._told_at_s = -TOLD_EVERY_S
        self._is_open = False

    def open(self, make_protocol: Callable[[Visit], asyncio.Protocol]) -> None:
        """Accept connections; each gets a protocol once its handshake is over, and that ends its visit."""
        self._loop = asyncio.get_event_loop()
        self._make_protocol = make_protocol
        self._is_open = True
        for listening, certificate in self._certificates.items():
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)
            address = "{}:{}".format(*listening.getsockname()[:2])
            log.info("%s %s on %s", self._speaks, "over TLS" if certificate else "without TLS", address)

    def close(self) -> None:
        """Accept no more; who comes waits in the backlog."""
        if self._is_open:
            self._is_open = False
            for listening in self._certificates:
                self._loop.remove_reader(listening)
            for handshake in list(self._handshakes):
                handshake.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # no descriptors or memory left: whoever comes waits in the backlog
                log.error("connections have to wait: %s", exc)
                self._loop.remove_reader(listening)
                self._loop.call_later(ACCEPT_RETRY_S, self._accept_again, listening)
                return
            refusal = self._admission.enter(address[0])
            if refusal:
                accepted.close()
                self._turn_away(refusal)
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            visit = Visit(self._admission, address[0], address[1], accepted, self._kept)
            certificate = self._certificates[listening]
            context = certificate.context if certificate else None
            handshake = self._loop.create_task(self._shake_hands(accepted, visit, context))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if self._is_open:
            self._loop.add_reader(listening, self._accept, listening)

    def _turn_away(self, reason: str) -> None:
        self._turned_away += 1
        now_s = self._loop.time()
        if now_s - self._told_at_s >= TOLD_EVERY_S:
            log.warning("%d connections turned away: %s", self._turned_away, reason)
            self._turned_away, self._told_at_s = 0, now_s

    async def _shake_hands(
        self, accepted: socket.socket, visit: Visit, context: ssl.SSLContext | None
    ) -> None:
        try:
            protocol = self._make_protocol(visit)
            if context is None:
                await self._loop.connect_accepted_socket(lambda: protocol, accepted)
                return
            tls = TlsConnection(protocol, context)
            await self._loop.connect_accepted_socket(lambda: tls, accepted)
            try:
                async with asyncio.timeout(HANDSHAKE_LIMIT_S):
                    await tls.established
            except TimeoutError:
                raise TimeoutError(f"not over within {HANDSHAKE_LIMIT_S:g} s") from None
            finally:
                if not tls.established.done() or tls.established.cancelled():
                    tls.abort()
        except OSError as exc:  # ssl.SSLError and TimeoutError are such
            reason = getattr(exc, "reason", None) or str(exc) or type(exc).__name__
            hint = _HINTS.get(reason)
            log.warning("%s: TLS handshake failed: %s%s", visit.peer, reason, f"; {hint}" if hint else "")
            visit.end()
        except BaseException:
            visit.end()
            raise


class Visit:
    """One accepted connection as the admission counts it, from accept to its end."""

    def __init__(
        self,
        admission: Admission,
        address: str,
        port: int,
        accepted: socket.socket | None = None,
        kept: GivenConnections | None = None,
    ) -> None:
        self.peer = f"{address}:{port}"
        self._socket = accepted
        self._kept = kept
        self._admission = admission
        self._address = address
        self._stranger = True
        self._ended = False

    def authenticated(self) -> None:
        """The peer has said who it is."""
        if self._stranger and not self._ended:
            self._stranger = False
            self._admission.authenticated(self._address)
            if self._kept is not None and self._socket is not None:
                self._kept.give(self._socket)

    def acknowledge_now(self) -> None:
        """Have the kernel acknowledge what has come, instead of waiting for something to send along with it.

        Linux forgets this soon, so it is said again after each read.
        """
        if self._socket is not None:
            with suppress(OSError):  # closed meanwhile
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def end(self) -> None:
        """The connection is gone, its descriptor not yet closed. Also where it may have been said already."""
        if not self._ended:
            self._ended = True
            if self._kept is not None and self._socket is not None and not self._stranger:
                self._kept.end(self._socket)
            self._admission.leave(self._address, stranger=self._stranger)


def most_connections() -> int:
    """Return how many connections this process can carry, after raising its limit of descriptors.

    Few systems let a program open more than 1024 files unless it asks.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, wanted - SPARE_DESCRIPTORS)
