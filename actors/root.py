"""The root of a process: starts its children one after the other and knows the other process.

Understands: Hello, Welcome, ListDeadLetters; ActorStarted and ActorStopped of its children
Tells:       whoever said Hello (Welcome)
Started by:  the main program of the process, which ends with a failure when the root gives up
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from actors.base import ChildSpec, EdgeActor
from messaging.address import child_of, process_of
from messaging.kinds import message
from messaging.lifecycle import (
    ActorStarted,
    ActorStopped,
    DeadLetterList,
    Hello,
    ListDeadLetters,
    Welcome,
)


@message
class StartLimit:
    """Timer: this child had its time to start."""

    address: str


class RootActor(EdgeActor):
    """Starts each child when the one before has told that it runs; the process fails with any of them."""

    start_limit_s: ClassVar[float] = 15.0  # for one child

    def __init__(self, children: Sequence[ChildSpec]) -> None:
        self._children = tuple(children)
        self._started = 0
        self._limit_timer = 0

    def on_start(self) -> None:
        self._start_next()

    def on_actor_started(self, message: ActorStarted) -> None:
        if message.address == self._awaited:
            self.context.cancel_timer(self._limit_timer)
            self._started += 1
            self._start_next()

    def on_start_limit(self, message: StartLimit) -> None:
        if message.address == self._awaited:
            self.context.give_up(f"{message.address} did not start within {self.start_limit_s:g} s")

    def on_actor_stopped(self, message: ActorStopped) -> None:
        if message.reason:
            self.context.give_up(f"{message.address} {message.reason}")

    def on_hello(self, message: Hello) -> None:
        self.context.peer_seen(message.process, message.epoch)
        self.reply(Welcome(process_of(self.address), self.context.epoch))

    def on_welcome(self, message: Welcome) -> None:
        self.context.peer_seen(message.process, message.epoch)

    def on_list_dead_letters(self, message: ListDeadLetters) -> None:
        self.reply(DeadLetterList(*self.context.dead_letters()))

    def all_started(self) -> None:
        """Go on after the last child has started. For subclasses."""

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
        if self._started == len(self._children):
            self.all_started()
            return
        self._limit_timer = self.set_timer(self.start_limit_s, StartLimit(self._awaited))
        self.context.start_child(self._children[self._started])
