"""Cloud-to-device messages on their way from a connection to the queue of their device in the store.

One message of a device at a time goes to the router; the cloud is told that it is taken once it is on disk.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct, field

from actors.kernel.base import EdgeActor
from actors.upstream.events import Observer
from actors.upstream.messages import C2dReceived
from messaging.message import Message, encode_header

ANSWER_LIMIT_S: Final = 20.0  # then the hub is told once more; a message stored twice is better than none
RETRY_S: Final = 1.0  # after the hub said that it could not store it


class _Waiting(Struct):
    message: Message
    taken: Callable[[bool], None]
    observer: Observer
    numbers: set[int] = field(default_factory=set)  # under which the hub was told, this time or earlier
    again_s: float = 0.0  # monotonic, when to tell it again


class C2dIntake:
    """A part of the actor of the link. Forgets what came by a connection that is gone: it comes again."""

    def __init__(self, actor: EdgeActor, router: str) -> None:
        self._actor = actor
        self._router = router
        self._devices: dict[str, deque[_Waiting]] = {}
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Begin to count where no actor before has."""
        self._numbers = itertools.count(int(self._actor.clock.monotonic_s() * 1e6) + 1)

    def came(self, observer: Observer, message: Message, taken: Callable[[bool], None]) -> None:
        """Take a message from the cloud."""
        waiting = self._devices.setdefault(observer.identity, deque())
        waiting.append(_Waiting(message, taken, observer))
        if len(waiting) == 1:
            self._tell(observer.identity, waiting[0])

    def stored(self, numbers: Iterable[int]) -> None:
        """The hub has these on disk."""
        wanted = set(numbers)
        for device, waiting in list(self._devices.items()):
            if waiting and waiting[0].numbers & wanted:
                waiting.popleft().taken(True)
                self._go_on(device, waiting)

    def refused(self, number: int) -> None:
        """The hub could not store this one."""
        for waiting in self._devices.values():
            if waiting and number in waiting[0].numbers:
                waiting[0].again_s = self._actor.clock.monotonic_s() + RETRY_S

    def look(self) -> None:
        """Tell the hub once more what it should have stored by now. To be called every second or so."""
        now_s = self._actor.clock.monotonic_s()
        for device, waiting in self._devices.items():
            if waiting and waiting[0].again_s <= now_s:
                self._tell(device, waiting[0])

    def unwanted(self, device: str) -> None:
        """The device is gone, or wants none any more: give back what is not on its way to the disk."""
        waiting = self._devices.pop(device, deque())
        kept = deque(one for one in waiting if one.numbers)
        for one in waiting:
            if not one.numbers:
                one.taken(False)
        if kept:
            self._devices[device] = kept

    def lost(self, observer: Observer) -> None:
        """The connection is gone: the cloud will send these again."""
        waiting = self._devices.pop(observer.identity, deque())
        kept = deque(one for one in waiting if one.observer is not observer)
        if kept:
            self._devices[observer.identity] = kept
            self._go_on(observer.identity, kept)

    def _go_on(self, device: str, waiting: deque[_Waiting]) -> None:
        if not waiting:
            del self._devices[device]
        elif not waiting[0].numbers:
            self._tell(device, waiting[0])

    def _tell(self, device: str, one: _Waiting) -> None:
        number = next(self._numbers)
        one.numbers.add(number)
        one.again_s = self._actor.clock.monotonic_s() + ANSWER_LIMIT_S
        message = one.message
        header = encode_header(message.source, message.properties, message.system_properties)
        self._actor.context.send(
            self._router, C2dReceived(device, header, message.body), correlation_id=number
        )
