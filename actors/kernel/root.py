"""The root of a process: starts its children one after the other and knows the other process.

Understands: Hello, Welcome, ListDeadLetters, WakeInspector; ActorStarted and ActorStopped of its children
Tells:       whoever said Hello (Welcome), or woke the inspector (InspectorAwake)
Started by:  the main program of the process, which ends with a failure when the root gives up
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from actors.kernel.base import ChildSpec, EdgeActor
from messaging.address import child_of, process_of
from messaging.envelope import Envelope
from messaging.kinds import message
from messaging.lifecycle import (
    ActorStarted,
    ActorStopped,
    DeadLetterList,
    Hello,
    InspectorAwake,
    ListDeadLetters,
    RequestFailed,
    WakeInspector,
    Welcome,
)

INSPECTOR: Final = "inspector"  # what the inspector of each process is called


@message
class StartLimit:
    """Timer: this child had its time to start."""

    address: str


class RootActor(EdgeActor):
    """Starts each child when the one before has told that it runs; the process fails with any of them."""

    start_limit_s: ClassVar[float] = 15.0  # for one child

    def __init__(
        self, children: Sequence[ChildSpec], inspector: Callable[[], EdgeActor] | None = None
    ) -> None:
        """Keep what is needed; `inspector` makes that of this process when somebody wants it."""
        self._children = tuple(children)
        self._inspector = inspector
        self._wakers: list[Envelope] = []
        self._started = 0
        self._hellos: dict[str, tuple[Hello, Envelope]] = {}  # by process, until all children run
        self._limit_timer = 0
        self._starts_no_more = False

    def on_start(self) -> None:
        self._start_next()

    def on_actor_started(self, message: ActorStarted) -> None:
        if message.address == self._awaited:
            self.context.cancel_timer(self._limit_timer)
            self._started += 1
            self._start_next()
        elif message.address == child_of(self.address, INSPECTOR):
            wakers, self._wakers = self._wakers, []
            for envelope in wakers:
                self.reply(InspectorAwake(), envelope)

    def on_start_limit(self, message: StartLimit) -> None:
        if message.address == self._awaited:
            self.context.give_up(f"{message.address} did not start within {self.start_limit_s:g} s")

    def on_actor_stopped(self, message: ActorStopped) -> None:
        if message.address == child_of(self.address, INSPECTOR):
            self._wakers.clear()  # whoever waits tries again; for an inspector no process has to end
        elif message.reason:
            self.context.give_up(f"{message.address} {message.reason}")

    def on_hello(self, message: Hello) -> None:
        if self._awaited:
            # Whoever is welcome sends to all actors of this process, so they have to be there.
            self._hellos[message.process] = (message, self.envelope)
        else:
            self._welcome(message, self.envelope)

    def on_welcome(self, message: Welcome) -> None:
        self.context.peer_seen(message.process, message.epoch)

    def on_list_dead_letters(self, message: ListDeadLetters) -> None:
        self.reply(DeadLetterList(*self.context.dead_letters()))

    def on_wake_inspector(self, message: WakeInspector) -> None:
        if self._inspector is None:
            self.reply(RequestFailed("WakeInspector", self.address, "this process has no inspector"))
            return
        self._wakers.append(self.envelope)
        self.context.start_child(ChildSpec(INSPECTOR, self._inspector, exported=True))

    def accepts(self, hello: Hello) -> bool:
        """Decide whether to deal with the other process as it is. For subclasses."""
        return True

    def all_started(self) -> None:
        """Go on after the last child has started. For subclasses."""

    def start_no_more(self) -> None:
        """Leave it at the children that were started: the end of the process comes first. For subclasses."""
        self._starts_no_more = True
        self.context.cancel_timer(self._limit_timer)

    def has_started(self, name: str) -> bool:
        """Tell whether the child `name` has told that it runs."""
        return any(child.name == name for child in self._children[: self._started])

    @property
    def _awaited(self) -> str:
        """The address of the child that is starting; "" when all run."""
        if self._started == len(self._children):
            return ""
        return child_of(self.address, self._children[self._started].name)

    def _start_next(self) -> None:
        if self._starts_no_more:
            return
        if self._started == len(self._children):
            self.all_started()
            waiting, self._hellos = self._hellos, {}
            for hello, envelope in waiting.values():
                self._welcome(hello, envelope)
            return
        self._limit_timer = self.set_timer(self.start_limit_s, StartLimit(self._awaited))
        self.context.start_child(self._children[self._started])

    def _welcome(self, hello: Hello, envelope: Envelope) -> None:
        if not self.accepts(hello):
            return
        self.reply(Welcome(process_of(self.address), self.context.epoch), envelope)
        # Not before it knows us: its answers to what our actors ask at PeerUp would be for the one before us.
        if hello.knows == self.context.epoch:
            self.context.peer_seen(hello.process, hello.epoch)
