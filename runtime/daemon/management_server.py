"""Serves the management API on its Unix socket, with a thread for each connection.

Requests here are rare and slow: a module that ends within its grace, a log that is followed for hours. So
each has a thread that may wait, and nothing but the socket is there before the first connection: HTTP is
imported with it.

Source: spec sheet security-daemon.md section 0.1
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from messaging.errors import EnvironmentFault

if TYPE_CHECKING:  # imported with the first connection
    from runtime.daemon.management_api import ManagementApi
    from runtime.net.http_exchange import HttpExchange
    from runtime.net.http_messages import HttpRequest, Pieces, Response

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "mgmt.sock"
SOCKET_MODE: Final = 0o600  # its folder is private as well
CONNECTIONS_PER_UID: Final = 50
BODY_BYTES: Final = 1024 * 1024
HEAD_BYTES: Final = 16 * 1024
SILENT_S: Final = 30.0  # a connection that asks nothing for so long is closed
READ_S: Final = 5.0  # from the first byte of a request to its last
WRITE_S: Final = 60.0  # for the peer to take a piece of an answer
END_S: Final = 1.0  # for answers under way when the edge stops
_READ_BYTES: Final = 16 * 1024


def management_socket(run_dir: Path) -> Path:
    """Return where the socket of an edge stands."""
    return run_dir / SOCKET_NAME


class ManagementServer:
    """The socket of one edge. `open` binds, `serve` begins to answer, `close` ends all."""

    def __init__(self, run_dir: Path) -> None:
        self._path = management_socket(run_dir)
        self._listening: socket.socket | None = None
        self._make_api: Callable[[], ManagementApi] | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._api: ManagementApi | None = None
        self._open_by_uid: Counter[int] = Counter()
        self._open: dict[socket.socket, Pieces | None] = {}
        self._closing = False

    def open(self) -> None:
        """Take the socket; who connects waits until `serve`. What a killed agent left there gives way.

        Raises:
            EnvironmentFault: it cannot be made.
        """
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._path.unlink(missing_ok=True)
            listening.bind(os.fspath(self._path))
            self._path.chmod(SOCKET_MODE)
            listening.listen()
        except OSError as exc:
            listening.close()
            raise EnvironmentFault(
                f"cannot open the management socket '{self._path}': {exc.strerror or exc}; "
                "repair the owner and mode of the run directory"
            ) from exc
        self._listening = listening

    def serve(self, make_api: Callable[[], ManagementApi]) -> None:
        """Answer from now on, with what is made at the first connection."""
        assert self._listening is not None
        self._make_api = make_api
        threading.Thread(target=self._accept, args=(self._listening,), name="management", daemon=True).start()

    def close(self) -> None:
        """Accept no more and end the connections; what a request has begun goes on without an answer."""
        with self._lock:
            self._closing = True
            still_open = dict(self._open)
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
            self._listening.close()
            self._path.unlink(missing_ok=True)
        for connection, pieces in still_open.items():
            if pieces is None:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            else:
                pieces.stop()
        with self._changed:  # a log that is followed comes to a proper end
            self._changed.wait_for(lambda: not any(self._open.values()), END_S)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                if self._closing:
                    return
                log.exception("the management API takes no connections any more")
                return
            threading.Thread(
                target=self._visited, args=(connection,), name="management-call", daemon=True
            ).start()

    def _visited(self, connection: socket.socket) -> None:
        from runtime.daemon.caller import Peer

        peer = Peer(connection)
        uid = peer.uid
        peer.close()
        try:
            with self._lock:
                if self._closing or self._open_by_uid[uid] >= CONNECTIONS_PER_UID:
                    return  # without an answer, as the reference does
                self._open_by_uid[uid] += 1
                self._open[connection] = None
            try:
                self._talk(connection)
            except OSError as exc:
                log.debug("management API: a caller is gone: %s", exc)
            except Exception:  # others have connections as well
                log.exception("management API: a request failed")
            finally:
                with self._lock:
                    self._open_by_uid[uid] -= 1
                    del self._open[connection]
                    self._changed.notify_all()
        finally:
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        from runtime.daemon.api import Request
        from runtime.net.http_exchange import HttpExchange
        from runtime.net.http_messages import Refusal, error_response

        http = HttpExchange(head_bytes=HEAD_BYTES, body_bytes=BODY_BYTES)
        goes_on = True
        while goes_on:
            try:
                asked = _next_request(connection, http)
                if asked is None:
                    return
                request = Request("", asked.method, asked.target, asked.header("content-type"), asked.body)
                response = self._answered_by().handle(request)
            except Refusal as refusal:
                response = error_response(refusal.status, refusal.message)
            connection.settimeout(WRITE_S)
            if response.pieces is None:
                connection.sendall(http.answer(response))
            else:
                self._send_pieces(connection, http, response, response.pieces)
            goes_on = not http.has_unread and http.start_next()

    def _answered_by(self) -> ManagementApi:
        with self._lock:
            if self._api is None:
                assert self._make_api is not None
                self._api = self._make_api()
            return self._api

    def _send_pieces(
        self, connection: socket.socket, http: HttpExchange, response: Response, pieces: Pieces
    ) -> None:
        with self._lock:
            self._open[connection] = pieces
            if self._closing:
                pieces.stop()
        connection.sendall(http.begin(response))
        # Somebody who follows a log says nothing more until he hangs up.
        gone = threading.Thread(target=_stop_when_gone, args=(connection, pieces), daemon=True)
        gone.start()
        try:
            for piece in pieces:
                if piece:
                    connection.sendall(http.piece(piece))
            connection.sendall(http.end())
        finally:
            with self._lock:
                self._open[connection] = None
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # one answer of this kind ends a connection
            gone.join()


def _next_request(connection: socket.socket, http: HttpExchange) -> HttpRequest | None:
    """Return the next request, None when the peer hung up or is silent.

    Raises:
        Refusal: it broke HTTP, was too large, or took too long.
    """
    from runtime.net.http_messages import Refusal

    ends_s = time.monotonic() + (SILENT_S if http.is_idle else READ_S)
    try:
        while (request := http.next_request()) is None:
            connection.sendall(http.go_on())
            was_idle = http.is_idle
            connection.settimeout(max(0.001, ends_s - time.monotonic()))
            data = connection.recv(_READ_BYTES)
            if not data and was_idle:
                return None
            if was_idle:
                ends_s = time.monotonic() + READ_S
            http.receive_data(data)
    except TimeoutError as exc:
        if http.is_idle:
            return None
        raise Refusal(408, f"the request was not complete within {READ_S:g} s") from exc
    return request


def _stop_when_gone(connection: socket.socket, pieces: Pieces) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    try:
        poll.poll()
    finally:
        pieces.stop()
