"""Actors that share an event loop: what one read brought goes through all of them, and is written at once."""

from __future__ import annotations

import asyncio
import threading
import types
import typing
from collections.abc import Callable, Iterator

import pytest

from actors.broker import bridge_messages
from actors.hub import router
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.store import messages as store_messages
from actors.upstream import messages
from messaging.client import Client
from messaging.envelope import Envelope, decode
from messaging.kinds import DATA, kind_of
from messaging.lifecycle import Stop
from messaging.zmq_bus import ZmqBus
from tests.actors.kernel_actors import Load, Note, Recall
from tests.waiting import wait_until

LIMIT_S = 5.0
ROUNDS = 5


class Writer(EdgeActor):
    """Writes what came since the last end of a turn."""

    def __init__(self, written: list[tuple[int, ...]], enough: threading.Event, total: int) -> None:
        self._written = written
        self._enough = enough
        self._total = total
        self._waiting: list[int] = []

    def on_load(self, message: Load) -> None:
        self._waiting.append(message.number)

    def on_turn_end(self) -> None:
        if self._waiting:
            self._written.append(tuple(self._waiting))
            self._waiting.clear()
        if sum(map(len, self._written)) >= self._total:
            self._enough.set()


class Source(EdgeActor):
    """Tells the writer something in one pass of the loop after the other, as sockets do that have more."""

    def __init__(self, goes_on: Callable[[int], bool]) -> None:
        self._goes_on = goes_on

    def on_recall(self, message: Recall) -> None:
        self._next(0)

    def _next(self, number: int) -> None:
        self.tell("test/writer", Load(number))
        if self._goes_on(number):
            asyncio.get_running_loop().call_soon(self._next, number + 1)


@pytest.fixture
def start(bus: ZmqBus, client: Client) -> Iterator[Callable[[str, EdgeActor], None]]:
    system = ThreadSystem(bus, asyncio.new_event_loop)
    ends: dict[str, threading.Event] = {}

    def started(address: str, actor: EdgeActor) -> None:
        end = ends[address] = threading.Event()
        system.spawn(ChildSpec(address, lambda: actor, "front"), address, "", lambda reason: end.set())

    yield started
    for address, end in ends.items():
        client.tell(address, Stop())
        assert end.wait(LIMIT_S)


def test_what_a_few_passes_of_the_loop_bring_is_written_at_once(
    start: Callable[[str, EdgeActor], None], client: Client
) -> None:
    written: list[tuple[int, ...]] = []
    enough = threading.Event()
    start("test/writer", Writer(written, enough, ROUNDS))
    start("test/source", Source(lambda number: number < ROUNDS - 1))

    client.tell("test/source", Recall())

    assert enough.wait(LIMIT_S)
    assert [number for numbers in written for number in numbers] == list(range(ROUNDS))
    assert len(written) < ROUNDS


def test_a_stream_that_never_pauses_is_written_meanwhile(
    start: Callable[[str, EdgeActor], None], client: Client
) -> None:
    written: list[tuple[int, ...]] = []
    enough = threading.Event()
    start("test/writer", Writer(written, enough, 1))
    start("test/source", Source(lambda number: not enough.is_set()))

    client.tell("test/source", Recall())

    assert enough.wait(LIMIT_S)
    assert written[0] == tuple(range(len(written[0])))


def test_what_the_end_of_a_turn_told_is_on_its_way_before_the_turn_is_over(
    start: Callable[[str, EdgeActor], None], client: Client
) -> None:
    seen: list[str] = []
    over = threading.Event()

    class Told(EdgeActor):
        def on_note(self, message: Note) -> None:
            asyncio.get_running_loop().call_soon(seen.append, "written")

    class Teller(EdgeActor):
        def on_load(self, message: Load) -> None:
            seen.append("came")

        def on_turn_end(self) -> None:
            if seen == ["came"]:
                seen.append("told")
                self.tell("test/told", Note(1))

        def on_turn_over(self) -> None:
            if "told" in seen:
                seen.append("over")
                over.set()

    start("test/told", Told())
    start("test/teller", Teller())

    client.tell("test/teller", Load(1))

    assert over.wait(LIMIT_S)
    assert seen[:4] == ["came", "told", "written", "over"]


