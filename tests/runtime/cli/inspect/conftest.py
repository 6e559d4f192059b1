"""An agent process inside the one of the test: bus, root and inspector, on the run directory of a home."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from actors.kernel.base import ChildSpec
from actors.kernel.hosts import ThreadSystem
from actors.kernel.root import RootActor
from messaging.client import Client
from messaging.lifecycle import Describe, Described, Stop
from messaging.zmq_bus import ZmqBus
from runtime.agent.inspector_note import inspector, write_note
from runtime.run_directory import AGENT, Lock, RunDirectory
from tests.actors.kernel_actors import Notebook
from tests.runtime.cli.conftest import edge_actors, home

__all__ = ["edge_actors", "home"]

LIMIT_S = 10.0
BOOK = "agent/book"


class SmallEdge:
    """An agent whose only actors are an inspector and a notebook; there is no hub."""

    def __init__(self, bus: ZmqBus, client: Client) -> None:
        self.bus = bus
        self.client = client

    def tell(self, message: object, to: str = BOOK) -> None:
        """Send a message to the notebook, or to another actor."""
        self.client.tell(to, message)

    def settle(self) -> None:
        """Wait until the notebook has handled what it was told."""
        self.client.ask(BOOK, Describe(), Described)


MakeEdge = Callable[..., SmallEdge]


@contextmanager
def _running(home: Path, allow_faults: bool) -> Iterator[SmallEdge]:
    home.mkdir(mode=0o700, exist_ok=True)
    run = RunDirectory.of(home)
    run.prepare()
    lock = Lock(run, AGENT)
    lock.acquire()
    write_note(run, allow_faults)
    bus = ZmqBus("agent", run.path)
    system = ThreadSystem(bus)
    ended = threading.Event()

    children = (ChildSpec("book", Notebook, exported=True),)

    def root() -> RootActor:
        return RootActor(children, lambda: inspector(system, allow_faults))

    system.spawn(ChildSpec("agent", root, exported=True), "agent", "", lambda reason: ended.set())
    with Client(bus, "agent/test") as client:
        edge = SmallEdge(bus, client)
        while not bus.is_taken(BOOK):
            client.ask("agent", Describe(), Described)  # its children start one after the other
        edge.settle()
        yield edge
        client.tell("agent", Stop())
        assert ended.wait(LIMIT_S)
    bus.close()
    lock.release()


@pytest.fixture
def small_edge(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeEdge]:
    """Start the small edge; it ends with the test."""
    Notebook.generations.clear()
    monkeypatch.setattr(os, "nice", lambda by: by)  # this process is no inspector alone
    with ExitStack() as stack:
        yield lambda allow_faults=False: stack.enter_context(_running(home, allow_faults))
