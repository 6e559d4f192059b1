"""What a module wrote, as the management API sends it: frames as Docker Engine makes them.

A frame has 8 bytes ahead of its payload: stream (1 stdout, 2 stderr), three zeros, length. A container's
output is passed on as the engine has it; that of a process is one file, so it is all stdout.

Source: spec sheet security-daemon.md section 2.5; Docker Engine API v1.41, POST /containers/{id}/attach
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from actors.agent.log_query import LogLine, parse_line
from messaging.errors import EnvironmentFault
from runtime.docker.engine import EngineCalls
from runtime.home import Home
from runtime.logs import reader
from runtime.run_directory import RunDirectory

OWN_LOGS: Final = ("edgeAgent", "edgeHub", "edgeCloud")  # of processes of the edge itself, never a container
STDOUT: Final = 1
_HEADER: Final = struct.Struct(">B3xL")
_LONGEST_LINE_BYTES: Final = 64 * 1024


class OutputQuery(Struct, frozen=True):
    """Which part of it; times in seconds since 1970-01-01 UTC."""

    follow: bool = False
    tail: int | None = None
    since_s: float | None = None
    until_s: float | None = None
    timestamps: bool = False


class Output(Struct, frozen=True):
    """Frames; see `runtime.net.http_messages.Pieces`."""

    frames: Iterator[bytes]
    stop: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        return self.frames


def frame(payload: bytes, stream: int = STDOUT) -> bytes:
    """Return a payload with its header."""
    return _HEADER.pack(stream, len(payload)) + payload


def payloads(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the payloads of frames that come in blocks of any size."""
    rest = b""
    for block in blocks:
        rest += block
        while len(rest) >= _HEADER.size:
            _, length = _HEADER.unpack_from(rest)
            if len(rest) < _HEADER.size + length:
                break
            yield rest[_HEADER.size : _HEADER.size + length]
            rest = rest[_HEADER.size + length :]
    if rest:
        yield rest[_HEADER.size :]


def output_of(home: Home, name: str, wanted: OutputQuery) -> Output:
    """Return the frames of a module's output; with `follow` until it is stopped.

    Args:
        home: Of the edge.
        name: Of the module, or of a process of the edge.
        wanted: Which part.

    Raises:
        EngineAway: the container engine does not answer.
        EnvironmentFault: it cannot be read; says why.
    """
    if home.containers.exists() and name not in OWN_LOGS:
        found = _of_container(RunDirectory.of(home.path).path.name, name, wanted)
        if found is not None:
            return found
    stopped = threading.Event()
    return Output(_of_file(home, name, wanted, stopped), stopped.set)


def _of_container(home_id: str, name: str, wanted: OutputQuery) -> Output | None:
    engine = EngineCalls(home_id)
    try:
        with engine.calls() as client:
            found = engine.container(client, name)
            if found is None:
                engine.close()
                return None
            from docker.types import CancellableStream

            # The package takes the frames apart, and this API has them whole.
            response: Any = client.get(
                f"{client.base_url}/v{client.api_version}/containers/{found['Id']}/logs",
                params=_as_engine_asks(wanted),
                stream=True,
                timeout=None,
            )
            if response.status_code != 200:
                raise EnvironmentFault(f"Docker Engine refused: status {response.status_code}")
            stream: Any = CancellableStream(response.iter_content(None), response)
    except EnvironmentFault as exc:
        engine.close()
        raise type(exc)(f"the log of module '{name}' cannot be read: {exc}") from exc
    return Output(_given_back(stream, engine), stream.close)


def _as_engine_asks(wanted: OutputQuery) -> dict[str, str]:
    asked = {"stdout": "1", "stderr": "1", "tail": "all" if wanted.tail is None else str(wanted.tail)}
    if wanted.follow:
        asked["follow"] = "1"
    if wanted.timestamps:
        asked["timestamps"] = "1"
    if wanted.since_s is not None and wanted.since_s > 0:
        asked["since"] = f"{wanted.since_s:.9f}"
    if wanted.until_s is not None:
        asked["until"] = f"{max(wanted.until_s, 1.0):.9f}"  # 0 would be no limit
    return asked


def _given_back(stream: Any, engine: EngineCalls) -> Iterator[bytes]:
    from requests.exceptions import RequestException

    try:
        yield from stream
    except (RequestException, OSError, ValueError, AttributeError):
        return  # the engine ended it, or another thread did
    finally:
        engine.close()


def _of_file(home: Home, name: str, wanted: OutputQuery, stopped: threading.Event) -> Iterator[bytes]:
    path = home.log_of(name)
    if not path.exists() and not wanted.follow:
        return
    timed = wanted.since_s is not None or wanted.until_s is not None
    tail = wanted.tail
    if timed and wanted.follow and tail is not None and path.exists():
        # So many lines of the end are in time, and what comes later is read behind them.
        tail = len(deque(_in_time(_lines(reader.read(path)), wanted), tail))
    if wanted.follow:
        found = _in_time(_lines(reader.follow(path, tail, stopped)), wanted)
    else:
        found = _in_time(_lines(reader.read(path, None if timed else tail)), wanted)
        if timed and tail is not None:
            found = iter(deque(found, tail))
    for line, written_s in found:
        yield frame(_stamp(written_s) + line if wanted.timestamps else line)


def _in_time(lines: Iterable[bytes], wanted: OutputQuery) -> Iterator[tuple[bytes, float | None]]:
    """Yield lines of the time asked for; one without a time is as old as the one before it."""
    at_s: float | None = None
    asks = wanted.timestamps or wanted.since_s is not None or wanted.until_s is not None
    for line in lines:
        if asks:
            written_s = parse_line(LogLine(line.decode("utf-8", "replace"))).written_s
            at_s = at_s if written_s is None else written_s
        if at_s is not None and wanted.since_s is not None and at_s < wanted.since_s:
            continue
        if at_s is not None and wanted.until_s is not None and at_s > wanted.until_s:
            continue
        yield line, at_s


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if len(rest) > _LONGEST_LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _stamp(at_s: float | None) -> bytes:
    if at_s is None:
        return b""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
