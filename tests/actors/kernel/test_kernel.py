"""The kernel, the same tests on both buses: threads over ZeroMQ, and one thread in virtual time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.kernel.memory_system import MemorySystem
from messaging.bus import Observer
from messaging.client import Client, RequestRefused
from messaging.dead_letters import DeadLetters
from messaging.envelope import Envelope, decode
from messaging.errors import AskTimeout
from messaging.kinds import kind_named
from messaging.lifecycle import Describe, Described, Stop
from messaging.zmq_bus import ZmqBus
from tests.actors.kernel_actors import (
    AskOther,
    Burst,
    Chime,
    ChimeIn,
    Chronicler,
    Exit,
    Failing,
    Load,
    Memory,
    Note,
    Notebook,
    Outcome,
    Parent,
    Recall,
    WatchOther,
)

T = TypeVar("T")


class World(Protocol):
    """What a test of the kernel may do, whatever it runs on."""

    dead_letters: DeadLetters

    def start(self, address: str, build: Callable[[], EdgeActor]) -> None: ...

    def tell(self, to: str, message: object) -> None: ...

    def ask(self, to: str, message: object, answer: type[T], timeout_s: float = 5.0) -> T: ...

    def receive(self, kind: type[T]) -> T: ...

    def pass_time(self, seconds: float) -> None: ...

    def wait_end(self, address: str) -> None: ...

    def observe(self, observer: Observer | None) -> None: ...


class ThreadWorld:
    def __init__(self, bus: ZmqBus, client: Client, loop: str) -> None:
        self.bus, self.client, self.loop = bus, client, loop
        self.dead_letters = bus.dead_letters
        self.system = ThreadSystem(bus, asyncio.new_event_loop)
        self.ends: dict[str, threading.Event] = {}

    def start(self, address: str, build: Callable[[], EdgeActor]) -> None:
        end = self.ends[address] = threading.Event()
        spec = ChildSpec(address, build, self.loop)
        self.system.spawn(spec, address, "test/asker", lambda reason: end.set())

    def tell(self, to: str, message: object) -> None:
        self.client.tell(to, message)

    def ask(self, to: str, message: object, answer: type[T], timeout_s: float = 5.0) -> T:
        return self.client.ask(to, message, answer, timeout_s)

    def receive(self, kind: type[T]) -> T:
        return self.client.receive(kind)

    def pass_time(self, seconds: float) -> None:
        """Nothing to do: real time passes by itself, and the tests wait for what it brings."""

    def wait_end(self, address: str) -> None:
        assert self.ends[address].wait(5.0)

    def observe(self, observer: Observer | None) -> None:
        self.bus.observer = observer

    def close(self) -> None:
        for address, end in self.ends.items():
            if not end.is_set():
                self.client.tell(address, Stop())
                assert end.wait(5.0), f"{address} did not stop"


class MemoryWorld:
    def __init__(self) -> None:
        self.system = MemorySystem(seed=1)
        self.dead_letters = self.system.bus.dead_letters
        self.letters = self.system.mailbox("test/asker")
        self.seen: list[Any] = []

    def start(self, address: str, build: Callable[[], EdgeActor]) -> None:
        self.system.spawn(ChildSpec(address, build), address, "test/asker")

    def tell(self, to: str, message: object) -> None:
        self.system.bus.send(to, message, sender="test/asker")

    def ask(self, to: str, message: object, answer: type[T], timeout_s: float = 5.0) -> T:
        bus = self.system.bus
        asked = bus.next_id()
        deadline_s = self.system.clock.monotonic_s() + timeout_s
        bus.send(to, message, sender="test/asker", correlation_id=asked, deadline_s=deadline_s)
        for _ in range(2):
            for envelope in self._collect():
                if envelope.correlation_id == asked:
                    kind = kind_named(envelope.kind)
                    assert kind is not None
                    if envelope.kind == "RequestFailed":
                        raise RequestRefused(envelope.body[1], envelope.body[2])
                    self.seen.remove(envelope)
                    return kind.build(*envelope.body)
            self.system.advance(timeout_s)
        raise AskTimeout("nobody answered")

    def receive(self, kind: type[T]) -> T:
        for envelope in self._collect():
            if envelope.kind == kind.__name__:
                self.seen.remove(envelope)
                return kind(*envelope.body)
        raise AskTimeout(f"no {kind.__name__}")

    def pass_time(self, seconds: float) -> None:
        self.system.advance(seconds)

    def wait_end(self, address: str) -> None:
        self.system.run()
        assert address not in self.system.cells

    def observe(self, observer: Observer | None) -> None:
        self.system.bus.observer = observer

    def _collect(self) -> list[Any]:
        self.system.run()
        self.seen.extend(self.letters())
        return list(self.seen)


@pytest.fixture(params=["thread", "loop", "memory"])
def world(request: pytest.FixtureRequest, bus: ZmqBus, client: Client) -> Iterator[World]:
    Notebook.generations.clear()
    if request.param == "memory":
        yield MemoryWorld()
        return
    made = ThreadWorld(bus, client, "shared" if request.param == "loop" else "")
    yield made
    made.close()


def test_messages_of_one_sender_are_handled_in_their_order(world: World) -> None:
    world.start("test/book", Notebook)

    for number in range(500):
        world.tell("test/book", Note(number))

    assert world.ask("test/book", Recall(), Memory).numbers == tuple(range(500))


def test_control_messages_overtake_data_but_data_keeps_its_own_order(world: World) -> None:
    world.start("test/book", Notebook)

    for number in range(100):
        world.tell("test/book", Load(number))

    numbers: tuple[int, ...] = ()
    while len(numbers) < 100:  # Recall is control and may be answered in between
        numbers = world.ask("test/book", Recall(), Memory).numbers
    assert numbers == tuple(range(100))


def test_an_unknown_address_is_a_dead_letter(world: World) -> None:
    world.tell("test/nobody", Note(1))

    assert [letter.reason for letter in world.dead_letters.recent()] == ["no actor at 'test/nobody'"]


def test_a_message_the_actor_does_not_understand_is_a_dead_letter_and_the_asker_hears_of_it(
    world: World,
) -> None:
    world.start("test/book", Notebook)

    with pytest.raises(RequestRefused, match="Notebook does not understand Outcome"):
        world.ask("test/book", Outcome("?"), Memory)

    assert world.ask("test/book", Recall(), Memory).generation == 1


@pytest.mark.parametrize("bad", [Burst("boom"), Exit()], ids=["Exception", "BaseException"])
def test_after_a_failing_handler_the_actor_restarts_and_its_mailbox_goes_on(
    world: World, bad: object
) -> None:
    world.start("test/book", Notebook)
    world.ask("test/book", Recall(), Memory)

    world.tell("test/book", Note(1))
    world.tell("test/book", bad)
    world.tell("test/book", Note(2))
    memory = world.ask("test/book", Recall(), Memory)

    assert memory == Memory((2,), 2)
    [letter] = world.dead_letters.recent()
    assert letter.envelope is not None
    assert letter.envelope.kind == type(bad).__name__
    assert "kernel_actors.py" in letter.traceback
    assert "raise" in letter.traceback


def test_whoever_asked_hears_that_the_handler_failed(world: World) -> None:
    world.start("test/book", Notebook)

    with pytest.raises(RequestRefused, match="ValueError: boom"):
        world.ask("test/book", Burst("boom"), Memory)


def test_an_actor_that_fails_too_often_gives_up_and_its_parent_hears_why(world: World) -> None:
    world.start("test/book", Notebook)

    for _ in range(6):
        world.tell("test/book", Burst("boom"))

    world.wait_end("test/book")
    stopped = world.receive(kind_named("ActorStopped").build)  # type: ignore[union-attr, arg-type]
    assert stopped.address == "test/book"
    assert stopped.reason == "failed too often: ValueError: boom"


def test_an_actor_that_cannot_start_gives_up_the_same_way(world: World) -> None:
    world.start("test/failing", Failing)

    world.wait_end("test/failing")
    stopped = world.receive(kind_named("ActorStopped").build)  # type: ignore[union-attr, arg-type]
    assert stopped.reason == "failed too often: OSError: the disk is on fire"


def test_timers_are_messages_and_a_cancelled_one_never_comes(world: World) -> None:
    world.start("test/book", Notebook)

    world.tell("test/book", ChimeIn(0.05, 1))
    world.tell("test/book", ChimeIn(0.01, 2))
    world.tell("test/book", ChimeIn(0.02, 3, cancel=True))

    numbers: tuple[int, ...] = ()
    while len(numbers) < 2:  # the test's own time limit ends this
        world.pass_time(0.03)
        numbers = world.ask("test/book", Recall(), Memory).numbers
    assert numbers == (2, 1)


def test_a_request_between_actors_is_answered(world: World) -> None:
    world.start("test/book", Notebook)
    world.start("test/other", Notebook)
    world.tell("test/other", Note(5))
    world.ask("test/other", Recall(), Memory)

    outcome = world.ask("test/book", AskOther("test/other", 5.0), Outcome)

    assert outcome.text == "remembers (5,)"


def test_a_request_that_nobody_answers_ends_with_its_deadline(world: World) -> None:
    world.start("test/book", Notebook)
    world.start("test/silent", lambda: Chronicler("silent", []))

    world.tell("test/book", AskOther("test/nobody", 0.05))
    world.pass_time(0.05)

    assert world.receive(Outcome).text == "Recall to test/nobody: too late"


def test_a_request_to_an_actor_that_cannot_take_it_fails_at_once(world: World) -> None:
    world.start("test/book", Notebook)
    world.start("test/silent", lambda: Chronicler("silent", []))

    outcome = world.ask("test/book", AskOther("test/silent", 60.0), Outcome)

    assert outcome.text == "failed: Chronicler does not understand Recall"


def test_a_watcher_hears_of_restart_and_stop(world: World) -> None:
    world.start("test/book", Notebook)
    world.start("test/other", Notebook)
    world.tell("test/book", WatchOther("test/other"))
    world.ask("test/book", Recall(), Memory)
    world.ask("test/other", Recall(), Memory)

    world.tell("test/other", Burst("boom"))
    assert world.receive(Outcome).text == "test/other restarted: ValueError: boom"
    world.tell("test/other", Stop())
    assert world.receive(Outcome).text == "test/other stopped"


def test_children_stop_in_reverse_order_before_their_parent(world: World) -> None:
    story: list[str] = []
    children = tuple(
        ChildSpec(name, lambda name=name: Chronicler(name, story))  # type: ignore[misc]
        for name in ("first", "second", "third")
    )
    world.start("test/parent", lambda: Parent(story, children))
    world.ask("test/parent", Describe(), Described)
    world.ask("test/parent/third", Describe(), Described)

    world.tell("test/parent", Stop())
    world.wait_end("test/parent")

    assert story[-4:] == ["third closed", "second closed", "first closed", "parent closed"]


def test_a_child_that_gives_up_counts_as_a_failure_of_its_parent(world: World) -> None:
    world.start("test/parent", lambda: Parent([], (ChildSpec("failing", Failing),)))

    described = world.ask("test/parent", Describe(), Described)
    while not described.values["failures"]:  # the test's own time limit ends this
        described = world.ask("test/parent", Describe(), Described)
    assert "test/parent/failing failed too often" in described.values["last_error"]


def test_what_waits_when_an_actor_stops_is_not_lost_without_a_trace(world: World) -> None:
    world.start("test/book", Notebook)
    world.ask("test/book", Recall(), Memory)

    world.tell("test/book", Stop())
    world.tell("test/book", Load(1))
    world.wait_end("test/book")
    world.tell("test/book", Load(2))

    letters = world.dead_letters.recent()
    assert [letter.envelope.body for letter in letters if letter.envelope] == [(1,), (2,)]


def test_an_address_can_be_taken_again_after_a_stop_by_the_same_senders(world: World) -> None:
    world.start("test/book", Notebook)
    world.ask("test/book", Recall(), Memory)
    world.tell("test/book", Stop())
    world.wait_end("test/book")

    world.start("test/book", Notebook)

    assert world.ask("test/book", Recall(), Memory).generation == 2


def test_describe_tells_counts_and_children(world: World) -> None:
    world.start("test/book", Notebook)
    world.tell("test/book", Note(1))

    values = world.ask("test/book", Describe(), Described).values

    assert values["behaviour"] == "Notebook"
    assert values["handled"] == 1
    assert values["children"] == ()


class Diary:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, bool]] = []

    def received(self, envelope: Envelope, frame: bytes) -> None:
        assert decode(frame) == envelope
        self.lines.append(("received", envelope.kind, False))

    def handled(self, envelope: Envelope, frame: bytes, took_s: float, failed: bool) -> None:
        assert took_s >= 0
        self.lines.append(("handled", envelope.kind, failed))


def test_an_observer_sees_each_envelope_before_and_after_it_is_handled_until_it_is_taken_away(
    world: World,
) -> None:
    world.start("test/book", Notebook)
    world.ask("test/book", Recall(), Memory)
    diary = Diary()

    world.observe(diary)
    world.tell("test/book", Note(1))
    world.tell("test/book", Burst("boom"))
    world.ask("test/book", Recall(), Memory)
    world.observe(None)
    world.ask("test/book", Recall(), Memory)

    assert diary.lines == [
        ("received", "Note", False),
        ("handled", "Note", False),
        ("received", "Burst", False),
        ("handled", "Burst", True),
        ("received", "Recall", False),
        ("handled", "Recall", False),
    ]


def test_a_handler_with_the_wrong_name_is_refused_when_the_class_is_made() -> None:
    def on_wrong(self, message: Chime) -> None: ...

    with pytest.raises(TypeError, match=r"Bad\.on_wrong handles Chime: call it on_chime"):
        type("Bad", (EdgeActor,), {"on_wrong": on_wrong})


def test_the_same_seed_gives_the_same_order_and_other_seeds_another() -> None:
    def story_of(seed: int) -> list[str]:
        story: list[str] = []
        system = MemorySystem(seed)
        for name in ("a", "b", "c", "d", "e"):
            system.start(f"test/{name}", lambda name=name: Chronicler(name, story))  # type: ignore[misc]
        for name in ("a", "b", "c", "d", "e"):
            system.bus.send(f"test/{name}", Stop())
        system.run()
        return story

    assert story_of(1) == story_of(1)
    assert len({tuple(story_of(seed)) for seed in range(10)}) > 1
