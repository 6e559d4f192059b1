"""Connections to other brokers: what is said when there is none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import uvloop

from actors.ports.bridges import BridgeAccess
from actors.ports.connections import Transport
from runtime.net.bridge_lines import BridgeLines

LIMIT_S = 20.0


class Ends:
    """Implements LineHandler."""

    def __init__(self) -> None:
        self.transport: Transport | None = None
        self.came = b""
        self.reasons: list[str] = []
        self.changed = asyncio.Event()
        self.fails = False

    def opened(self, transport: Transport) -> None:
        self.transport = transport
        self.changed.set()
        if self.fails:
            raise ValueError("a fault of ours")

    def received(self, data: bytes) -> None:
        self.came += data
        self.changed.set()

    def closed(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not is_so():
                await self.changed.wait()
                self.changed.clear()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop: asyncio.AbstractEventLoop = request.param()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def access(port: int, host: str = "127.0.0.1", *, is_tls: bool = False, ca_file: str = "") -> BridgeAccess:
    return BridgeAccess(host, port, "me", is_tls=is_tls, ca_file=ca_file)


def test_bytes_go_both_ways_and_the_last_ones_arrive_before_the_end(
    loop: asyncio.AbstractEventLoop, listening: socket.socket
) -> None:
    async def use() -> None:
        ends = Ends()
        BridgeLines().connect(access(listening.getsockname()[1]), ends)
        await ends.until(lambda: ends.transport)
        peer, _ = await asyncio.to_thread(listening.accept)
        with closing(peer):
            peer.sendall(b"hello")
            await ends.until(lambda: ends.came == b"hello")
            assert ends.transport is not None
            ends.transport.write(b"goodbye")
            ends.transport.close()
            assert await asyncio.to_thread(peer.makefile("rb").read) == b"goodbye"
        assert ends.reasons == []

    loop.run_until_complete(use())


def test_a_peer_that_goes_is_told_once(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
    async def use() -> None:
        ends = Ends()
        BridgeLines().connect(access(listening.getsockname()[1]), ends)
        peer, _ = await asyncio.to_thread(listening.accept)
        await ends.until(lambda: ends.transport)
        peer.close()
        await ends.until(lambda: ends.reasons)
        assert ends.reasons == ["the connection was lost"]

    loop.run_until_complete(use())


def test_an_abandoned_line_says_nothing_any_more(
    loop: asyncio.AbstractEventLoop, listening: socket.socket
) -> None:
    async def use() -> None:
        ends = Ends()
        line = BridgeLines().connect(access(listening.getsockname()[1]), ends)
        peer, _ = await asyncio.to_thread(listening.accept)
        line.abandon()
        with closing(peer):
            assert await asyncio.to_thread(peer.recv, 1) == b""
        assert ends.reasons == []

    loop.run_until_complete(use())


def test_a_fault_of_ours_ends_the_connection_and_nothing_else(
    loop: asyncio.AbstractEventLoop, listening: socket.socket
) -> None:
    async def use() -> None:
        ends = Ends()
        ends.fails = True
        BridgeLines().connect(access(listening.getsockname()[1]), ends)
        await ends.until(lambda: ends.reasons)
        assert ends.reasons == ["internal error: a fault of ours"]

    loop.run_until_complete(use())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda: access(_free_port()), "cannot be reached", id="nobody listens"),
        pytest.param(lambda: access(1, "no-such-host.invalid"), "cannot be resolved", id="no such name"),
        pytest.param(lambda: access(1, "x" * 200), "cannot be resolved", id="no name at all"),
        pytest.param(
            lambda: access(1, is_tls=True, ca_file="/no/ca.pem"),
            "ca_file '/no/ca.pem' cannot be used",
            id="CA",
        ),
    ],
)
def test_why_there_is_no_connection_is_said(
    loop: asyncio.AbstractEventLoop, make: Callable[[], BridgeAccess], said: str
) -> None:
    async def use() -> None:
        ends = Ends()
        BridgeLines().connect(make(), ends)
        await ends.until(lambda: ends.reasons)
        assert said in ends.reasons[0]
        assert len(ends.reasons) == 1

    loop.run_until_complete(use())


def test_a_port_without_tls_is_told_as_such(
    loop: asyncio.AbstractEventLoop, listening: socket.socket
) -> None:
    async def use() -> None:
        ends = Ends()
        BridgeLines().connect(access(listening.getsockname()[1], is_tls=True), ends)
        peer, _ = await asyncio.to_thread(listening.accept)
        with closing(peer):
            await asyncio.to_thread(peer.recv, 1024)
            peer.sendall(b"what is this?\r\n" * 10)
            await ends.until(lambda: ends.reasons)
        assert "MQTT over TLS?" in ends.reasons[0]

    loop.run_until_complete(use())
