"""A publisher over AMQP: the client by which an edge speaks to an IoT Hub, turned to the edge's own hub."""

from __future__ import annotations

import base64
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from actors.upstream.connection import CloudAccess, CloudConnection, CloudFault
from actors.upstream.protocol import UpstreamProtocol
from messaging.envelope import Secret
from messaging.message import Message
from runtime.faults.clients import RETRY_S, SILENCE_LIMIT_S, TURN_S, Publisher
from runtime.faults.stamps import Key, body_of
from runtime.upstream.connections import UpstreamConnections

IN_FLIGHT: Final = 100


class AmqpPublisher(Publisher):
    """One connection after the other, on a thread of its own, as a publisher over MQTT."""

    def _run(self) -> None:
        connections = UpstreamConnections(UpstreamProtocol.AMQP)
        access = CloudAccess(
            self.account.identity,
            self.account.address[0],
            Secret(base64.b64encode(self.account.key)),
            Path(self.account.ca_file).read_text(encoding="ascii"),
        )
        try:
            while not self._ended.is_set():
                events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
                connection = connections.make(access, _Observer(events))
                self._break.clear()
                connection.open()
                self._speak(connection, events)
                self.is_connected = False
                connection.close()
                self._ended.wait(RETRY_S)
        finally:
            connections.close()

    def _speak(self, connection: CloudConnection, events: queue.SimpleQueue[_Event]) -> None:
        """Send until the connection is lost or of no more use."""
        heard_s = time.monotonic()
        while not self._ended.is_set() and not self._break.is_set():
            try:
                kind, number = events.get(timeout=TURN_S)
            except queue.Empty:
                kind, number = "", 0
            if kind == "connected":
                self.connections += 1
                self.is_connected = True
                self._connected()
                for sequence in sorted(self._unacknowledged):
                    self._send(connection, sequence, body_of(Key(self.number, 0, sequence), self._size))
            elif kind == "done":
                self._took([number])
            elif kind:
                return  # what failed here is sent again over the next connection
            now_s = time.monotonic()
            if kind or not self._unacknowledged:
                heard_s = now_s
            if now_s - heard_s > SILENCE_LIMIT_S:
                return
            if self.is_connected and not self._stalled.is_set():
                due = self._due(now_s)
                while self.sent < due and len(self._unacknowledged) < IN_FLIGHT:
                    sequence, _, body = self._next()
                    self._send(connection, sequence, body)

    def _send(self, connection: CloudConnection, sequence: int, body: bytes) -> None:
        connection.send(sequence, Message("", {}, {}, body))


_Event = tuple[str, int]


class _Observer:
    """Hands on what the connection tells, from its threads."""

    def __init__(self, events: queue.SimpleQueue[_Event]) -> None:
        self._events = events

    def connected(self) -> None:
        self._events.put(("connected", 0))

    def lost(self, fault: CloudFault) -> None:
        self._events.put(("lost", 0))

    def done(self, number: int, answer: bytes) -> None:
        self._events.put(("done", number))

    def failed(self, number: int, fault: CloudFault) -> None:
        self._events.put(("failed", number))

    def desired_changed(self, patch: bytes) -> None:
        """Nobody asked."""

    def method_called(self, request_id: str, name: str, payload: bytes) -> None:
        """Nobody asked."""

    def message_received(self, message: Message, taken: Callable[[bool], None]) -> None:
        """Nobody asked."""
