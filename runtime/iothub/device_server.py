"""Serves one protocol of the IoT Hub stand-in: the handler behind its listeners.

It knows nothing of sockets: a listener gives it connections over TCP with TLS, the WebSocket front those over
WebSocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from actors.ports.connections import Transport

TICK_S: Final = 1.0


class Served(Protocol):
    """One connection, from accept to its end."""

    def received(self, data: bytes) -> None:
        """Bytes came."""
        ...

    def writing_paused(self) -> None:
        """The peer does not read."""
        ...

    def writing_resumed(self) -> None:
        """The peer reads again."""
        ...

    def lost(self, reason: str) -> None:
        """The connection is gone, by whichever side."""
        ...

    def look(self) -> None:
        """Do what is due by the clock."""
        ...

    def stop(self) -> None:
        """The hub stops: end the connection, begin nothing more for it."""
        ...


C = TypeVar("C", bound=Served)


class DeviceServer(Generic[C]):
    """Implements `actors.ports.ConnectionHandler`. Belongs to the loop that `open` is called in."""

    def __init__(self, make: Callable[[Transport, Callable[[C], None]], C]) -> None:
        """Keep how a connection is made, of its transport and of what it calls at its end."""
        self._make = make
        self._connections: set[C] = set()
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

    def connected(self, transport: Transport) -> C:
        """A connection was accepted, TLS included."""
        connection = self._make(transport, self._connections.discard)
        self._connections.add(connection)
        return connection

    def received(self, client: C, data: bytes) -> None:
        """Bytes came."""
        client.received(data)

    def writing_paused(self, client: C) -> None:
        """The peer does not read."""
        client.writing_paused()

    def writing_resumed(self, client: C) -> None:
        """The peer reads again."""
        client.writing_resumed()

    def disconnected(self, client: C, error: str) -> None:
        """The connection is gone, by whichever side."""
        client.lost(error)
