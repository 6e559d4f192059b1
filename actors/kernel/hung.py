"""Finds handlers that hang: reports each with its thread's stack, ends the process when one never returns.

A thread cannot be killed, and one that hangs holds up whoever shares it; so the last resort is the end of
the process, which is restarted from outside. Once a second one thread looks at what all the others are
doing. The others only say which turn they are in; what else is to be known is read off the actor's cell.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

log = logging.getLogger(__name__)


class HungLimits(Struct, frozen=True):
    """How often to look, and how long a handler may take. In seconds."""

    look_s: float = 1.0
    report_s: float = 5.0
    end_s: float = 10.0


LIMITS: Final = HungLimits()


class Sight(NamedTuple):
    """What a thread was seen doing."""

    address: str  # of the actor; "" in a callback of an event loop that belongs to none
    doing: str  # the kind of the message, or the method that follows no message
    marks: tuple[object, ...]  # as soon as the thread has got on, one of them is another object


class Hung(NamedTuple):
    """A thread that does not get on."""

    thread: str
    sight: Sight
    seconds: float  # at least
    ends: bool  # so long that the process has to end


class HungHandlers:
    """Tells from one look to the next who has not got on.

    Counts looks instead of reading a clock: a process that was stopped for a while has not hung.
    """

    def __init__(self, limits: HungLimits = LIMITS) -> None:
        self._limits = limits
        self._seen: dict[str, tuple[Sight, int]] = {}  # by thread, with how many looks ago

    def look(self, sights: Mapping[str, Sight]) -> list[Hung]:
        """Return which threads have now hung for `report_s`, and which for `end_s`, each once.

        Args:
            sights: What each busy thread is doing, by its name.
        """
        limits, seen = self._limits, self._seen
        self._seen = {}
        hung = []
        for thread, sight in sights.items():
            before, looks = seen.get(thread, (sight, -1))
            looks = looks + 1 if _is_the_same(before, sight) else 0
            self._seen[thread] = (sight, looks)
            seconds, earlier = looks * limits.look_s, (looks - 1) * limits.look_s
            if earlier < limits.end_s <= seconds:
                hung.append(Hung(thread, sight, seconds, ends=True))
            elif earlier < limits.report_s <= seconds:
                hung.append(Hung(thread, sight, seconds, ends=False))
        return hung

    def busy(self) -> list[Hung]:
        """Return which threads were seen with the same work at two looks or more, hung or not."""
        return [
            Hung(thread, sight, looks * self._limits.look_s, ends=False)
            for thread, (sight, looks) in self._seen.copy().items()
            if looks > 0
        ]


def _is_the_same(one: Sight, other: Sight) -> bool:
    return len(one.marks) == len(other.marks) and all(
        mine is yours for mine, yours in zip(one.marks, other.marks, strict=True)
    )


class Carrier(Protocol):
    """A thread that runs actors."""

    name: str
    ident: int

    def sight(self) -> Sight | None:
        """Return what the thread is doing, None while it waits. Called from another thread."""
        ...


class Lookout:
    """The thread that looks at the others, for as long as there are any."""

    def __init__(self, end: Callable[[str], None] | None, limits: HungLimits = LIMITS) -> None:
        """Look for nothing yet.

        Args:
            end: Ends the process at once, is told why. None: nobody looks.
            limits: How often to look, and when to act.
        """
        self.looks = end is not None
        self.look_s = limits.look_s
        self._end = end
        self._handlers = HungHandlers(limits)
        self._carriers: dict[int, Carrier] = {}
        self._lock = threading.Lock()
        self._alone = threading.Event()
        self._runs = False

    def add(self, carrier: Carrier) -> None:
        """Look at this thread too."""
        if not self.looks:
            return
        with self._lock:
            self._carriers[carrier.ident] = carrier
            self._alone.clear()
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="lookout", daemon=True).start()

    def busy(self) -> dict[str, Hung]:
        """Return which actors have been at one message for a second or longer. From any thread."""
        return {hung.sight.address: hung for hung in self._handlers.busy()}

    def remove(self, carrier: Carrier) -> None:
        """The thread ends."""
        with self._lock:
            self._carriers.pop(carrier.ident, None)
            if not self._carriers:
                self._alone.set()

    def _run(self) -> None:
        while True:
            self._alone.wait(self.look_s)
            with self._lock:
                carriers = list(self._carriers.values())
                if not carriers:
                    self._runs = False
                    return
            self._look(carriers)

    def _look(self, carriers: list[Carrier]) -> None:
        assert self._end is not None
        idents = {carrier.name: carrier.ident for carrier in carriers}
        sights = {carrier.name: sight for carrier in carriers if (sight := carrier.sight()) is not None}
        for hung in self._handlers.look(sights):
            where = hung.sight.address or f"a callback on {hung.thread}"
            what = f"{where} has not come back from {hung.sight.doing} for {hung.seconds:.0f} s"
            log.error("%s; its thread is at\n%s", what, _stack(idents[hung.thread]))
            if hung.ends:
                self._end(what)


def _stack(ident: int) -> str:
    frame = sys._current_frames().get(ident)
    return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "(it has ended)"
