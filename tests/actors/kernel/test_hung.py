"""Handlers that hang: when they count as hung, what is said about them, and that the right one is named."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.kernel.hung import Hung, HungHandlers, HungLimits, Sight
from messaging.client import Client
from messaging.kinds import message
from messaging.lifecycle import Stop
from messaging.zmq_bus import ZmqBus
from tests.actors.kernel_actors import Memory, Note, Notebook, Recall

LIMIT_S = 10.0


def sight(*marks: object, address: str = "hub/store", doing: str = "Append") -> Sight:
    return Sight(address, doing, marks)


def ends_and_reports(hung: list[Hung]) -> list[tuple[str, float, bool]]:
    return [(found.sight.address, found.seconds, found.ends) for found in hung]


def test_a_handler_is_reported_after_five_seconds_and_ends_the_process_after_ten_each_once() -> None:
    handlers, stuck = HungHandlers(), sight(object(), object())

    said = [ends_and_reports(handlers.look({"front": stuck})) for _ in range(13)]

    assert said[5] == [("hub/store", 5.0, False)]
    assert said[10] == [("hub/store", 10.0, True)]
    assert [at for at, found in enumerate(said) if found] == [5, 10]


@pytest.mark.parametrize(
    "moved",
    [lambda turn, _: (turn, object()), lambda _, message: (object(), message)],
    ids=["message", "turn"],
)
def test_a_thread_that_got_on_between_two_looks_is_not_hung(
    moved: Callable[[object, object], tuple[object, ...]],
) -> None:
    handlers, turn, message = HungHandlers(), object(), object()
    for _ in range(5):
        assert handlers.look({"front": sight(turn, message)}) == []

    assert handlers.look({"front": sight(*moved(turn, message))}) == []


def test_a_thread_that_waited_in_between_starts_over() -> None:
    handlers, stuck = HungHandlers(), sight(object())
    for _ in range(5):
        handlers.look({"front": stuck})

    handlers.look({})

    assert [handlers.look({"front": stuck}) for _ in range(5)] == [[]] * 5
    assert ends_and_reports(handlers.look({"front": stuck})) == [("hub/store", 5.0, False)]


def test_several_threads_are_told_apart() -> None:
    handlers, stuck = HungHandlers(HungLimits(1.0, 2.0, 4.0)), sight(object(), address="agent/security")

    for _ in range(2):
        handlers.look({"front": sight(object()), "security": stuck})

    assert ends_and_reports(handlers.look({"front": sight(object()), "security": stuck})) == [
        ("agent/security", 2.0, False)
    ]


@message
class Hang:
    """Block until the test lets go."""


@message
class HangInCallback:
    """Block in a callback of the event loop, outside of any message."""


class Stuck(EdgeActor):
    """Blocks its thread, as a call that never returns does."""

    release = threading.Event()

    def on_hang(self, message: Hang) -> None:
        self.release.wait(LIMIT_S)

    def on_hang_in_callback(self, message: HangInCallback) -> None:
        asyncio.get_running_loop().call_soon(self.release.wait, LIMIT_S)


class StuckAtTurnEnd(EdgeActor):
    """Blocks where the store commits."""

    def on_note(self, message: Note) -> None:
        pass

    def on_turn_end(self) -> None:
        if self.envelope.kind == "Note":
            Stuck.release.wait(LIMIT_S)


class Ended:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.reason = ""

    def __call__(self, reason: str) -> None:
        self.reason = reason
        self.told.set()


class System:
    """Starts actors under a lookout with small limits, and ends them all."""

    def __init__(self, bus: ZmqBus, ended: Ended) -> None:
        self._bus = bus
        self._threads = ThreadSystem(bus, asyncio.new_event_loop, ended, HungLimits(0.02, 0.1, 0.3))
        self._ends: dict[str, threading.Event] = {}

    def start(self, name: str, build: Callable[[], EdgeActor], loop: str) -> None:
        end = self._ends[name] = threading.Event()
        spec = ChildSpec(name, build, loop)
        self._threads.spawn(spec, f"test/{name}", "", lambda reason: end.set())

    def close(self) -> None:
        for name, end in self._ends.items():
            self._bus.send(f"test/{name}", Stop())
            assert end.wait(LIMIT_S)
        for thread in threading.enumerate():
            if thread.name.startswith(("test/", "shared", "lookout")):
                thread.join(LIMIT_S)
                assert not thread.is_alive(), thread.name


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def system(bus: ZmqBus, ended: Ended) -> Iterator[System]:
    Stuck.release.clear()
    made = System(bus, ended)
    yield made
    Stuck.release.set()
    made.close()


@pytest.mark.parametrize("loop", ["", "shared"], ids=["thread", "loop"])
@pytest.mark.parametrize(
    ("build", "ask", "doing", "at"),
    [(Stuck, Hang(), "Hang", "in on_hang"), (StuckAtTurnEnd, Note(1), "on_turn_end", "in on_turn_end")],
    ids=["handler", "turn end"],
)
def test_the_actor_that_hangs_is_named_with_its_message_and_its_stack(
    loop: str,
    build: Callable[[], EdgeActor],
    ask: object,
    doing: str,
    at: str,
    system: System,
    client: Client,
    ended: Ended,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, behaviour in (("book", Notebook), ("stuck", build), ("other", Notebook)):
        system.start(name, behaviour, loop)
        if behaviour is Notebook:
            client.ask(f"test/{name}", Recall(), Memory)

    client.tell("test/stuck", ask)
    assert ended.told.wait(LIMIT_S)

    assert ended.reason.startswith(f"test/stuck has not come back from {doing} for ")
    reports = [record.getMessage() for record in caplog.records if record.name == "actors.kernel.hung"]
    assert len(reports) == 2  # at the first limit, and at the end
    assert all(report.startswith(f"test/stuck has not come back from {doing}") for report in reports)
    assert all(at in report for report in reports)


def test_a_callback_that_blocks_an_event_loop_is_found_although_no_actor_is_at_work(
    system: System, client: Client, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    system.start("stuck", Stuck, "shared")

    client.tell("test/stuck", HangInCallback())
    assert ended.told.wait(LIMIT_S)

    assert ended.reason.startswith(
        "a callback on shared has not come back from what its sockets brought for "
    )
    assert "self.release.wait" in caplog.text or "in wait" in caplog.text


def test_actors_that_wait_or_work_on_are_left_alone(
    system: System, client: Client, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    for name, loop in (("alone", ""), ("first", "shared"), ("second", "shared")):
        system.start(name, Notebook, loop)
    asked = 0

    while not ended.told.wait(0.01) and asked < 60:  # twice the limit, with work and rest in turn
        asked += 1
        client.ask("test/first", Recall(), Memory)

    assert asked == 60
    assert ended.reason == ""
