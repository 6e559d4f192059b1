from __future__ import annotations

import threading

import pytest

from actors.manifest.module_spec import DockerSettings, ModuleSpec
from actors.ports.modules import ModuleAccess, ModuleEnd, ModuleRun
from messaging.errors import ConfigError
from runtime.docker.start import ContainerStart

PUMP = ModuleSpec("pump", DockerSettings("pump:1"))
ACCESS = ModuleAccess("g1", "unix:///w")
RUN = ModuleRun(1001, 5.0)
END = ModuleEnd(3, None, 5.0, 6.0)
LIMIT_S = 10.0


class SlowStart:
    """A start that goes on when the test says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.error: Exception | None = None
        self.start = ContainerStart(PUMP, ACCESS)
        self.start.begin(self._work)

    def _work(self, start: ContainerStart) -> ModuleRun:
        start.tell("its image is being pulled")
        assert self.go_on.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        return RUN


def test_a_start_that_takes_long_says_what_it_is_doing_and_tells_when_it_is_done() -> None:
    slow, told = SlowStart(), threading.Event()
    with pytest.raises(TimeoutError):
        slow.start.result(0.2)
    assert slow.start.doing == "its image is being pulled"
    slow.start.when_done(told.set)
    assert not told.is_set()

    slow.go_on.set()

    assert told.wait(LIMIT_S)
    assert slow.start.result(0.0) == RUN


def test_who_asks_after_the_end_is_told_at_once() -> None:
    slow, told = SlowStart(), threading.Event()
    slow.go_on.set()
    slow.start.result(LIMIT_S)

    slow.start.when_done(told.set)

    assert told.wait(LIMIT_S)


def test_a_failure_is_the_result() -> None:
    slow = SlowStart()
    slow.error = ConfigError("no such image")
    slow.go_on.set()

    with pytest.raises(ConfigError, match="no such image"):
        slow.start.result(LIMIT_S)


def test_a_start_that_nobody_wants_any_more_fits_nobody_and_tells_nobody() -> None:
    slow, told = SlowStart(), threading.Event()
    slow.start.when_done(told.set)
    assert slow.start.fits(PUMP, ACCESS)

    slow.start.withdraw(7.0)
    slow.go_on.set()
    slow.start.result(LIMIT_S)

    assert slow.start.withdrawn_grace_s == 7.0
    assert not slow.start.fits(PUMP, ACCESS)
    assert not told.is_set()


def test_a_start_of_something_else_does_not_fit() -> None:
    start = ContainerStart(PUMP, ACCESS)

    assert not start.fits(ModuleSpec("pump", DockerSettings("pump:2")), ACCESS)
    assert not start.fits(PUMP, ModuleAccess("g2", "unix:///w"))


def test_an_end_before_anybody_listens_is_kept_for_who_takes_the_run() -> None:
    start = ContainerStart(PUMP, ACCESS)
    ends: list[ModuleEnd] = []

    start.exited(END)
    assert ends == []
    start.hand_over(ends.append)

    assert ends == [END]


def test_an_end_after_the_run_was_taken_is_passed_on() -> None:
    start = ContainerStart(PUMP, ACCESS)
    ends: list[ModuleEnd] = []
    start.hand_over(ends.append)

    start.exited(END)

    assert ends == [END]


def test_waiting_tells_whether_there_is_a_result_whatever_it_is() -> None:
    slow = SlowStart()
    slow.error = TimeoutError("the work's own")
    assert not slow.start.wait(0.05)

    slow.go_on.set()

    assert slow.start.wait(LIMIT_S)
    with pytest.raises(TimeoutError, match="the work's own"):
        slow.start.result(0.0)
