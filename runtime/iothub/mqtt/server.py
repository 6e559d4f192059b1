"""Serves MQTT 3.1.1 to devices and modules of the IoT Hub stand-in: the handler behind its listeners.

It knows nothing of sockets: `StreamListener` gives it connections over TCP with TLS, the WebSocket front
those over WebSocket.
"""

from __future__ import annotations

import asyncio
from typing import Final

from actors.ports.connections import Transport
from messaging.clock import Clock, SystemClock
from runtime.iothub.amqp.credit import Credit
from runtime.iothub.hub import IotHub
from runtime.iothub.mqtt.session import MqttSession

TICK_S: Final = 1.0


class MqttServer:
    """Implements `actors.ports.ConnectionHandler`. Belongs to the loop that `open` is called in."""

    def __init__(self, hub: IotHub, clock: Clock = SystemClock()) -> None:  # noqa: B008
        self._hub = hub
        self._clock = clock
        self._credit = Credit()
        self._sessions: set[MqttSession] = set()
        self._tick: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Look after clients that are silent, late, stuck, or whose token has expired."""
        self._tick = asyncio.get_running_loop().call_later(TICK_S, self._look)

    def close(self) -> None:
        """End all connections; the clients come back. Close the listeners first, the hub afterwards."""
        if self._tick is not None:
            self._tick.cancel()
        for session in list(self._sessions):
            session.stop()

    def look(self) -> None:
        """End the connections that are overdue."""
        for session in list(self._sessions):
            reason = session.overdue()
            if reason:
                session.end(reason)

    def _look(self) -> None:
        self.open()
        self.look()

    # what a listener says: ConnectionHandler

    def connected(self, transport: Transport) -> MqttSession:
        """A connection was accepted, TLS included."""
        session = MqttSession(self._hub, self._clock, self._credit, transport, self._sessions.discard)
        self._sessions.add(session)
        return session

    def received(self, client: MqttSession, data: bytes) -> None:
        """Bytes came."""
        client.received(data)

    def writing_paused(self, client: MqttSession) -> None:
        """The peer does not read."""
        client.writing_paused()

    def writing_resumed(self, client: MqttSession) -> None:
        """The peer reads again."""
        client.writing_resumed()

    def disconnected(self, client: MqttSession, error: str) -> None:
        """The connection is gone, by whichever side."""
        client.lost(error)
