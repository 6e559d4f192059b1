"""Who watches a cloud connection in a test: keeps what it is told, and waits for it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any, Final

from actors.upstream.connection import CloudFault
from messaging.message import Message

LIMIT_S: Final = 20.0


class ObservedConnection:
    """Implements `CloudObserver`. Each call becomes a tuple: its name and its arguments."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def connected(self) -> None:
        self._told.put(("connected",))

    def lost(self, fault: CloudFault) -> None:
        self._told.put(("lost", fault))

    def done(self, number: int, answer: bytes) -> None:
        self._told.put(("done", number, answer))

    def failed(self, number: int, fault: CloudFault) -> None:
        self._told.put(("failed", number, fault))

    def desired_changed(self, patch: bytes) -> None:
        self._told.put(("desired_changed", patch))

    def method_called(self, request_id: str, name: str, payload: bytes) -> None:
        self._told.put(("method_called", request_id, name, payload))

    def message_received(self, message: Message, taken: Callable[[bool], None]) -> None:
        self._told.put(("message_received", message, taken))

    def any(self, limit_s: float = LIMIT_S) -> tuple[Any, ...]:
        """Return the next call: its name and its arguments."""
        return self._told.get(timeout=limit_s)

    def next(self, name: str, limit_s: float = LIMIT_S) -> tuple[Any, ...]:
        """Return the arguments of the next call, which has to be this one."""
        told = self.any(limit_s)
        assert told[0] == name, f"{told} instead of {name}"
        return told[1:]

    def until(self, name: str, limit_s: float = LIMIT_S) -> list[tuple[Any, ...]]:
        """Return all calls up to and with the next one of this name."""
        deadline_s = time.monotonic() + limit_s
        calls: list[tuple[Any, ...]] = []
        while not calls or calls[-1][0] != name:
            try:
                calls.append(self._told.get(timeout=max(0.0, deadline_s - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"no {name} within {limit_s} s; told {calls[-5:]}") from None
        return calls

    def is_quiet(self, limit_s: float = 0.0) -> bool:
        """Whether nothing is told within the limit."""
        try:
            told = self._told.get(timeout=limit_s) if limit_s else self._told.get_nowait()
        except queue.Empty:
            return True
        raise AssertionError(f"told {told}")
