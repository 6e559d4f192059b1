"""The line to systemd: what is told, when, and when nothing is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.addresses import AGENT, AGENT_PROCESS
from actors.agent.edge_state import AskEdgeState, EdgeState
from messaging.envelope import decode
from messaging.kinds import kind_named
from messaging.zmq_bus import ZmqBus
from runtime.machine.service_manager import ServiceManager, SignsOfLife
from tests.fakes.systemd import FakeSystemd

LIMIT_S = 10.0


class PlayedAgent:
    """Answers AskEdgeState with what the test says, until it hangs."""

    def __init__(self, bus: ZmqBus) -> None:
        self.state = EdgeState(False, "0 of 1 modules run; not: edgeHub")
        self.answers = threading.Event()
        self.answers.set()
        self._ends = threading.Event()
        self._bus = bus
        bus.reserve(AGENT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        mailbox = self._bus.open(AGENT)
        while not self._ends.is_set():
            frame = mailbox.next(0.02)
            if frame is None:
                continue
            asked = decode(frame)
            kind = kind_named(asked.kind)
            assert kind is not None
            assert isinstance(kind.build(*asked.body), AskEdgeState)
            self.answers.wait()
            self._bus.send(asked.sender, self.state, sender=AGENT, correlation_id=asked.correlation_id)
        mailbox.close()
        self._bus.close_thread()

    def close(self) -> None:
        self.answers.set()
        self._ends.set()
        self._thread.join(LIMIT_S)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[FakeSystemd]:
    played = FakeSystemd(str(tmp_path / "notify"))
    yield played
    played.close()


@pytest.fixture
def bus(make_bus: Callable[[str], ZmqBus]) -> ZmqBus:
    return make_bus(AGENT_PROCESS)


@pytest.fixture
def agent(bus: ZmqBus) -> Iterator[PlayedAgent]:
    played = PlayedAgent(bus)
    yield played
    played.close()


@pytest.fixture
def begin(
    systemd: FakeSystemd, agent: PlayedAgent, bus: ZmqBus, tmp_path: Path
) -> Iterator[Callable[[], SignsOfLife]]:
    begun: list[SignsOfLife] = []

    def begin() -> SignsOfLife:
        begun.append(SignsOfLife(ServiceManager(str(tmp_path / "notify"), watchdog_s=0.3), bus))
        return begun[-1]

    yield begin
    agent.answers.set()
    for signs in begun:
        signs.close()


@pytest.mark.parametrize(
    ("given", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
    ids=["no watchdog", "watchdog", "watchdog for us", "watchdog for another", "zero", "no number"],
)
def test_the_environment_says_how_often_signs_of_life_are_wanted(
    given: dict[str, str], watchdog_s: float | None
) -> None:
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": "/run/systemd/notify", **given})

    assert manager is not None
    assert manager.watchdog_s == watchdog_s


@pytest.mark.parametrize("path", ["", "vsock:2:1234", "relative"], ids=["none", "vsock", "relative"])
def test_without_a_unix_socket_there_is_nobody_to_tell(path: str) -> None:
    assert ServiceManager.from_environment({"NOTIFY_SOCKET": path}) is None


def test_a_socket_in_the_abstract_name_space_is_reached() -> None:
    name = f"edge-actors-test-{os.getpid()}"
    systemd = FakeSystemd(f"\0{name}")

    ServiceManager(f"@{name}", None).tell("READY=1")

    assert systemd.next() == ["READY=1"]
    systemd.close()


def test_telling_nobody_is_no_error(tmp_path: Path) -> None:
    ServiceManager(str(tmp_path / "gone"), None).tell("READY=1")


def test_an_edge_is_ready_when_it_serves_and_not_before(
    systemd: FakeSystemd, agent: PlayedAgent, begin: Callable[[], SignsOfLife]
) -> None:
    begin()

    starting = systemd.next()
    agent.state = EdgeState(True, "1 of 1 modules run")
    ready = systemd.next()

    assert starting == [
        "WATCHDOG=1",
        "STATUS=0 of 1 modules run; not: edgeHub",
        "EXTEND_TIMEOUT_USEC=60000000",
    ]
    assert ready == ["WATCHDOG=1", "STATUS=1 of 1 modules run", "READY=1"]
    assert systemd.next() == ["WATCHDOG=1"], "what is known is not told again"


def test_a_hub_that_goes_later_is_a_status_and_no_new_start(
    systemd: FakeSystemd, agent: PlayedAgent, begin: Callable[[], SignsOfLife]
) -> None:
    agent.state = EdgeState(True, "1 of 1 modules run")
    begin()
    systemd.next_with("READY=1")

    agent.state = EdgeState(False, "0 of 1 modules run; not: edgeHub")

    assert systemd.next_with("STATUS=0 of 1 modules run; not: edgeHub") == [
        "WATCHDOG=1",
        "STATUS=0 of 1 modules run; not: edgeHub",
    ]


def test_an_agent_that_hangs_gives_no_sign_of_life_and_one_that_goes_on_does(
    systemd: FakeSystemd, agent: PlayedAgent, begin: Callable[[], SignsOfLife]
) -> None:
    agent.state = EdgeState(True, "1 of 1 modules run")
    begin()
    systemd.next_with("READY=1")

    agent.answers.clear()
    systemd.is_silent_for(0.5)  # what it had said before

    assert systemd.is_silent_for(1.0)
    agent.answers.set()
    assert systemd.next() == ["WATCHDOG=1"]


def test_an_edge_that_ends_says_so_and_how_long_that_may_take(
    systemd: FakeSystemd, agent: PlayedAgent, begin: Callable[[], SignsOfLife]
) -> None:
    agent.state = EdgeState(True, "1 of 1 modules run")
    signs = begin()
    systemd.next_with("READY=1")
    agent.answers.clear()  # it has other things to do while modules end

    signs.stopping(70.0, for_good=True)

    assert systemd.next_with("STOPPING=1") == [
        "STOPPING=1",
        "STATUS=ends its modules",
        "EXTEND_TIMEOUT_USEC=70000000",
    ]


def test_an_edge_that_starts_anew_as_another_device_is_not_told_to_end(
    systemd: FakeSystemd, agent: PlayedAgent, begin: Callable[[], SignsOfLife]
) -> None:
    agent.state = EdgeState(True, "1 of 1 modules run")
    signs = begin()
    systemd.next_with("READY=1")

    signs.stopping(70.0, for_good=False)

    assert systemd.next() == ["WATCHDOG=1"]
    assert systemd.next() == ["WATCHDOG=1"]
