"""Small actors for the tests of the kernel."""

from __future__ import annotations

from typing import Any, ClassVar

from actors.kernel.base import ChildSpec, EdgeActor
from messaging.kinds import data_message, message
from messaging.lifecycle import (
    ActorRestarted,
    ActorStarted,
    ActorStopped,
    DeadlinePassed,
    PeerDown,
    PeerUp,
    RequestFailed,
    Watch,
)


@message
class Note:
    """Remember this number."""

    number: int


@data_message
class Load:
    """Remember this number, in the data lane."""

    number: int


@message
class Burst:
    """Make the handler fail."""

    text: str


@message
class Exit:
    """Make the handler raise a BaseException."""


@message
class Chime:
    """A timer."""

    number: int


@message
class ChimeIn:
    """Set a timer; `cancel` takes it back at once."""

    after_s: float
    number: int
    cancel: bool = False


@message
class Recall:
    """Tell what you remember."""


@message
class Memory:
    """What an actor remembers."""

    numbers: tuple[int, ...]
    generation: int


@message
class AskOther:
    """Send Recall to another actor and tell me how that went."""

    address: str
    timeout_s: float


@message
class Outcome:
    """How a request to another actor went."""

    text: str


@message
class WatchOther:
    """Watch another actor or process."""

    address: str


class Notebook(EdgeActor):
    """Remembers numbers until it restarts."""

    generations: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.asker: Any = None
        self.notices: list[str] = []

    def on_start(self) -> None:
        self.generations[self.address] = self.generations.get(self.address, 0) + 1

    def on_note(self, message: Note) -> None:
        self.numbers.append(message.number)

    def on_load(self, message: Load) -> None:
        self.numbers.append(message.number)

    def on_burst(self, message: Burst) -> None:
        raise ValueError(message.text)

    def on_exit(self, message: Exit) -> None:
        raise SystemExit(3)

    def on_chime(self, message: Chime) -> None:
        self.numbers.append(message.number)

    def on_chime_in(self, message: ChimeIn) -> None:
        timer = self.set_timer(message.after_s, Chime(message.number))
        if message.cancel:
            self.context.cancel_timer(timer)

    def on_recall(self, message: Recall) -> None:
        self.reply(Memory(tuple(self.numbers), self.generations[self.address]))

    def on_ask_other(self, message: AskOther) -> None:
        self.asker = self.envelope
        self.request(message.address, Recall(), message.timeout_s)

    def on_memory(self, message: Memory) -> None:
        self.reply(Outcome(f"remembers {message.numbers}"), self.asker)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self.reply(Outcome(f"{message.kind} to {message.address}: too late"), self.asker)

    def on_request_failed(self, message: RequestFailed) -> None:
        self.reply(Outcome(f"failed: {message.reason}"), self.asker)

    def on_watch_other(self, message: WatchOther) -> None:
        if "/" in message.address:
            self.tell(message.address, Watch())
        else:
            self.context.watch_peer(message.address)
        self.asker = self.envelope

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self.reply(Outcome(f"{message.address} restarted: {message.reason}"), self.asker)

    def on_actor_stopped(self, message: ActorStopped) -> None:
        self.reply(Outcome(f"{message.address} stopped"), self.asker)

    def on_peer_up(self, message: PeerUp) -> None:
        self.reply(Outcome(f"{message.process} up"), self.asker)

    def on_peer_down(self, message: PeerDown) -> None:
        self.reply(Outcome(f"{message.process} down"), self.asker)


class Failing(EdgeActor):
    """Cannot start."""

    def on_start(self) -> None:
        raise OSError("the disk is on fire")


class Parent(EdgeActor):
    """Starts two notebooks and writes down who starts and stops."""

    def __init__(self, story: list[str], children: tuple[ChildSpec, ...]) -> None:
        self.story = story
        self.children = children

    def on_start(self) -> None:
        self.start_children(self.children)

    def on_actor_started(self, message: ActorStarted) -> None:
        self.story.append(f"{message.address} started")

    def on_stop(self) -> None:
        self.story.append("parent closed")


class Chronicler(EdgeActor):
    """Writes its end into a story."""

    def __init__(self, name: str, story: list[str]) -> None:
        self.name = name
        self.story = story

    def on_stop(self) -> None:
        self.story.append(f"{self.name} closed")
