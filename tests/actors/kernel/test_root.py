from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.kernel.memory_system import MemorySystem
from actors.kernel.root import RootActor
from messaging.client import Client
from messaging.envelope import Envelope
from messaging.errors import AskTimeout
from messaging.lifecycle import Hello, PeerUp, Stop, WakeInspector, Welcome
from messaging.version import VERSION
from messaging.zmq_bus import ZmqBus
from tests.actors.kernel_actors import Burst, Chronicler, Failing, Notebook


class Starter(EdgeActor):
    """Notes its start; a gate, if it has one, keeps it from coming through."""

    def __init__(self, name: str, story: list[str], gate: threading.Event | None = None) -> None:
        self.name, self.story, self.gate = name, story, gate

    def on_start(self) -> None:
        self.story.append(f"{self.name} starts")
        if self.gate is not None:
            self.gate.wait(10.0)
        self.story.append(f"{self.name} runs")


class ImpatientRoot(RootActor):
    start_limit_s = 0.1


def specs(story: list[str], gate: threading.Event | None = None) -> tuple[ChildSpec, ...]:
    return (
        ChildSpec("first", lambda: Starter("first", story)),
        ChildSpec("second", lambda: Starter("second", story, gate)),
        ChildSpec("third", lambda: Starter("third", story)),
    )


class Process:
    """A root on threads, and how its process would end."""

    def __init__(self, bus: ZmqBus, build: Callable[[], EdgeActor]) -> None:
        self.ended = threading.Event()
        self.reason = ""
        ThreadSystem(bus).spawn(ChildSpec("test", build), "test", "", self._end)

    def _end(self, reason: str) -> None:
        self.reason = reason
        self.ended.set()

    def wait(self) -> str:
        assert self.ended.wait(5.0)
        return self.reason


def join_actors() -> None:
    """Wait for the threads of all actors: their sockets are closed before the bus is."""
    for thread in threading.enumerate():
        if thread.name.startswith("test"):
            thread.join(5.0)
            assert not thread.is_alive()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


def test_each_child_starts_when_the_one_before_it_runs(
    bus: ZmqBus, client: Client, gate: threading.Event
) -> None:
    story: list[str] = []
    all_run = threading.Event()

    class Root(RootActor):
        def all_started(self) -> None:
            all_run.set()

    process = Process(bus, lambda: Root(specs(story, gate)))
    assert not all_run.wait(0.05)
    assert "third starts" not in story
    gate.set()

    assert all_run.wait(5.0)
    assert story == [
        "first starts", "first runs", "second starts", "second runs", "third starts", "third runs",
    ]  # fmt: skip
    client.tell("test", Stop())
    assert process.wait() == ""
    join_actors()


def test_a_child_that_does_not_start_in_time_fails_the_process(
    bus: ZmqBus, client: Client, gate: threading.Event
) -> None:
    process = Process(bus, lambda: ImpatientRoot(specs([], gate)))

    assert process.wait() == "test/second did not start within 0.1 s"
    gate.set()
    for name in ("test/first", "test/second"):  # a real process would end with them
        client.tell(name, Stop())
    join_actors()


def test_a_child_that_gives_up_fails_the_process_and_leaves_its_siblings_alone() -> None:
    system = MemorySystem()
    story: list[str] = []
    children = (ChildSpec("book", Notebook), ChildSpec("other", lambda: Chronicler("other", story)))
    system.start("root", lambda: RootActor(children))
    system.run()

    for _ in range(6):
        system.bus.send("root/book", Burst("boom"))
    system.run()

    assert "root" not in system.cells
    assert story == []  # not stopped: whoever starts this process again finds things as they are


def test_a_child_that_cannot_start_fails_the_process() -> None:
    system = MemorySystem()

    system.start("root", lambda: RootActor((ChildSpec("failing", Failing),)))
    system.run()

    assert system.cells == {}


def test_a_root_whose_own_handler_fails_goes_on_with_the_same_children() -> None:
    system = MemorySystem()
    story: list[str] = []
    system.start("root", lambda: RootActor(specs(story)))
    system.run()

    system.cells["root"]._fail(None, ValueError("a bug"))
    system.run()
    system.advance(60.0)

    assert system.cells["root"].restarts == 1
    assert story.count("first starts") == 1
    assert len(system.cells) == 4


def test_who_says_hello_is_there_for_us_once_it_knows_us(bus: ZmqBus) -> None:
    process = Process(bus, lambda: RootActor(()))
    with Client(bus, "test/watcher") as watcher:
        bus.watch_peer("guest", "test/watcher")

        for knows in (0, bus.epoch + 2):
            watcher.tell("test", Hello("guest", 42, VERSION, knows))
            assert watcher.receive(Welcome).epoch == bus.epoch
        watcher.tell("test", Hello("guest", 43, VERSION, bus.epoch))

        assert watcher.receive(PeerUp) == PeerUp("guest", 43)
    bus.send("test", Stop())
    assert process.wait() == ""


def test_who_says_hello_is_welcome_once_all_children_run(bus: ZmqBus) -> None:
    story: list[str] = []
    gate = threading.Event()
    process = Process(bus, lambda: RootActor(specs(story, gate)))
    with Client(bus, "test/guest") as guest:
        guest.tell("test", Hello("guest", 42))
        with pytest.raises(AskTimeout):
            guest.receive(Welcome, 0.1)

        gate.set()

        assert guest.receive(Welcome) == Welcome("test", bus.epoch)
        assert story[-1] == "third runs"
    bus.send("test", Stop())
    assert process.wait() == ""


class Sleeper(EdgeActor):
    """An inspector that fails when it is told to."""

    def on_burst(self, message: Burst) -> None:
        raise ValueError(message.text)


def woken(system: MemorySystem, letters: Callable[[], list[Envelope]]) -> list[str]:
    system.bus.send("root", WakeInspector(), sender="test/asker", correlation_id=5, deadline_s=1e9)
    system.run()
    return [letter.kind for letter in letters()]


def test_the_inspector_runs_from_the_first_time_that_it_is_woken() -> None:
    system = MemorySystem()
    letters = system.mailbox("test/asker")
    system.start("root", lambda: RootActor((ChildSpec("book", Notebook),), Sleeper))
    system.run()
    before = set(system.cells)

    first, second = woken(system, letters), woken(system, letters)

    assert before == {"root", "root/book"}
    assert first == second == ["InspectorAwake"]
    assert set(system.cells) == {"root", "root/book", "root/inspector"}


def test_an_inspector_that_gives_up_costs_its_process_nothing_and_can_be_woken_again() -> None:
    system = MemorySystem()
    letters = system.mailbox("test/asker")
    system.start("root", lambda: RootActor((ChildSpec("book", Notebook),), Sleeper))
    woken(system, letters)
    for _ in range(6):
        system.bus.send("root/inspector", Burst("boom"))
    system.run()
    without = set(system.cells)

    assert without == {"root", "root/book"}
    assert woken(system, letters) == ["InspectorAwake"]


def test_a_process_without_inspector_says_so() -> None:
    system = MemorySystem()
    letters = system.mailbox("test/asker")
    system.start("root", lambda: RootActor((ChildSpec("book", Notebook),)))

    assert woken(system, letters) == ["RequestFailed"]