def test_no_message_is_handled_between_the_end_of_a_turn_and_when_it_is_over(
    start: Callable[[str, EdgeActor], None], client: Client
) -> None:
    seen: list[str] = []
    answered = threading.Event()

    class Answers(EdgeActor):
        def on_note(self, message: Note) -> None:
            self.reply(Load(2))

    class Asks(EdgeActor):
        def on_load(self, message: Load) -> None:
            seen.append("asks" if message.number == 1 else "answer")
            if message.number == 2:
                answered.set()

        def on_turn_end(self) -> None:
            if seen == ["asks"]:
                seen.append("end")
                self.tell("test/answers", Note(1))

        def on_turn_over(self) -> None:
            if seen[-1] == "end":
                seen.append("over")

    start("test/answers", Answers())
    start("test/asks", Asks())

    client.tell("test/asks", Load(1))

    assert answered.wait(LIMIT_S)
    assert seen[:4] == ["asks", "end", "over", "answer"]


def test_what_stays_on_the_loop_is_seen_by_an_observer_as_on_the_wire(
    start: Callable[[str, EdgeActor], None], bus: ZmqBus, client: Client
) -> None:
    class Diary:
        def __init__(self) -> None:
            self.seen: list[tuple[Envelope, bytes]] = []

        def received(self, envelope: Envelope, frame: bytes) -> None:
            self.seen.append((envelope, frame))

        def handled(self, envelope: Envelope, frame: bytes, took_s: float, failed: bool) -> None:
            pass

    diary = Diary()
    enough = threading.Event()
    start("test/writer", Writer([], enough, ROUNDS))
    start("test/source", Source(lambda number: number < ROUNDS - 1))
    bus.observe(diary)

    client.tell("test/source", Recall())

    assert enough.wait(LIMIT_S)
    bus.observe(None)
    loads = [(envelope, frame) for envelope, frame in diary.seen if envelope.kind == "Load"]
    assert [envelope.body for envelope, _ in loads] == [(number,) for number in range(ROUNDS)]
    assert all(decode(frame) == envelope for envelope, frame in loads)


def test_data_for_an_actor_of_the_loop_that_stops_is_a_dead_letter(
    start: Callable[[str, EdgeActor], None], bus: ZmqBus, client: Client
) -> None:
    class Last(EdgeActor):
        def on_note(self, message: Note) -> None:
            self.tell("test/gone", Load(1))
            self.context.send("test/gone", Stop())  # of the control lane, so it is served first

    class Gone(EdgeActor):
        def on_load(self, message: Load) -> None:
            raise AssertionError("it has stopped")

    start("test/gone", Gone())
    start("test/last", Last())

    client.tell("test/last", Note(1))

    wait_until(lambda: bus.dead_letters.count, "a dead letter", LIMIT_S)
    [(_, letter)] = bus.dead_letters.numbered()
    assert letter.envelope is not None
    assert (letter.envelope.kind, letter.envelope.body) == ("Load", (1,))


def test_actors_that_never_stop_talking_leave_others_their_turn(
    start: Callable[[str, EdgeActor], None], client: Client
) -> None:
    class Echo(EdgeActor):
        def on_note(self, message: Note) -> None:
            self.tell("test/echo", message)

    enough = threading.Event()
    start("test/echo", Echo())
    start("test/writer", Writer([], enough, 1))
    client.tell("test/echo", Note(1))

    client.tell("test/writer", Load(1))

    assert enough.wait(LIMIT_S)


# What stays on its thread is shared and not copied, so nothing in it may be changed.
def is_data_message(known: object) -> bool:
    try:
        return isinstance(known, type) and kind_of(known).lane == DATA
    except TypeError:
        return False


DATA_MESSAGES = [
    known
    for module in (bridge_messages, messages, router, store_messages)
    for known in vars(module).values()
    if is_data_message(known) and known.__module__ == module.__name__
]


def is_unchangeable(hint: object) -> bool:
    if hint is Ellipsis:
        return True
    parts = typing.get_args(hint)
    if parts:
        return typing.get_origin(hint) in (tuple, types.UnionType) and all(map(is_unchangeable, parts))
    if isinstance(hint, type) and issubclass(hint, tuple):  # a named one
        return all(map(is_unchangeable, typing.get_type_hints(hint).values()))
    return hint in (int, float, str, bytes, bool, type(None))


@pytest.mark.parametrize("known", DATA_MESSAGES, ids=lambda known: known.__name__)
def test_a_message_of_the_data_lane_holds_nothing_that_can_be_changed(known: type) -> None:
    hints = typing.get_type_hints(known)

    assert hints
    assert {name: hint for name, hint in hints.items() if not is_unchangeable(hint)} == {}


def test_the_messages_between_heads_router_and_store_are_among_them() -> None:
    assert {router.Publish, store_messages.Append, store_messages.Ready} <= set(DATA_MESSAGES)
