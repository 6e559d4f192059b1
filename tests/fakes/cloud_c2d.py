"""The cloud's actor with nothing but cloud-to-device queues, in memory."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Final

from actors.hub.client_services import ClientChanged, ClientGone, HeadStarted
from actors.kernel.base import EdgeActor
from actors.store.messages import Stored
from actors.upstream.messages import C2dReceived
from messaging.kinds import message
from messaging.lifecycle import RequestFailed
from messaging.topics import Feature

ANSWER_LIMIT_S: Final = 20.0
RETRY_S: Final = 1.0


@message
class SendC2d:
    """From the test, as the service: send this to a device."""

    device_id: str
    header: bytes
    body: bytes


@message
class AnswerDue:
    """Timer: the hub should have stored this by now."""

    number: int


@message
class Again:
    """Timer: hand the first message of a device over once more."""

    device_id: str


class CloudQueues:
    """What waits in the cloud, by device. Outlives a restart of the actor."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[tuple[bytes, bytes]]] = {}

    def bodies(self, device_id: str) -> list[bytes]:
        return [body for _, body in self.waiting.get(device_id, ())]


class MemoryC2dCloud(EdgeActor):
    """Hands one message of a device at a time over, and forgets it when the hub has it on disk."""

    def __init__(self, queues: CloudQueues, router: str) -> None:
        self._queues = queues.waiting
        self._router = router
        self._wanting: dict[str, str] = {}  # device → its head
        self._under_way: dict[str, int] = {}  # device → correlation id
        self._numbers = itertools.count(1)

    def on_start(self) -> None:
        # What was on its way before a restart may still be answered.
        self._numbers = itertools.count(int(self.clock.monotonic_s() * 1e6) + 1)

    def on_send_c2d(self, message: SendC2d) -> None:
        self._queues.setdefault(message.device_id, deque()).append((message.header, message.body))
        self._go_on(message.device_id)

    def on_head_started(self, message: HeadStarted) -> None:
        started = self.envelope.sender
        self._wanting = {device: head for device, head in self._wanting.items() if head != started}

    def on_client_changed(self, message: ClientChanged) -> None:
        if Feature.C2D.name in message.features:
            self._wanting[message.identity] = self.envelope.sender
            self._go_on(message.identity)
        else:
            self._wanting.pop(message.identity, None)

    def on_client_gone(self, message: ClientGone) -> None:
        if self._wanting.get(message.identity) == self.envelope.sender:
            del self._wanting[message.identity]

    def on_stored(self, message: Stored) -> None:
        for device, number in list(self._under_way.items()):
            if number in message.batches:
                del self._under_way[device]
                self._queues[device].popleft()
                self._go_on(device)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._failed(self.envelope.correlation_id)

    def on_answer_due(self, message: AnswerDue) -> None:
        self._failed(message.number)

    def on_again(self, message: Again) -> None:
        self._go_on(message.device_id)

    def _failed(self, number: int) -> None:
        for device in [device for device, asked in self._under_way.items() if asked == number]:
            del self._under_way[device]
            self.set_timer(RETRY_S, Again(device))

    def _go_on(self, device: str) -> None:
        waiting = self._queues.get(device)
        if not waiting or device in self._under_way or device not in self._wanting:
            return
        number = self._under_way[device] = next(self._numbers)
        header, body = waiting[0]
        self.context.send(self._router, C2dReceived(device, header, body), correlation_id=number)
        self.set_timer(ANSWER_LIMIT_S, AnswerDue(number))
