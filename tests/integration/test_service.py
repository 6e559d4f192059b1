"""A whole edge that was started as a service of `Type=notify` with a watchdog."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.systemd import FakeSystemd
from tests.integration.edge_process import EdgeProcess, shell

WATCHDOG_S = 1.5


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


@pytest.fixture
def systemd(edge: EdgeProcess) -> Iterator[FakeSystemd]:
    played = FakeSystemd(str(edge.folder / "notify"))
    edge.deploy({"waits": shell('echo "told ${NOTIFY_SOCKET-nobody}" > $PIPE; sleep 1000')})
    edge.start(NOTIFY_SOCKET=str(edge.folder / "notify"), WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)))
    yield played
    played.close()


def test_it_is_ready_when_the_hub_serves(edge: EdgeProcess, systemd: FakeSystemd) -> None:
    systemd.next_with("READY=1")

    assert edge.modules()["edgeHub"]["status"] == "running"
    edge.wait_for_routes(["up"], [])
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5):
        pass


def test_no_process_below_it_speaks_in_its_name(edge: EdgeProcess, systemd: FakeSystemd) -> None:
    systemd.next_with("READY=1")
    assert edge.process is not None

    hub = Path(f"/proc/{edge.modules()['edgeHub']['pid']}/environ").read_bytes()

    assert edge.line() == "told nobody"
    assert b"NOTIFY_SOCKET" not in hub
    assert b"WATCHDOG" not in hub


def test_an_agent_that_is_stopped_falls_silent_and_one_that_goes_on_does_not(
    edge: EdgeProcess, systemd: FakeSystemd
) -> None:
    systemd.next_with("READY=1")
    assert "WATCHDOG=1" in systemd.next()

    edge.signal(signal.SIGSTOP)
    systemd.is_silent_for(0.2)  # what it had said before

    assert systemd.is_silent_for(WATCHDOG_S)
    edge.signal(signal.SIGCONT)
    assert "WATCHDOG=1" in systemd.next()


def test_its_end_is_told_with_the_time_that_it_may_take(edge: EdgeProcess, systemd: FakeSystemd) -> None:
    systemd.next_with("READY=1")

    edge.signal(signal.SIGTERM)

    told = systemd.next_with("STOPPING=1")
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in told)
    assert edge.wait() == 0
