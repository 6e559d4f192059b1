"""Serves metrics over plain HTTP on sockets of somebody else.

Source: spec sheet observability.md section 1
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from actors.metrics.metrics import Answered, Job
from messaging.exposition import CONTENT_TYPE
from messaging.text import quoted
from runtime.daemon.http_connection import HttpConnection, Limits
from runtime.net.http_messages import HttpRequest, Refusal, Response

log = logging.getLogger(__name__)

PATH: Final = "/metrics"
MOST_CONNECTIONS: Final = 32  # whoever comes above is closed without an answer
LIMITS: Final = Limits(body_bytes=1024, head_bytes=8 * 1024, read_s=10.0, silent_s=120.0)

Scraped = Callable[[str, Answered], None]


class MetricsServer:
    """Implements `actors.metrics.MetricsGate`. The sockets may be exchanged while it is open."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        """Take the listening sockets; they are left open at the end."""
        self._sockets = tuple(sockets)
        self._path = PATH
        self._scraped: Scraped | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: dict[socket.socket, asyncio.Task[asyncio.Server]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._working = threading.Lock()

    def open(self, scraped: Scraped) -> None:
        """See MetricsGate."""
        self._loop = asyncio.get_event_loop()
        self._scraped = scraped
        self._serve()

    def close(self) -> None:
        """See MetricsGate."""
        self._scraped = None
        self._serve()
        for connection in list(self._connections):
            connection.cancel()

    def work(self, job: Job, done: Callable[[bytes | None], None]) -> None:
        """See MetricsGate."""
        loop = self._loop
        assert loop is not None

        def run() -> None:
            with self._working:
                try:
                    result = job()
                except Exception:
                    log.exception("metrics cannot be told")
                    result = None
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done, result)

        threading.Thread(target=run, name="metrics-text", daemon=True).start()

    def use(self, sockets: Iterable[socket.socket], path: str = PATH) -> None:
        """Serve on these sockets and no others from now on. From any thread."""
        self._sockets, self._path = tuple(sockets), path
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        """Accept on the sockets there are, and on no others."""
        assert self._loop is not None
        wanted = set(self._sockets) if self._scraped is not None else set()
        for listener in [known for known in self._serving if known not in wanted]:
            _end_when_begun(self._serving.pop(listener))
        for listener in wanted - self._serving.keys():
            # A server closes its socket at the end; this one is for the next to listen on.
            begin = asyncio.start_server(self._connected, sock=listener.dup())
            self._serving[listener] = self._loop.create_task(begin)
            log.info("metrics at http://%s:%d%s", *listener.getsockname()[:2], self._path)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        connection = HttpConnection(reader, writer, LIMITS)
        try:
            while await self._answer_next(connection):
                pass
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the peer is gone, or we are
        finally:
            self._connections.discard(task)
            connection.hang_up()

    async def _answer_next(self, connection: HttpConnection) -> bool:
        try:
            request = await connection.next_request()
            if request is None:
                return False
            response = await self._response(request)
        except Refusal as refusal:
            response = _text(refusal.status, f"{refusal.message}\n".encode())
        return await connection.answer(response)

    async def _response(self, request: HttpRequest) -> Response:
        path = request.target.partition("?")[0]
        if path.rstrip("/") != self._path.rstrip("/"):
            raise Refusal(404, f"there is nothing at {quoted(path)}; metrics are at {self._path}")
        if request.method not in ("GET", "HEAD"):
            raise Refusal(405, f"{request.method} is not for metrics; GET is")
        scraped = self._scraped
        if scraped is None:
            raise Refusal(503, "this process is starting or stopping; try again")
        host = (request.header("host") or "").rpartition(":")[0] or request.header("host") or ""
        answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def answer(status: int, body: bytes) -> None:
            if not answered.done():  # the caller may have gone
                answered.set_result(_text(status, body))

        scraped(host, answer)
        return await answered


def _text(status: int, body: bytes) -> Response:
    return Response(status, body, (("Content-Type", CONTENT_TYPE),))


def _end_when_begun(begun: asyncio.Task[asyncio.Server]) -> None:
    def end(task: asyncio.Task[asyncio.Server]) -> None:
        if not task.cancelled() and task.exception() is None:
            task.result().close()

    if begun.done():
        end(begun)  # at once: the loop may be about to stop
    else:
        begun.add_done_callback(end)
