"""The connection to Docker Engine: its calls, its errors in our words, and one thread for its events.

The `docker` package (0.2 s, 20 MB) is imported with the first call. Events are pushed by the engine; only
while it is away it is looked for, twice a second.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from messaging.errors import ConfigError, EngineAway, EnvironmentFault
from runtime.machine.lean_memory import load_docker

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

DEFAULT_SOCKET: Final = "/var/run/docker.sock"
HOME_LABEL: Final = "net.edge-actors.home"
MODULE_LABEL: Final = "net.edge-actors.module"

CALL_LIMIT_S: Final = 60.0
PING_LIMIT_S: Final = 2.0
ANSWER_LIMIT_S: Final = 3.0  # for what a handler of an actor waits for
PROBE_PERIOD_S: Final = 0.5
AWAY_AFTER_S: Final = 1.0  # a shorter absence, of an engine that keeps its containers, is nobody's business
REPLAY_S: Final = 2  # how far back events are asked for, so that none falls between two connections

T = TypeVar("T")


class ContainerDied(Struct, frozen=True):
    """A container of ours ended."""

    container_id: str
    module: str
    exit_code: int | None
    at_s: float  # seconds since 1970-01-01 UTC
    with_engine: bool = False  # the engine is stopping and took it along


class ContainerHealth(Struct, frozen=True):
    """The HEALTHCHECK of a container of ours says something else than before."""

    container_id: str
    module: str
    healthy: bool
    at_s: float  # seconds since 1970-01-01 UTC


def engine_socket(docker_host: str | None) -> str:
    """Return the path of the engine's socket from DOCKER_HOST, which may be unset.

    Raises:
        ConfigError: it names an engine on another machine, whose containers could not reach this edge.
    """
    if not docker_host:
        return DEFAULT_SOCKET
    if not docker_host.startswith("unix://"):
        raise ConfigError(
            f"DOCKER_HOST: {docker_host!r} is not an engine of this machine; "
            "unset it, or set it to unix:///path/of/docker.sock"
        )
    return docker_host.removeprefix("unix://")


def away_reason(path: str) -> str | None:
    """Return why the engine does not answer at its socket, and the way out; None when it takes requests.

    To connect alone would not tell: one that hangs has its socket still, one that is stopping ends its
    containers but takes no requests, and a service manager may hold the socket for it.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PING_LIMIT_S)
        try:
            probe.connect(path)
            probe.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            answered = probe.recv(16).startswith(b"HTTP/1.")
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            answered = False
        except OSError as exc:
            return _explain_away(path, exc)
    return None if answered else _silent(path)


class EngineCalls:
    """Calls of one engine about the containers of one edge, without its events. Any thread may call."""

    def __init__(self, home_id: str) -> None:
        self._home_id = home_id
        self._lock = threading.Lock()
        self._client: APIClient | None = None

    @contextmanager
    def calls(self) -> Iterator[APIClient]:
        """Hand out the client; errors that come out of the block are told in our words.

        Raises:
            EngineAway: the engine does not answer.
            EnvironmentFault: it refused.
            ConfigError: DOCKER_HOST is of no use here.
        """
        path = engine_socket(os.environ.get("DOCKER_HOST"))
        reason = away_reason(path)  # before the package is loaded for nothing, and quickly
        if reason is not None:
            self._unreachable()
            raise EngineAway(reason)
        load_docker()
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException

        try:
            yield self._connected(path)
        except APIError as exc:
            raise EnvironmentFault(f"Docker Engine refused: {explanation(exc)}") from exc
        except (DockerException, RequestException) as exc:
            self._unreachable()
            raise EngineAway(away_reason(path) or f"Docker Engine did not answer: {exc}") from exc

    def containers(self, client: APIClient) -> dict[str, dict[str, Any]]:
        """Return the containers of this edge by module, running or not."""
        return {one["Labels"][MODULE_LABEL]: one for one in self._listed(client, MODULE_LABEL)}

    def container(self, client: APIClient, module: str) -> dict[str, Any] | None:
        """Return the container of one module, running or not; None when it has none."""
        return next(iter(self._listed(client, f"{MODULE_LABEL}={module}")), None)

    def _listed(self, client: APIClient, label: str) -> list[dict[str, Any]]:
        filters = {"label": [f"{HOME_LABEL}={self._home_id}", label]}
        found: list[dict[str, Any]] = client.containers(all=True, filters=filters)
        return found

    def close(self) -> None:
        """Give the connections back. Containers live on."""
        if self._client is not None:
            self._client.close()

    def _unreachable(self) -> None:
        """Take note that a call has found no engine."""

    def _connected(self, path: str) -> APIClient:
        from docker import APIClient

        with self._lock:
            if self._client is None:
                self._client = APIClient(f"unix://{path}", version="auto", timeout=int(CALL_LIMIT_S))
            return self._client


