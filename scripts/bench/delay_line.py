"""A line for a measurement: a TCP proxy in a process of its own that delays and counts.

As a program: `python -m scripts.bench.delay_line LISTEN TARGET ROUND_TRIP_MS PORT…`. Each line that it reads
is answered with one of JSON: connections accepted, bytes passed on from and to the client. It ends with its
input.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from typing import cast

import uvloop

from scripts.bench.peer_edge import ROOT, STOP_LIMIT_S

_AHEAD_BYTES = 8 * 1024 * 1024  # on their way before reading pauses


class DelayLine:
    """`with DelayLine(listen, target, ports, round_trip_s) as line`."""

    def __init__(self, listen: str, target: str, ports: list[int], round_trip_s: float) -> None:
        numbers = [f"{round_trip_s * 1e3:.0f}", *map(str, ports)]
        self._command = [sys.executable, "-m", "scripts.bench.delay_line", listen, target, *numbers]

    def __enter__(self) -> "DelayLine":
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.counts()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(STOP_LIMIT_S)

    def counts(self) -> dict[str, int]:
        """Return what has passed so far."""
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None
        assert answer is not None
        print(file=ask, flush=True)
        counts: dict[str, int] = json.loads(answer.readline())
        return counts


class _Way(asyncio.Protocol):
    """One direction of one connection."""

    def __init__(self, counts: dict[str, int], name: str, delay_s: float) -> None:
        self.other: _Way | None = None
        self.transport: asyncio.Transport
        self._counts = counts
        self._name = name
        self._delay_s = delay_s
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._ahead_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._counts[self._name] += len(data)
        self._pass_on(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pass_on(b"")

    def _pass_on(self, data: bytes) -> None:
        self._under_way.append((time.monotonic() + self._delay_s, data))
        self._ahead_bytes += len(data)
        if self._ahead_bytes > _AHEAD_BYTES:
            self.transport.pause_reading()
        if self._timer is None and self.other is not None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        was_ahead = self._ahead_bytes > _AHEAD_BYTES
        assert self.other is not None
        while self._under_way and self._under_way[0][0] <= now_s:
            _, data = self._under_way.popleft()
            self._ahead_bytes -= len(data)
            if not data:
                self.other.transport.close()
            elif not self.other.transport.is_closing():
                self.other.transport.write(data)
        if was_ahead and self._ahead_bytes <= _AHEAD_BYTES:
            self.transport.resume_reading()
        if self._under_way:
            wait_s = self._under_way[0][0] - now_s
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._deliver)


class _Entry(_Way):
    """The client's side: connects to the target first."""

    def __init__(self, counts: dict[str, int], target: tuple[str, int], delay_s: float) -> None:
        super().__init__(counts, "from_client", delay_s)
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._counts["accepted"] += 1
        self.transport.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        other = _Way(self._counts, "to_client", self._delay_s)
        other.other = self
        await loop.create_connection(lambda: other, *self._target)
        self.other = other
        self.transport.resume_reading()
        self._deliver()


async def _run(listen: str, target: str, delay_s: float, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    counts = {"accepted": 0, "from_client": 0, "to_client": 0}
    for port in ports:
        await loop.create_server(lambda port=port: _Entry(counts, (target, port), delay_s), listen, port)

    ended = asyncio.Event()

    def answer() -> None:
        if sys.stdin.readline():
            print(json.dumps(counts), flush=True)
        else:
            ended.set()

    loop.add_reader(sys.stdin.fileno(), answer)
    await ended.wait()


if __name__ == "__main__":
    _, at, to, round_trip_ms, *numbers = sys.argv
    uvloop.run(_run(at, to, float(round_trip_ms) / 2e3, [int(number) for number in numbers]))
