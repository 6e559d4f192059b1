"""TLS around an accepted connection, with OpenSSL as the client and bytes that go from memory to memory."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from runtime.net import tls_connection
from runtime.net.tls_connection import HELD_BYTES, RECORD_BYTES, TlsConnection
from runtime.net.tls_server import ServerCertificate
from runtime.security.certificate_issue import issue_server
from runtime.security.certificates import EdgeCa, ensure_edge_ca

NOW_S = 1_790_000_000.0
LIMIT_S = 10.0


class Below(asyncio.Transport):
    """The transport of a socket, in memory."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.writes: list[bytes] = []
        self.is_closed = False
        self.aborted = asyncio.Event()
        self.high: int | None = None
        self._is_reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True
        self.aborted.set()

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.writes))


class Speaker(asyncio.Protocol):
    """Whom the connection is for."""

    def __init__(self) -> None:
        self.heard: list[bytes | str] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> None:
        self.heard.append("eof")

    def pause_writing(self) -> None:
        self.heard.append("full")

    def resume_writing(self) -> None:
        self.heard.append("free")

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(f"lost: {type(exc).__name__}")


class Scene:
    """Both ends of one connection."""

    def __init__(self, server: ServerCertificate, ca: EdgeCa, version: ssl.TLSVersion) -> None:
        context = ssl.create_default_context(cadata=ca.certificate_pem)
        context.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME: the clock of the test stands elsewhere
        context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.speaker, self.below = Speaker(), Below()
        self.server = TlsConnection(self.speaker, server.context)
        self.server.connection_made(self.below)

    def shake_hands(self, step: int = 1 << 20) -> None:
        """Until both are done; the server gets `step` bytes at a time."""
        for _ in range(5):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.send(step=step)
                self.fetch()
            else:
                self.send(step=step)
                return
        raise AssertionError("the handshake does not come to an end")

    def send(self, data: bytes = b"", step: int = 1 << 20) -> None:
        """Let the client send, and the server get it."""
        if data:
            self.client.write(data)
        wire = self._outgoing.read()
        for at in range(0, len(wire), step):
            self.server.data_received(wire[at : at + step])

    def fetch(self) -> None:
        """Let the client get what the server wrote."""
        for data in self.below.writes:
            self._incoming.write(data)
        self.below.writes.clear()

    def read(self) -> bytes:
        """Return what the client reads; it ends with b"|" when the server has said that it closes."""
        self.fetch()
        read = b""
        while True:
            try:
                part = self.client.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                return read
            except ssl.SSLZeroReturnError:
                return read + b"|"
            if not part:
                return read + b"|"
            read += part


