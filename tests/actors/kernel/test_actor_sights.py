"""Actors as they are seen from outside, without being asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from actors.kernel.actor_sight import ActorSight
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.kernel.hung import HungLimits
from messaging.client import Client
from messaging.kinds import data_message, message
from messaging.lifecycle import Describe, Described, Stop
from messaging.zmq_bus import ZmqBus
from tests.actors.kernel_actors import Burst, Notebook

LIMIT_S = 10.0
HOLDER = "test/holder"
BOOK = "test/book"


@message
class Hold:
    """Do not come back until the gate opens."""


@data_message
class HeldUp:
    """What waits meanwhile."""


class Holder(EdgeActor):
    """Says each time that it holds, and waits to be let go."""

    def __init__(self, holds: threading.Semaphore, let_go: threading.Semaphore) -> None:
        self._holds = holds
        self._let_go = let_go

    def on_hold(self, message: Hold) -> None:
        self._holds.release()
        assert self._let_go.acquire(timeout=LIMIT_S)

    def on_held_up(self, message: HeldUp) -> None:
        pass


class World:
    def __init__(self, bus: ZmqBus, client: Client) -> None:
        self.client = client
        self.system = ThreadSystem(
            bus, end_process=lambda reason: None, hung_limits=HungLimits(look_s=0.02, report_s=60, end_s=60)
        )
        self.ends: dict[str, threading.Event] = {}

    def start(self, address: str, build: Callable[[], EdgeActor]) -> None:
        end = self.ends[address] = threading.Event()
        self.system.spawn(ChildSpec(address, build), address, "test/parent", lambda reason: end.set())
        self.client.ask(address, Describe(), Described)

    def sight(self, address: str) -> ActorSight:
        [found] = [sight for sight in self.system.sights() if sight.address == address]
        return found

    def close(self) -> None:
        for address, end in self.ends.items():
            if not end.is_set():
                self.client.tell(address, Stop())
                assert end.wait(LIMIT_S)


@pytest.fixture
def world(bus: ZmqBus, client: Client) -> Iterator[World]:
    made = World(bus, client)
    yield made
    made.close()


def test_an_actor_that_does_nothing_is_running(world: World) -> None:
    world.start(BOOK, Notebook)

    sight = world.sight(BOOK)

    assert (sight.parent, sight.behaviour, sight.state) == ("test/parent", "Notebook", "running")
    assert (sight.doing, sight.control, sight.data) == ("", 0, 0)


def test_an_actor_that_does_not_come_back_is_seen_with_what_it_is_at(world: World) -> None:
    holds, let_go = threading.Semaphore(0), threading.Semaphore(0)
    world.start(HOLDER, lambda: Holder(holds, let_go))
    world.client.tell(HOLDER, Hold())
    assert holds.acquire(timeout=LIMIT_S)

    while not (sight := world.sight(HOLDER)).doing:
        pass  # the lookout has to look twice
    let_go.release()
    world.client.ask(HOLDER, Describe(), Described)
    while world.sight(HOLDER).doing:
        pass

    assert (sight.state, sight.doing) == ("running", "Hold")
    assert sight.doing_s > 0


def test_what_was_taken_over_and_not_handled_is_counted_by_lane(world: World) -> None:
    holds, let_go = threading.Semaphore(0), threading.Semaphore(0)
    world.start(HOLDER, lambda: Holder(holds, let_go))
    world.client.tell(HOLDER, Hold())
    assert holds.acquire(timeout=LIMIT_S)
    for waiting in (HeldUp(), HeldUp(), Hold(), HeldUp(), Describe()):
        world.client.tell(HOLDER, waiting)
    let_go.release()
    assert holds.acquire(timeout=LIMIT_S)  # of what it takes over the second Hold comes first: it is control

    sight = world.sight(HOLDER)
    let_go.release()
    world.client.ask(HOLDER, Describe(), Described)

    # One frame may have been handled before it looked for more.
    assert (sight.control, sight.data + sight.handled) == (1, 4)
    assert sight.data >= 2


def test_an_actor_that_gave_up_is_seen_with_its_reason_until_it_is_started_again(world: World) -> None:
    world.start(BOOK, Notebook)
    for _ in range(6):
        world.client.tell(BOOK, Burst("boom"))
    assert world.ends[BOOK].wait(LIMIT_S)

    gone = world.sight(BOOK)
    world.start(BOOK, Notebook)

    assert (gone.state, gone.last_error) == ("ended", "failed too often: ValueError: boom")
    assert world.sight(BOOK).state == "running"
