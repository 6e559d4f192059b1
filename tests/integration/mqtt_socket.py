"""A blocking MQTT client on a real socket, with TLS or without; it can misbehave."""

from __future__ import annotations

import socket
import ssl

from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import ConnAck, Connect, Packet
from tests.integration.hub_process import HubProcess
from tests.runtime.client_certificates import ClientCertificate

LIMIT_S = 20.0


class MqttSocket:
    """One connection to a hub process."""

    def __init__(self, hub: HubProcess, *, tls: bool = True, shown: ClientCertificate | None = None) -> None:
        """Connect; with TLS, `shown` is the client's certificate."""
        address = (hub.address, hub.port) if tls else ("127.0.0.1", hub.plain_port)
        self._socket: socket.socket = socket.create_connection(address, timeout=LIMIT_S)
        if tls:
            context = ssl.create_default_context(cafile=str(hub.ca_file))
            if shown is not None:
                context.load_cert_chain(shown.certificate_file, shown.key_file)
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._codec = ClientConnection()
        self._packets: list[Packet] = []
        self.own_port = self._socket.getsockname()[1]

    def __enter__(self) -> MqttSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, *packets: Packet) -> None:
        for packet in packets:
            if isinstance(packet, Connect):
                self._codec.send(packet)
        self._socket.sendall(b"".join(packet.encode() for packet in packets))

    def receive(self) -> Packet:
        """Wait for the next packet.

        Raises:
            EOFError: the hub closed the connection.
            TimeoutError: nothing came in time.
        """
        while not self._packets:
            data = self._socket.recv(65_536)
            if not data:
                raise EOFError("the hub closed the connection")
            self._packets = self._codec.receive_data(data)
        return self._packets.pop(0)

    def rest(self) -> bytes:
        """Wait for the hub to close the connection; return what it said before."""
        data = b""
        try:
            while part := self._socket.recv(65_536):
                data += part
        except ConnectionResetError:
            pass  # it closed with bytes of ours unread
        return data

    def connect(
        self, hub: HubProcess, client_id: str, *, password: str | None = None, clean_session: bool = True
    ) -> ConnAck:
        """Send CONNECT with a good token, or another password; return the answer."""
        token = hub.token(client_id) if password is None else password
        self.send(Connect(client_id, clean_session, 60, hub.user_name(client_id), token.encode()))
        answer = self.receive()
        assert isinstance(answer, ConnAck)
        return answer
