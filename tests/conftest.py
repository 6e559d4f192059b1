"""Fixtures for all tests: run directories short enough for sockets, buses that are closed at the end."""

from __future__ import annotations

import shutil
import tempfile
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