Play = Callable[[Callable[[Scene], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    ca = ensure_edge_ca(tmp_path / "certificates", "edge1", NOW_S)
    issued = issue_server(ca, "localhost", ["localhost"], NOW_S)
    path = tmp_path / "server.pem"
    path.write_text(issued.private_key_pem + issued.chain_pem)
    certificate = ServerCertificate(str(path), str(path))

    def run(scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(LIMIT_S):
                await scene(Scene(certificate, ca, request.param))

        asyncio.run(main())

    return run


@pytest.mark.parametrize("step", [1, 7, 1 << 20], ids=["byte by byte", "by 7", "whole"])
def test_what_the_client_says_is_heard_however_it_is_cut(play: Play, step: int) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands(step)
        await it.server.established
        it.send(b"hello", step)
        it.send(b"x" * 40_000, step)

        assert it.speaker.heard[0] == "made"
        said = [part for part in it.speaker.heard[1:] if isinstance(part, bytes)]
        assert b"".join(said) == b"hello" + b"x" * 40_000
        assert step < 1 << 20 or len(said) == 2

    play(scene)


def test_what_comes_with_the_end_of_the_handshake_is_heard_behind_it(play: Play) -> None:
    async def scene(it: Scene) -> None:
        for _ in range(5):
            try:
                it.client.do_handshake()
                break
            except ssl.SSLWantReadError:
                it.send()
                it.fetch()
        it.send(b"first words")

        assert it.speaker.heard == ["made", b"first words"]

    play(scene)


@pytest.mark.parametrize("size", [1, RECORD_BYTES, RECORD_BYTES + 1, 100_000])
def test_what_is_written_at_once_leaves_at_once_in_as_few_records_as_there_can_be(
    play: Play, size: int
) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.read()
        data = bytes(range(256)) * (size // 256 + 1)
        it.speaker.transport.write(data[:size])

        [wire] = it.below.writes
        records = -(-size // RECORD_BYTES)
        assert len(wire) - size <= 40 * records
        assert it.read() == data[:size]

    play(scene)


def test_who_does_not_want_to_read_hears_of_it_when_it_does_again(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.speaker.transport.pause_reading()
        it.send(b"1")
        assert it.below.is_reading()
        it.send(b"x" * HELD_BYTES)
        assert it.speaker.heard == ["made"]
        assert not it.below.is_reading()

        it.speaker.transport.resume_reading()
        await asyncio.sleep(0)

        assert it.below.is_reading()
        assert it.speaker.heard == ["made", b"1" + b"x" * HELD_BYTES]

    play(scene)


def test_a_peer_that_has_left_meanwhile_is_heard_out(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.speaker.transport.pause_reading()
        it.send(b"last words")
        assert it.server.eof_received()

        it.speaker.transport.resume_reading()
        await asyncio.sleep(0)

        assert it.speaker.heard == ["made", b"last words", "eof"]
        assert it.server.is_closing()

    play(scene)


def test_a_peer_that_has_said_nothing_more_is_gone_at_once(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.speaker.transport.pause_reading()

        assert not it.server.eof_received()
        assert it.speaker.heard == ["made", "eof"]

    play(scene)


def test_who_closes_says_so_and_waits_for_the_peer(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.speaker.transport.pause_reading()
        it.speaker.transport.write(b"last words")
        it.speaker.transport.close()
        it.speaker.transport.write(b"too late")

        assert it.read() == b"last words|"
        assert it.below.is_reading()
        it.send(b"not wanted any more")
        assert not it.below.is_closed
        it.server.eof_received()
        it.server.connection_lost(None)
        assert it.speaker.heard == ["made", "lost: NoneType"]

    play(scene)


def test_a_peer_that_does_not_close_is_cut_off(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_connection, "CLOSE_LIMIT_S", 0.01)

    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.speaker.transport.close()
        await it.below.aborted.wait()

    play(scene)


def test_a_peer_that_says_that_it_closes_is_answered_and_closed(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.read()
        it.client.write(b"last words")
        with pytest.raises(ssl.SSLWantReadError):
            it.client.unwrap()
        it.send()

        assert it.speaker.heard == ["made", b"last words", "eof"]
        assert it.below.is_closed
        assert it.read() == b"|"

    play(scene)


def test_bytes_that_were_changed_on_their_way_end_the_connection_with_the_reason(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()
        it.server.data_received(b"\x17\x03\x03\x00\x20" + bytes(32))
        it.server.data_received(b"more")
        it.speaker.transport.write(b"nobody reads that")

        assert it.below.is_closed
        it.server.connection_lost(None)
        assert it.speaker.heard == ["made", "lost: SSLError"]

    play(scene)


def test_a_handshake_that_fails_says_why_to_both_sides(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.server.data_received(b"GET / HTTP/1.1\r\n\r\n")
        it.server.connection_lost(None)

        with pytest.raises(ssl.SSLError) as caught:
            await it.server.established
        assert caught.value.reason == "HTTP_REQUEST"
        assert it.below.is_closed
        assert it.speaker.heard == []

    play(scene)


def test_a_peer_that_goes_during_the_handshake_is_told_as_that(play: Play) -> None:
    async def scene(it: Scene) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            it.client.do_handshake()
        it.send()
        it.server.eof_received()
        it.server.connection_lost(None)

        with pytest.raises(ConnectionResetError, match="during the handshake"):
            await it.server.established
        assert it.speaker.heard == []

    play(scene)


def test_a_handshake_that_was_given_up_ends_the_connection_when_it_comes(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.server.established.cancel()
        it.shake_hands()

        assert it.below.aborted.is_set()
        assert it.speaker.heard == []

    play(scene)


def test_a_socket_that_takes_no_more_is_told_to_who_writes(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.server.pause_writing()
        it.server.resume_writing()
        it.shake_hands()
        it.speaker.transport.set_write_buffer_limits(high=1000)
        it.below.writes.clear()
        it.speaker.transport.write(b"x" * 100)
        it.server.pause_writing()
        it.server.resume_writing()

        assert it.below.high == 1000
        assert 100 < it.speaker.transport.get_write_buffer_size() < 140
        assert it.speaker.heard == ["made", "full", "free"]

    play(scene)


def test_what_is_known_of_the_connection_is_that_of_tls_and_of_the_socket(play: Play) -> None:
    async def scene(it: Scene) -> None:
        it.shake_hands()

        assert it.speaker.transport.get_extra_info("ssl_object").version() == it.client.version()
        assert it.speaker.transport.get_extra_info("peername") == ("127.0.0.1", 1)
        assert it.speaker.transport.get_extra_info("nothing", 5) == 5

    play(scene)
