import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from runtime.machine.exit_watcher import ExitWatcher

LIMIT_S = 10


@pytest.fixture
def watcher() -> Iterator[ExitWatcher]:
    watcher = ExitWatcher("test")
    yield watcher
    watcher.close()


def test_the_end_of_a_process_calls_back_once(watcher: ExitWatcher) -> None:
    child = subprocess.Popen(["sleep", "60"])
    calls: list[str] = []
    ended = threading.Event()
    watcher.watch(os.pidfd_open(child.pid), lambda: (calls.append("ended"), ended.set()))

    child.kill()

    assert ended.wait(LIMIT_S)
    child.wait()
    watcher.close()
    assert calls == ["ended"]


def test_a_process_that_has_ended_already_calls_back_too(watcher: ExitWatcher) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended = threading.Event()

    watcher.watch(os.pidfd_open(child.pid), ended.set)

    assert ended.wait(LIMIT_S)
    child.wait()


def test_delays_call_back_in_the_order_in_which_they_are_over(watcher: ExitWatcher) -> None:
    calls: list[int] = []
    done = threading.Event()
    began_s = time.monotonic()

    watcher.call_later(0.06, done.set)
    watcher.call_later(0.03, lambda: calls.append(2))
    watcher.call_later(0.0, lambda: calls.append(1))

    assert done.wait(LIMIT_S)
    assert time.monotonic() - began_s >= 0.06
    assert calls == [1, 2]


def test_a_failing_callback_is_logged_and_the_others_still_come(
    watcher: ExitWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    with caplog.at_level(logging.ERROR):
        watcher.call_later(0, lambda: 1 / 0)
        watcher.call_later(0, done.set)
        assert done.wait(LIMIT_S)

    assert "ZeroDivisionError" in caplog.text


def test_after_close_nothing_calls_back_and_no_descriptor_is_left() -> None:
    before = set(os.listdir("/proc/self/fd"))
    watcher = ExitWatcher("test")
    child = subprocess.Popen(["sleep", "60"])
    calls: list[str] = []
    watcher.watch(os.pidfd_open(child.pid), lambda: calls.append("ended"))
    watcher.call_later(0.001, lambda: calls.append("late"))
    watcher.call_later(60, lambda: calls.append("never"))

    watcher.close()
    watcher.close()

    child.kill()
    child.wait()
    assert calls in ([], ["late"])
    assert set(os.listdir("/proc/self/fd")) == before
