"""What the container of a module wrote: Docker Engine keeps it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from actors.agent.log_query import LogLine
from messaging.errors import EnvironmentFault
from messaging.time_text import from_iso
from runtime.docker.engine import EngineCalls


def read(home_id: str, module: str, tail: int | None, follow: bool) -> Iterator[bytes] | None:
    """Return the output of a module's container in blocks, None when the module has no container.

    Args:
        home_id: Of the edge.
        module: Its name.
        tail: Only the last so many lines; None for all.
        follow: Go on with what is added, until the container ends.

    Raises:
        EngineAway: the engine does not answer.
        EnvironmentFault: it refused, or it hands this container's output to somebody else.
    """
    engine = EngineCalls(home_id)  # until the process ends: the blocks come over its connection
    try:
        with engine.calls() as client:
            found = engine.container(client, module)
            if found is None:
                return None
            last: Literal["all"] | int = "all" if tail is None else tail
            blocks: Iterator[bytes] = client.logs(found["Id"], stream=True, follow=follow, tail=last)
            return blocks
    except EnvironmentFault as exc:
        raise type(exc)(f"the log of module '{module}' cannot be read: {exc}") from exc


def stamped_lines(
    home_id: str, module: str, since_s: float | None, until_s: float | None, tail: int | None
) -> Iterable[LogLine] | None:
    """Return the lines of a module's container with stream and time, None when it has no container.

    Args:
        home_id: Of the edge.
        module: Its name.
        since_s: Only from this time on, in seconds since 1970-01-01 UTC; Docker counts whole ones.
        until_s: Only up to this time.
        tail: Of these only the last so many; None for all.

    Raises:
        EngineAway: the engine does not answer.
        EnvironmentFault: it refused, or it hands this container's output to somebody else.
    """
    engine = EngineCalls(home_id)
    try:
        with engine.calls() as client:
            found = engine.container(client, module)
            if found is None:
                engine.close()
                return None
            last: Literal["all"] | int = "all" if tail is None else tail
            streams = [
                _stamped(
                    name,
                    client.logs(
                        found["Id"],
                        stdout=name == "stdout",
                        stderr=name == "stderr",
                        stream=True,
                        timestamps=True,
                        tail=last,
                        since=since_s if since_s and since_s > 0 else None,  # 0 is all that there is, too
                        follow=False,
                        until=None if until_s is None else max(until_s, 1.0),  # before that was nothing
                    ),
                )
                for name in ("stdout", "stderr")
            ]
    except EnvironmentFault as exc:
        engine.close()
        raise type(exc)(f"the log of module '{module}' cannot be read: {exc}") from exc
    return _merged(engine, streams, tail)


def _merged(
    engine: EngineCalls, streams: Sequence[Iterable[tuple[str, LogLine]]], tail: int | None
) -> Iterator[LogLine]:
    """Yield what both streams have in the order of time; the connections are given back at the end."""
    try:
        merged = (line for _, line in heapq.merge(*streams, key=lambda pair: pair[0]))
        yield from merged if tail is None else deque(merged, tail)
    finally:
        engine.close()


def _stamped(stream: str, blocks: Iterable[bytes]) -> Iterator[tuple[str, LogLine]]:
    """Take time and line apart, which Docker writes with as many digits in each."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield _stamped_line(stream, line, "\n")
    if rest:
        yield _stamped_line(stream, rest, "")


def _stamped_line(stream: str, line: bytes, end: str) -> tuple[str, LogLine]:
    stamp, _, text = line.decode("utf-8", "replace").partition(" ")
    try:
        written_s = from_iso(stamp)
    except ValueError:
        return stamp, LogLine(f"{stamp} {text}{end}", stream)
    return stamp, LogLine(text + end, stream, written_s)