class DockerEngine(EngineCalls):
    """One engine and what happens to the containers of one edge. Any thread may call.

    The callbacks run in the thread of the events, which begins with the first call. `on_back` comes after
    every connection, also the first; `on_away` once, when the engine has not answered for a second.
    """

    def __init__(
        self,
        home_id: str,
        *,
        on_event: Callable[[ContainerDied | ContainerHealth], None],
        on_away: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        super().__init__(home_id)
        self._on_event = on_event
        self._on_away = on_away
        self._on_back = on_back
        self._thread: threading.Thread | None = None
        self._stream: Any = None
        self._watching = False
        self._closed = threading.Event()

    @property
    def is_watching(self) -> bool:
        """Whether events arrive. When not, `on_back` will be called."""
        return self._watching

    @contextmanager
    def calls(self) -> Iterator[APIClient]:
        """Hand out the client; see EngineCalls."""
        engine_socket(os.environ.get("DOCKER_HOST"))  # a thread would look for it in vain
        self._start_watching()
        with super().calls() as client:
            yield client

    def ask(self, question: Callable[[APIClient], T]) -> T:
        """Return the answer to what takes the engine a moment, in time for a handler of an actor.

        One that answers pings may still be stuck with its containers; then the question goes on in a thread.

        Raises:
            EngineAway: the engine does not answer, or not in time.
            EnvironmentFault: it refused.
        """

        def put() -> T:
            with self.calls() as client:
                return question(client)

        try:
            return in_background("docker question", put).result(ANSWER_LIMIT_S)
        except TimeoutError as exc:
            raise EngineAway(_silent(_path())) from exc

    def close(self) -> None:
        """End the watching. Containers live on."""
        self._closed.set()
        self._unreachable()
        if self._thread is not None:
            self._thread.join(PROBE_PERIOD_S + AWAY_AFTER_S)
        super().close()

    # events

    def _start_watching(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._watch, name="docker events", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        lost_s: float | None = time.monotonic()
        while not self._closed.is_set():
            stream = self._open_stream()
            if stream is not None:
                lost_s = None
                self._on_back()
                self._read(stream)
                self._watching = False
            if self._closed.is_set():
                return
            if lost_s is None and stream is not None:
                lost_s = time.monotonic()
                continue
            if lost_s is not None and time.monotonic() - lost_s > AWAY_AFTER_S:
                lost_s = None
                log.error("Docker Engine is away: %s", away_reason(_path()) or "it does not answer")
                self._on_away()
            self._closed.wait(PROBE_PERIOD_S)

    def _open_stream(self) -> Any:
        path = _path()
        if away_reason(path) is not None:
            return None
        load_docker()
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        filters = {
            "type": "container",
            "event": ["die", "health_status"],
            "label": f"{HOME_LABEL}={self._home_id}",
        }
        try:
            stream = self._connected(path).events(since=int(time.time()) - REPLAY_S, filters=filters)
        except (DockerException, RequestException) as exc:
            log.debug("no events of Docker Engine: %s", exc)
            return None
        with self._lock:
            self._stream = stream
            self._watching = True
        return stream

    def _read(self, stream: Any) -> None:
        from requests.exceptions import RequestException

        rest = b""
        try:
            for block in stream:
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    event = parse_event(line)
                    if isinstance(event, ContainerDied):
                        event = replace(event, with_engine=away_reason(_path()) is not None)
                    if event is not None:
                        self._on_event(event)
        except (RequestException, ValueError, AttributeError) as exc:
            # Also what a stream raises that another thread has closed.
            log.debug("the events of Docker Engine ended: %s", exc)

    def _unreachable(self) -> None:
        """The events are asked for anew."""
        with self._lock:
            stream, self._stream = self._stream, None
            self._watching = False
        if stream is not None:
            try:
                stream.close()
            except (OSError, AttributeError):
                pass  # closed by the engine meanwhile


def parse_event(line: bytes) -> ContainerDied | ContainerHealth | None:
    """Return what a line of the event stream says, None when it is no news of a container of ours.

    Source: Docker Engine API v1.41, GET /events
    """
    try:
        event = json.loads(line)
        if event["Type"] != "container":
            return None
        container_id, attributes = event["Actor"]["ID"], event["Actor"]["Attributes"]
        module, at_s = attributes[MODULE_LABEL], event["timeNano"] / 1e9
        action, _, health = event["Action"].partition(": ")
        if action == "health_status":
            return ContainerHealth(container_id, module, health != "unhealthy", at_s)
        if action != "die":
            return None
        code = attributes.get("exitCode")
        return ContainerDied(container_id, module, None if code is None else int(code), at_s)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def in_background(name: str, work: Callable[[], T]) -> Future[T]:
    """Do some work in a thread of that name, which does not hold up the end of this process."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - whoever asks for the result is told
            future.set_exception(exc)

    threading.Thread(target=do, name=name, daemon=True).start()
    return future


def explanation(error: Any) -> str:
    """Return the engine's own words of an APIError, on one line."""
    return " ".join(str(error.explanation or error).split())


def _path() -> str:
    try:
        return engine_socket(os.environ.get("DOCKER_HOST"))
    except ConfigError:
        return DEFAULT_SOCKET


def _silent(path: str) -> str:
    return (
        f"Docker Engine at {path} did not answer; see why: `sudo systemctl status docker`, "
        "and start it again: `sudo systemctl restart docker`"
    )


def _explain_away(path: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"Docker Engine at {path} may not be used by this user; run the edge as root, "
            "or add the user to the group docker: `sudo usermod -aG docker $USER`"
        )
    if error.errno == errno.ENOENT:
        return (
            f"there is no Docker Engine at {path}; start it: `sudo systemctl start docker`, "
            "or install it: `sudo apt-get install docker.io`"
        )
    if error.errno == errno.ECONNREFUSED:
        return f"Docker Engine at {path} does not run; start it: `sudo systemctl start docker`"
    return f"Docker Engine at {path} cannot be reached: {error.strerror or error}; start it again"
