"""A line that can be bad: a TCP proxy that delays, limits, loses, cuts, resets inside a packet and swallows.

Everything random comes from one seed, so that a profile runs the same way again. It gives back-pressure: it
reads no faster than it passes on, and holds what is on its way.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

LIMIT_S: Final = 20.0
_CHUNK_BYTES: Final = 4096
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a line is like, in each direction."""

    delay_s: float = 0.0  # one way
    jitter_s: float = 0.0  # up to so much more or less; the order stays
    bytes_per_s: float = 0.0  # 0: no limit
    lost_connections: float = 0.0  # share of new ones that are reset at once


class Line:
    """From `listen` to `target`, both (address, port). `with Line(…) as line` runs it in a thread."""

    def __init__(
        self,
        listen: tuple[str, int],
        target: tuple[str, int],
        profile: Profile | None = None,
        *,
        seed: int = 20261121,
    ) -> None:
        self.profile = profile or Profile()
        self.accepted = 0
        self.late_bytes = 0  # that were held back, and passed on
        self.swallowed_bytes = 0
        self.resets = 0  # connections that were reset, or refused with none there
        self._listen = listen
        self._target = target
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._server: asyncio.Server | None = None
        self._passages: set[_Passage] = set()
        self._swallows = False
        self._resets_each_after: int | None = None

    def __enter__(self) -> Line:
        self._thread.start()
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    # what a test does to it

    def cut(self) -> None:
        """Refuse new connections and end all there are."""
        self._do(self._stop())

    def restore(self) -> None:
        """Let everything through again; what was swallowed stays lost, and its connections are reset."""
        self._do(self._start())

    def reset(self) -> None:
        """Reset all connections; new ones are let through."""
        self._do(self._reset_all())

    def reset_after(self, count_bytes: int, *, again: bool = False) -> None:
        """Reset each connection after so many more bytes of the client: inside a packet.

        Args:
            again: New connections, too, each after so many bytes of its own.
        """
        self._do(self._arm(count_bytes, again))

    def swallow(self) -> None:
        """Be half open: connections stand, and new ones are accepted, but nothing gets through."""
        self._do(self._swallow_all(True))

    def strand(self) -> None:
        """Lose the connections there are, as a router does that has started anew: nothing tells it to anyone.

        New ones are let through.
        """
        self._do(self._swallow_all(False))

    @property
    def connections(self) -> int:
        """How many are open now."""
        return self._do(self._count())

    # in the loop

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    async def _start(self) -> None:
        if self._swallows:
            self._swallows = False
            await self._reset_all()
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, *self._listen, reuse_address=True, limit=_CHUNK_BYTES
            )

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset_all()

    async def _reset_all(self) -> None:
        for passage in list(self._passages):
            passage.reset()
            await passage.closed.wait()

    async def _arm(self, count_bytes: int, again: bool) -> None:
        self._resets_each_after = count_bytes if again else None
        for passage in self._passages:
            passage.bytes_until_reset = count_bytes

    async def _swallow_all(self, new_too: bool) -> None:
        self._swallows = self._swallows or new_too
        for passage in self._passages:
            passage.swallows = True

    async def _count(self) -> int:
        return len(self._passages)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._random.random() < self.profile.lost_connections:
            _reset(writer)
            return
        passage = _Passage(self, reader, writer, random.Random(self._random.random()), self._swallows)
        passage.bytes_until_reset = self._resets_each_after
        self._passages.add(passage)
        try:
            await passage.run(self._target)
        finally:
            self._passages.discard(passage)
            passage.closed.set()


class _Passage:
    """One connection through the line."""

    def __init__(
        self,
        line: Line,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chance: random.Random,
        swallows: bool,
    ) -> None:
        self.swallows = swallows
        self.closed = asyncio.Event()
        self.bytes_until_reset: int | None = None
        self._line = line
        self._client = reader, writer
        self._writers = [writer]
        self._chance = chance
        self._ended = asyncio.Event()

    def reset(self) -> None:
        self._line.resets += 1
        for writer in self._writers:
            _reset(writer)
        self._ended.set()

    async def run(self, target: tuple[str, int]) -> None:
        reader, writer = self._client
        try:
            if not self.swallows:
                # The handshake of TCP takes its way, too.
                await asyncio.sleep(2 * self._delay_s())
            upstream_reader, upstream_writer = await asyncio.open_connection(*target, limit=_CHUNK_BYTES)
        except OSError:
            self.reset()
            return
        self._writers.append(upstream_writer)
        ways = [
            asyncio.ensure_future(self._pass_on(reader, upstream_writer, counts=True)),
            asyncio.ensure_future(self._pass_on(upstream_reader, writer, counts=False)),
            asyncio.ensure_future(self._ended.wait()),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for each in self._writers:
            each.close()

    def _delay_s(self) -> float:
        profile = self._line.profile
        return max(0.0, profile.delay_s + self._chance.uniform(-profile.jitter_s, profile.jitter_s))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool
    ) -> None:
        """Pass bytes on when they are due: read by one task, written by another."""
        under_way: deque[tuple[float, bytes]] = deque()
        changed = asyncio.Event()
        passing = asyncio.ensure_future(self._deliver(under_way, changed, writer, counts=counts))
        try:
            last_s = 0.0
            free_s = time.monotonic()
            while True:
                data = await reader.read(_CHUNK_BYTES)
                if self.swallows:
                    self._line.swallowed_bytes += len(data)
                    if not data:
                        await self._ended.wait()
                        return
                    continue
                now_s = time.monotonic()
                rate = self._line.profile.bytes_per_s
                free_s = max(free_s, now_s) + (len(data) / rate if rate else 0.0)
                last_s = max(last_s, free_s + self._delay_s())  # in order
                under_way.append((last_s, data))
                changed.set()
                if not data:
                    await passing
                    return
                if rate:
                    await asyncio.sleep(free_s - now_s)
        finally:
            passing.cancel()

    async def _deliver(
        self,
        under_way: deque[tuple[float, bytes]],
        changed: asyncio.Event,
        writer: asyncio.StreamWriter,
        *,
        counts: bool,
    ) -> None:
        while True:
            while not under_way:
                changed.clear()
                await changed.wait()
            due_s, data = under_way.popleft()
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self.swallows:
                continue
            if not data:
                return
            if counts and self.bytes_until_reset is not None:
                if len(data) >= self.bytes_until_reset:
                    writer.write(data[: self.bytes_until_reset])
                    self.reset()
                    return
                self.bytes_until_reset -= len(data)
            if self._line.profile.delay_s:
                self._line.late_bytes += len(data)
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    own = writer.get_extra_info("socket")
    if own is not None and own.fileno() >= 0:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()
