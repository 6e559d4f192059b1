"""Serves AMQP 1.0 to devices, modules and services of the IoT Hub stand-in: the handler behind its listeners.

It knows nothing of sockets: a listener gives it connections over TCP with TLS, the WebSocket front those over
WebSocket.
"""

from __future__ import annotations

import asyncio
from typing import Final

from actors.ports.connections import Transport
from messaging.clock import Clock, SystemClock
from runtime.iothub.amqp.credit import Credit
from runtime.iothub.amqp.front import AmqpConnection
from runtime.iothub.amqp.services import service_links
from runtime.iothub.hub import IotHub

TICK_S: Final = 1.0


class AmqpServer:
    """Implements `actors.ports.ConnectionHandler`. Belongs to the loop that `open` is called in."""

    def __init__(
        self,
        hub: IotHub,
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._services = service_links()
        self._credit = Credit()
        self._connections: set[AmqpConnection] = set()
        self._tick: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Look after clients that are silent, late, stuck, or whose tokens have expired."""
        self._tick = asyncio.get_running_loop().call_later(TICK_S, self._look)

    def close(self) -> None:
        """End all connections; the clients come back. Close the listeners first, the hub afterwards."""
        if self._tick is not None:
            self._tick.cancel()
        for connection in list(self._connections):
            connection.stop()

    def look(self) -> None:
        """Do what is due by the clock, for all connections."""
        for connection in list(self._connections):
            connection.look()

    def _look(self) -> None:
        self.open()
        self.look()

    # what a listener says: ConnectionHandler

    def connected(self, transport: Transport) -> AmqpConnection:
        """A connection was accepted, TLS included."""
        connection = AmqpConnection(
            self._hub, self._clock, self._credit, transport, self._services, self._connections.discard
        )
        self._connections.add(connection)
        return connection

    def received(self, client: AmqpConnection, data: bytes) -> None:
        """Bytes came."""
        client.received(data)

    def writing_paused(self, client: AmqpConnection) -> None:
        """The peer does not read."""
        client.writing_paused()

    def writing_resumed(self, client: AmqpConnection) -> None:
        """The peer reads again."""
        client.writing_resumed()

    def disconnected(self, client: AmqpConnection, error: str) -> None:
        """The connection is gone, by whichever side."""
        client.lost(error)
