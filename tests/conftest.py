"""Fixtures for all tests: run directories short enough for sockets, buses that are closed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from messaging.client import Client
from messaging.zmq_bus import ZmqBus

# How long one example takes says more about the machine's load than about the code.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")
# A long run by hand: pytest --timeout=0 --hypothesis-profile=long --hypothesis-show-statistics tests
settings.register_profile("long", deadline=None, max_examples=5_000)


EXIT_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End though a failed test left threads running, as those of actors, which are no daemons, do."""
    left = [
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]
    if left and (status := config.stash.get(EXIT_STATUS, 0)):
        print(f"ended though a failed test may have left threads running: {', '.join(left)}", flush=True)
        os._exit(status)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short private folder for sockets; pytest's own paths are too long for them."""
    folder = Path(tempfile.mkdtemp(prefix="ea-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_bus(run_dir: Path) -> Iterator[Callable[[str], ZmqBus]]:
    """Make ZeroMQ buses that end with the test."""
    made: list[ZmqBus] = []

    def make(process: str = "test") -> ZmqBus:
        bus = ZmqBus(process, run_dir)
        made.append(bus)
        return bus

    yield make
    for bus in made:
        bus.close()


@pytest.fixture(scope="session")
def docker_image() -> str:
    """An image with Python, the device SDK and the samples; skips where there is no Docker Engine."""
    from tests.docker_image import image, why_no_engine

    reason = why_no_engine()
    if reason is not None:
        pytest.skip(reason)
    return image()


@pytest.fixture
def bus(make_bus: Callable[[str], ZmqBus]) -> ZmqBus:
    return make_bus("test")


@pytest.fixture
def client(bus: ZmqBus) -> Iterator[Client]:
    """An asker inside the test's own process."""
    with Client(bus, "test/asker") as asker:
        yield asker
