"""The listener for test suites as a process of its own, and a client that speaks to it byte by byte."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReturnCode,
    SubAck,
    Subscribe,
    Will,
)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 20.0
QUIET_S = 0.3  # within which what must not come would have come

P = TypeVar("P", bound=Packet)


class ListenerProcess:
    """`python -m scripts.mqtt_test_listener` on a free port; what it keeps outlives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # What a killed one leaves behind goes with the test. Short, for the paths of Unix sockets.
        self._temporary = tempfile.TemporaryDirectory(prefix="ea-", dir="/tmp")
        self._clients: list[SuiteClient] = []
        self.start()

    def start(self) -> None:
        """Start it, perhaps again."""
        command = [sys.executable, "-m", "scripts.mqtt_test_listener", "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--directory", str(self._folder)],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": self._temporary.name},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready.startswith("ready on 127.0.0.1:"), ready
        self.port = int(ready.rpartition(":")[2])

    def kill(self) -> None:
        """End it at once, and start it again."""
        self._end(signal.SIGKILL)
        self.start()

    def close(self) -> None:
        """End it in order."""
        for client in self._clients:
            client.lose()
        assert self._end(signal.SIGTERM) == 0
        self._temporary.cleanup()

    def _end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.wait(LIMIT_S)

    def client(self) -> SuiteClient:
        """Open a connection."""
        client = SuiteClient(self.port)
        self._clients.append(client)
        return client

    def connect(self, client_id: str, *, clean: bool = True, will: Will | None = None) -> SuiteClient:
        """Open a connection that is accepted."""
        client = self.client()
        assert client.connect(client_id, clean=clean, will=will).return_code is ReturnCode.ACCEPTED
        return client


class SuiteClient:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self._codec = ClientConnection()
        self._packets: list[Packet] = []

    def send(self, *packets: Packet) -> None:
        """Send packets in one write."""
        for packet in packets:
            if isinstance(packet, Connect):
                self._codec.send(packet)
        self.send_bytes(b"".join(packet.encode() for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        """Send these."""
        self._socket.sendall(data)

    def connect(
        self, client_id: str, *, clean: bool = True, will: Will | None = None, keep_alive_s: int = 0
    ) -> ConnAck:
        """Send CONNECT; return the answer."""
        self.send(Connect(client_id, clean, keep_alive_s, will=will))
        return self.expect(ConnAck)

    def subscribe(self, *filters: tuple[str, int]) -> tuple[int, ...]:
        """Subscribe; return the codes of the answer."""
        self.send(Subscribe(1, filters))
        return self.expect(SubAck).return_codes

    def publish(self, topic: str, body: bytes, qos: int = 0, *, retain: bool = False) -> None:
        """Publish, and see it acknowledged."""
        self.send(Publish(topic, body, qos, 9 if qos else 0, retain=retain))
        if qos == 1:
            assert self.expect(PubAck) == PubAck(9)
        elif qos == 2:
            assert self.expect(PubRec) == PubRec(9)
            self.send(PubRel(9))
            assert self.expect(PubComp) == PubComp(9)

    def receive(self) -> Packet:
        """Wait for the next packet.

        Raises:
            EOFError: the connection was closed.
        """
        while not self._packets:
            data = self._socket.recv(65_536)
            if not data:
                raise EOFError("closed")
            self._packets = self._codec.receive_data(data)
        return self._packets.pop(0)

    def expect(self, kind: type[P]) -> P:
        """Wait for a packet of this kind, and keep the messages before it for later."""
        passed: list[Packet] = []
        while not isinstance(packet := self.receive(), kind):
            assert isinstance(packet, Publish), packet
            passed.append(packet)
        self._packets = passed + self._packets
        return packet

    def messages(self, count: int) -> list[Publish]:
        """Wait for so many messages, and acknowledge them."""
        found: list[Publish] = []
        while len(found) < count:
            packet = self.receive()
            if isinstance(packet, PubRel):
                self.send(PubComp(packet.packet_id))
                continue
            assert isinstance(packet, Publish), packet
            found.append(packet)
            if packet.qos:
                self.send((PubAck if packet.qos == 1 else PubRec)(packet.packet_id))
        return found

    def stays_quiet(self) -> bool:
        """Say whether no message comes for a moment."""
        self._socket.settimeout(QUIET_S)
        try:
            packet = self.receive()
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(LIMIT_S)
        return not isinstance(packet, Publish)

    def rest(self) -> bytes:
        """Wait for the end of the connection; return what came before."""
        data = b""
        try:
            while part := self._socket.recv(65_536):
                data += part
        except ConnectionResetError:
            pass
        return data

    def is_closed(self) -> bool:
        """Wait for the end of the connection."""
        self.rest()
        return True

    def leave(self) -> None:
        """Say DISCONNECT, and see the connection closed."""
        self.send(Disconnect())
        assert self.is_closed()
        self._socket.close()

    def lose(self) -> None:
        """Close without a word."""
        self._socket.close()
