"""The thread that serves all connections to the cloud, and those that open them."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from runtime.upstream.loop import CloudLoop
from runtime.upstream.openers import MOST, Openers

LIMIT_S = 10.0


@pytest.fixture
def loop() -> Iterator[CloudLoop]:
    made = CloudLoop()
    yield made
    made.close()


def test_calls_of_one_thread_are_done_in_order(loop: CloudLoop) -> None:
    told: queue.Queue[int] = queue.Queue()

    for number in range(1000):
        loop.call(told.put, number)

    assert [told.get(timeout=LIMIT_S) for _ in range(1000)] == list(range(1000))


def test_a_call_that_fails_stops_nobody(loop: CloudLoop, caplog: pytest.LogCaptureFixture) -> None:
    told: queue.Queue[str] = queue.Queue()

    loop.call(lambda: 1 / 0)
    loop.call(told.put, "after")

    assert told.get(timeout=LIMIT_S) == "after"
    assert "ZeroDivisionError" in caplog.text


def test_timers_run_in_the_order_of_their_times(loop: CloudLoop) -> None:
    told: queue.Queue[str] = queue.Queue()

    loop.call(loop.later, 0.02, lambda: told.put("second"))
    loop.call(loop.later, 0.0, lambda: told.put("first"))

    assert [told.get(timeout=LIMIT_S) for _ in range(2)] == ["first", "second"]


def test_a_socket_is_watched_until_it_is_forgotten(loop: CloudLoop) -> None:
    ours, theirs = socket.socketpair()
    told: queue.Queue[bytes] = queue.Queue()
    with ours, theirs:
        loop.call(loop.watch, ours, lambda is_readable: told.put(ours.recv(10)))
        theirs.send(b"1")
        assert told.get(timeout=LIMIT_S) == b"1"

        loop.call(loop.forget, ours)
        loop.call(theirs.send, b"2")
        loop.call(told.put, b"after")

        assert told.get(timeout=LIMIT_S) == b"after"


def test_what_was_asked_before_close_is_done_and_no_thread_is_left() -> None:
    loop = CloudLoop()
    told: queue.Queue[int] = queue.Queue()
    for number in range(100):
        loop.call(told.put, number)

    loop.close()

    assert told.qsize() == 100
    assert "cloud-link" not in {thread.name for thread in threading.enumerate()}
    loop.call(told.put, 100)  # too late, and no mistake


def test_some_connections_are_opened_at_a_time_and_all_in_turn() -> None:
    openers = Openers()
    may_go_on = threading.Event()
    begun: queue.Queue[int] = queue.Queue()

    def job(number: int) -> None:
        begun.put(number)
        assert may_go_on.wait(LIMIT_S)

    for number in range(2 * MOST):
        openers.run(lambda number=number: job(number))  # type: ignore[misc]
    first = sorted(begun.get(timeout=LIMIT_S) for _ in range(MOST))
    assert begun.empty()
    may_go_on.set()
    others = sorted(begun.get(timeout=LIMIT_S) for _ in range(MOST))
    openers.close(LIMIT_S)

    assert first + others == list(range(2 * MOST))
    assert "cloud-open" not in {thread.name for thread in threading.enumerate()}
