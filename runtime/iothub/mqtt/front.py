"""Looks at the first packet of an MQTT connection and hands it to who serves it: the hub, or provisioning.

Both listen on one port of one address, as SDKs allow no other; the user name of CONNECT tells them apart.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from actors.ports.connections import ConnectionHandler, Transport
from messaging.errors import RemoteProtocolError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import Connect
from runtime.iothub.mqtt.provisioning import is_user_name

log = logging.getLogger(__name__)

CONNECT_LIMIT_S: Final = 5.0  # from the TLS handshake to CONNECT


class _Client:
    """One connection. Until its CONNECT is there nobody serves it and its bytes are kept."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.handler: ConnectionHandler | None = None
        self.served: Any = None  # what the handler calls this connection
        self.codec = ServerConnection()
        self.kept = bytearray()
        self.too_late: asyncio.TimerHandle | None = None


class MqttFront:
    """Implements `actors.ports.ConnectionHandler` in front of two others."""

    def __init__(self, devices: ConnectionHandler, provisioning: ConnectionHandler) -> None:
        self._devices = devices
        self._provisioning = provisioning
        self._undecided: set[_Client] = set()

    def close(self) -> None:
        """End the connections that nobody serves yet. Close the listeners first."""
        for client in list(self._undecided):
            self._forget(client)
            client.transport.close()

    def connected(self, transport: Transport) -> _Client:
        """A connection was accepted, TLS included."""
        client = _Client(transport)
        self._undecided.add(client)
        client.too_late = asyncio.get_running_loop().call_later(CONNECT_LIMIT_S, self._give_up, client)
        return client

    def received(self, client: _Client, data: bytes) -> None:
        """Bytes came."""
        if client.handler is not None:
            client.handler.received(client.served, data)
        elif client in self._undecided:
            client.kept += data
            self._decide(client, data)

    def writing_paused(self, client: _Client) -> None:
        """The peer does not read."""
        if client.handler is not None:
            client.handler.writing_paused(client.served)

    def writing_resumed(self, client: _Client) -> None:
        """The peer reads again."""
        if client.handler is not None:
            client.handler.writing_resumed(client.served)

    def disconnected(self, client: _Client, error: str) -> None:
        """The connection is gone, by whichever side."""
        if client.handler is not None:
            client.handler.disconnected(client.served, error)
        else:
            self._forget(client)

    def _decide(self, client: _Client, data: bytes) -> None:
        handler = self._devices
        try:
            packets = client.codec.receive_data(data)
            if not packets:
                return
            first = packets[0]
            if isinstance(first, Connect) and is_user_name(first.user_name or ""):
                handler = self._provisioning
        except RemoteProtocolError:
            pass  # the hub says to the peer what is wrong with these bytes
        self._forget(client)
        client.handler = handler
        client.served = handler.connected(client.transport)
        handler.received(client.served, bytes(client.kept))
        client.kept.clear()

    def _give_up(self, client: _Client) -> None:
        log.warning("%s: no CONNECT within %.0f s", client.transport.peer, CONNECT_LIMIT_S)
        self._forget(client)
        client.transport.close()

    def _forget(self, client: _Client) -> None:
        self._undecided.discard(client)
        if client.too_late is not None:
            client.too_late.cancel()
