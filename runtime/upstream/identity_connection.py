"""What a connection of one identity to IoT Hub is over either protocol: its door, and what it owes.

Whatever is asked in whatever thread is done on one loop, in order, so that no state here needs a lock.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from actors.upstream.connection import CloudAccess, CloudFault, CloudObserver
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.topics import Feature
from runtime.upstream import faults
from runtime.upstream.method_calls import MethodCalls
from runtime.upstream.requests import TwinRequests
from runtime.upstream.shared import Shared

log = logging.getLogger(__name__)

T = TypeVar("T")


class IdentityConnection(Generic[T]):
    """Implements `CloudConnection`: public methods hand over to the loop, all others run on it.

    A protocol has a subclass; T is what the cloud's id of a method call is there.
    """

    def __init__(self, access: CloudAccess, observer: CloudObserver, shared: Shared) -> None:
        self.access = access
        self.on_closed: Callable[[], None] = lambda: None
        self._observer = observer
        self._shared = shared
        self._loop = shared.loop
        self._times = shared.times
        self._who = str(access.identity)
        self._is_closed = False  # for good
        self._wanted: frozenset[Feature] = frozenset()
        self._requests = TwinRequests()
        self._calls: MethodCalls[T] = MethodCalls()
        self._ids = itertools.count(1)

    # any thread

    def open(self) -> None:
        self._loop.call(self._open)

    def want(self, features: frozenset[Feature]) -> None:
        self._loop.call(self._want, features)

    def send(self, number: int, message: Message) -> None:
        self._loop.call(self._send, number, message)

    def get_twin(self, number: int) -> None:
        self._loop.call(self._ask, number, True, b"")

    def patch_reported(self, number: int, patch: bytes) -> None:
        self._loop.call(self._ask, number, False, patch)

    def answer_method(self, request_id: str, status: int, payload: bytes) -> None:
        self._loop.call(self._answer, request_id, status, payload)

    def drop(self, fault: CloudFault) -> None:
        """Lose the connection, if there is one."""
        self._loop.call(self._drop, fault)

    def close(self) -> None:
        self._loop.call(self._close)

    # on the loop

    def _send(self, number: int, message: Message) -> None:
        if self._may_ask(number):
            self._send_telemetry(number, message)

    def _ask(self, number: int, is_get: bool, payload: bytes) -> None:
        """Ask for the twin, or have reported properties patched."""
        if not self._may_ask(number):
            return
        if len(payload) > LARGEST_MESSAGE_BYTES:
            fault = faults.too_large(len(payload), LARGEST_MESSAGE_BYTES, "a reported patch of")
            self._observer.failed(number, fault)
            return
        due_s = time.monotonic() + self._times.twin_s
        self._requests.add(self._next_id(), number, is_get, payload, due_s)
        self._send_requests()

    def _may_ask(self, number: int) -> bool:
        """Say whether anything can be asked for now; whoever asks in vain is told."""
        if self._is_closed:
            return False
        if not self._is_connected:
            self._observer.failed(number, faults.not_connected(self.access.host_name))
            return False
        return True

    def _twin_answered(self, request_id: str, status: int, body: bytes) -> None:
        request = self._requests.answered(request_id)
        if request is None:
            return
        if status < 300:
            self._observer.done(request.number, body if request.is_get else b"")
        else:
            self._observer.failed(request.number, faults.of_status(status, request.what, body))

    def _fail_overdue(self, now_s: float) -> None:
        """Tell of requests that had no answer in time."""
        for request in self._requests.overdue(now_s):
            self._observer.failed(request.number, faults.no_answer(request.what, self._times.twin_s))

    def _called(self, cloud_id: T, name: str, payload: bytes) -> None:
        request_id = self._next_id()
        self._calls.came(request_id, cloud_id, time.monotonic())
        self._observer.method_called(request_id, name, payload or b"null")

    def _answer(self, request_id: str, status: int, payload: bytes) -> None:
        cloud_id = self._calls.answered(request_id)
        if cloud_id is None:
            return
        if len(payload) > LARGEST_MESSAGE_BYTES:
            log.error("method of '%s': an answer of %d bytes is not sent", self._who, len(payload))
            return
        self._send_answer(cloud_id, status, payload)

    def _next_id(self) -> str:
        return format(next(self._ids), "x")

    # what a protocol does

    @property
    def _is_connected(self) -> bool:
        raise NotImplementedError

    def _open(self) -> None:
        raise NotImplementedError

    def _want(self, features: frozenset[Feature]) -> None:
        """Subscribe to what is wanted from now on, and to nothing else."""
        raise NotImplementedError

    def _send_telemetry(self, number: int, message: Message) -> None:
        raise NotImplementedError

    def _send_requests(self) -> None:
        """Send what waits in `_requests`, as soon as it can be answered."""
        raise NotImplementedError

    def _send_answer(self, cloud_id: T, status: int, payload: bytes) -> None:
        raise NotImplementedError

    def _drop(self, fault: CloudFault) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError
