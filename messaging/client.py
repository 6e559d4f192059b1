"""A client of a running edge: blocking `ask` for the command line and for tests, never for actors."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, TypeVar

from messaging.envelope import Envelope, opened
from messaging.errors import AskTimeout, BusError
from messaging.kinds import kind_named
from messaging.lifecycle import RequestFailed
from messaging.zmq_bus import EPHEMERAL, ZmqBus

T = TypeVar("T")


class RequestRefused(BusError):
    """The actor that was asked answered with a failure. `reason` is what it said."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.reason = reason


class NobodyThere(AskTimeout):
    """There was no actor, or no process, to ask: known at once, without waiting."""


class Client:
    """One asker. Use it in one thread; `with Client(...)` closes it."""

    def __init__(self, bus: ZmqBus, address: str, exported: bool = False) -> None:
        self._bus = bus
        self._address = address
        bus.reserve(address)
        self._mailbox = bus.open(address, exported)

    @classmethod
    def outside(cls, run_dir: Path) -> Client:
        """Return a client for the actors of other processes; it owns a bus of its own."""
        process = f"{EPHEMERAL}{os.getpid()}-{os.urandom(3).hex()}"
        client = cls(ZmqBus(process, run_dir), f"{process}/ask", exported=True)
        client._owns_bus = True
        return client

    _owns_bus = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close mailbox and sockets."""
        self._bus.release(self._address)
        self._mailbox.close()
        if self._owns_bus:
            self._bus.close()

    def tell(self, to: str, message: object) -> None:
        """Send one way."""
        self._bus.send(to, message, sender=self._address)

    def ask(self, to: str, message: object, answer: type[T], timeout_s: float = 5.0) -> T:
        """Send and wait for the answer.

        Raises:
            NobodyThere: what was asked does not run (known to clients from outside alone).
            AskTimeout: nobody answered in time.
            RequestRefused: the actor failed on it, or answered with something else.
        """
        bus = self._bus
        deadline_s = time.monotonic() + timeout_s
        asked, dead = bus.next_id(), bus.dead_letters.count
        bus.send(to, message, sender=self._address, correlation_id=asked, deadline_s=deadline_s)
        # On a bus of its own every dead letter is its own; inside a process it may be the receiver's.
        if self._owns_bus and bus.dead_letters.count != dead:
            raise NobodyThere(f"{to} cannot be asked: {bus.dead_letters.recent()[-1].reason}")
        while True:
            envelope = self._next(deadline_s)
            if envelope is None:
                raise AskTimeout(f"{to} did not answer {type(message).__name__} within {timeout_s:g} s")
            if envelope.correlation_id != asked:
                continue
            reply = _message_in(envelope)
            if isinstance(reply, answer):
                return reply
            if isinstance(reply, RequestFailed):
                raise RequestRefused(reply.address, reply.reason)
            raise RequestRefused(to, f"answered {envelope.kind}, {answer.__name__} was expected")

    def receive(self, kind: type[T], timeout_s: float = 5.0) -> T:
        """Wait for the next message of one kind; others are passed over.

        Raises:
            AskTimeout: none came in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            envelope = self._next(deadline_s)
            if envelope is None:
                raise AskTimeout(f"no {kind.__name__} came within {timeout_s:g} s")
            message = _message_in(envelope)
            if isinstance(message, kind):
                return message

    def _next(self, deadline_s: float) -> Envelope | None:
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            mail = self._mailbox.next(left_s)
            if mail is not None:
                return opened(mail)


def _message_in(envelope: Envelope) -> Any:
    kind = kind_named(envelope.kind)
    return kind.build(*envelope.body) if kind is not None else None
