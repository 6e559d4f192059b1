"""How what connections tell, in threads of their own, comes to the actor that holds them.

The actor is woken once for all that has gathered. What a connection hands over cannot travel in an envelope:
the word that a cloud-to-device message is taken is a function.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from actors.upstream.connection import CloudFault
from actors.upstream.rate import is_final
from messaging.message import Message


class Connected(Struct, frozen=True):
    """The connection stands."""


class Lost(Struct, frozen=True):
    """There is no connection, or not any more."""

    fault: CloudFault


class Done(NamedTuple):
    """The cloud did what was asked."""

    number: int
    answer: bytes


class Failed(Struct, frozen=True):
    """The cloud did not do it."""

    number: int
    fault: CloudFault


class DesiredPatched(Struct, frozen=True):
    """Desired properties were patched."""

    patch: bytes


class MethodCalled(Struct, frozen=True):
    """The cloud calls a method."""

    request_id: str
    name: str
    payload: bytes


class C2dCame(Struct, frozen=True):
    """A cloud-to-device message, and how to say what became of it."""

    message: Message
    taken: Callable[[bool], None]


Event = Connected | Lost | Done | Failed | DesiredPatched | MethodCalled | C2dCame


class Events:
    """What was told and not yet taken, in order. Any thread may put."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Keep how to wake the actor, which then takes everything."""
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: list[tuple[Observer | None, Event | None]] = []

    def put(self, observer: Observer | None, event: Event | None) -> None:
        """Add what one connection told; no connection at all: the cloud can be reached."""
        with self._lock:
            is_first = not self._waiting
            self._waiting.append((observer, event))
        if is_first:
            self._wake()

    def reached(self) -> None:
        """A probe got through to the cloud."""
        self.put(None, None)

    def take(self) -> list[tuple[Observer | None, Event | None]]:
        """Return everything, in order."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken


class Observer:
    """Implements `CloudObserver` for one connection.

    Numbers of messages are above 0, those of other requests below.
    """

    def __init__(self, identity: str, events: Events) -> None:
        self.identity = identity
        self.stopped = False  # a message failed that has to be sent again: nothing may go behind it
        self._events = events

    def connected(self) -> None:
        self._events.put(self, Connected())

    def lost(self, fault: CloudFault) -> None:
        self.stopped = True
        self._events.put(self, Lost(fault))

    def done(self, number: int, answer: bytes) -> None:
        self._events.put(self, Done(number, answer))

    def failed(self, number: int, fault: CloudFault) -> None:
        if number > 0 and not is_final(fault.kind):
            self.stopped = True
        self._events.put(self, Failed(number, fault))

    def desired_changed(self, patch: bytes) -> None:
        self._events.put(self, DesiredPatched(patch))

    def method_called(self, request_id: str, name: str, payload: bytes) -> None:
        self._events.put(self, MethodCalled(request_id, name, payload))

    def message_received(self, message: Message, taken: Callable[[bool], None]) -> None:
        self._events.put(self, C2dCame(message, taken))
