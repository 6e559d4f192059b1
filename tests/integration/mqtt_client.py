"""A plain blocking MQTT client for tests that misbehave in ways in which no SDK does."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Self, TypeVar

from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import ConnAck, Connect, Packet, PubAck, Publish, SubAck, Subscribe

READ_BYTES = 256 * 1024
T = TypeVar("T")


class MqttClient:
    """One connection."""

    def __init__(self, stream: socket.socket, client_id: str) -> None:
        self.socket = stream
        self.codec = ClientConnection()
        self.client_id = client_id
        self._packet_id = 0
        self._waiting: list[Packet] = []

    @classmethod
    def connect(
        cls,
        port: int,
        client_id: str,
        token: str,
        iothub: str,
        ca_file: Path | None = None,
        limit_s: float = 20.0,
        receive_buffer_bytes: int = 0,
    ) -> Self:
        """Connect, over TLS when a CA is named."""
        stream = socket.socket()
        if receive_buffer_bytes:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        stream.settimeout(limit_s)
        stream.connect(("127.0.0.1", port))
        if ca_file is not None:
            context = ssl.create_default_context(cafile=str(ca_file))
            stream = context.wrap_socket(stream, server_hostname="localhost")
        client = cls(stream, client_id)
        user_name = f"{iothub}/{client_id}/?api-version=2021-04-12"
        client.send(Connect(client_id, True, 300, user_name=user_name, password=token.encode()))
        answer = client.receive(ConnAck)
        assert answer.return_code == 0, answer
        return client

    @property
    def topic(self) -> str:
        device, _, module = self.client_id.partition("/")
        return f"devices/{device}/{f'modules/{module}/' if module else ''}messages/events/"

    def send(self, packet: Packet) -> None:
        self.socket.sendall(self.codec.send(packet))

    def publish(self, body: bytes) -> int:
        """Publish at QoS 1 without waiting; returns the packet id."""
        self._packet_id = self._packet_id % 65_535 + 1
        self.send(Publish(self.topic, body, 1, self._packet_id))
        return self._packet_id

    def publish_and_wait(self, body: bytes) -> bool:
        packet_id = self.publish(body)
        return self.receive(PubAck).packet_id == packet_id

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        self.send(Subscribe(1, ((topic_filter, qos),)))
        assert self.receive(SubAck).return_codes == (qos,)

    def receive(self, kind: type[T]) -> T:
        """Return the next packet of a kind; others that come before are dropped."""
        while True:
            while self._waiting:
                packet = self._waiting.pop(0)
                if isinstance(packet, kind):
                    return packet
            data = self.socket.recv(READ_BYTES)
            assert data, "the hub closed the connection"
            self._waiting += self.codec.receive_data(data)

    def wait_for_end(self, limit_s: float) -> bool:
        """Read until the hub closes the connection; False when it has not in time."""
        ends_s = time.monotonic() + limit_s
        while (left_s := ends_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                if not self.socket.recv(READ_BYTES):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False
