"""Whether a host can be reached: one probe for all who ask."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.upstream.probe import INTERVAL_S, Probes
from tests.integration.sdk_clients import loopback_address

LIMIT_S = 10.0


@pytest.fixture
def place() -> tuple[str, int]:
    """Return an address and a port where nothing listens."""
    address = loopback_address()
    with socket.create_server((address, 0)) as server:
        return address, server.getsockname()[1]


@pytest.fixture
def probes(place: tuple[str, int]) -> Iterator[Probes]:
    with closing(Probes(place[1])) as made:
        yield made


def test_all_who_wait_for_a_host_share_one_probe(probes: Probes, place: tuple[str, int]) -> None:
    reached: queue.Queue[int] = queue.Queue()
    with socket.create_server(place) as server:
        server.settimeout(LIMIT_S)
        for number in range(5):
            probes.probe(place[0], lambda number=number: reached.put(number))  # type: ignore[misc]

        assert sorted(reached.get(timeout=LIMIT_S) for _ in range(5)) == [0, 1, 2, 3, 4]
        server.accept()[0].close()
        server.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_host_that_comes_back_is_noticed_within_a_second(probes: Probes, place: tuple[str, int]) -> None:
    reached = threading.Event()
    probes.probe(place[0], reached.set)
    assert not reached.wait(INTERVAL_S / 5)

    with socket.create_server(place):
        began_s = time.monotonic()

        assert reached.wait(LIMIT_S)
        assert time.monotonic() - began_s < 2 * INTERVAL_S


def test_a_host_is_found_no_more_often_than_it_is_probed(probes: Probes, place: tuple[str, int]) -> None:
    reached: queue.Queue[float] = queue.Queue()
    with socket.create_server(place):
        probes.probe(place[0], lambda: reached.put(time.monotonic()))
        first_s = reached.get(timeout=LIMIT_S)
        probes.probe(place[0], lambda: reached.put(time.monotonic()))

        assert reached.get(timeout=LIMIT_S) - first_s >= 0.9 * INTERVAL_S


def test_whoever_is_reached_may_ask_again_at_once(probes: Probes, place: tuple[str, int]) -> None:
    again = threading.Event()
    with socket.create_server(place):
        probes.probe(place[0], lambda: probes.probe(place[0], again.set))

        assert again.wait(LIMIT_S)


def test_nobody_is_called_after_close_and_no_thread_is_left(probes: Probes, place: tuple[str, int]) -> None:
    reached = threading.Event()
    probes.probe(place[0], reached.set)
    probes.probe("no-such-host.invalid", reached.set)

    probes.close()
    probes.probe(place[0], reached.set)

    names = {thread.name for thread in threading.enumerate()}
    assert "cloud-probe" not in names
    assert not reached.is_set()


def test_a_name_that_resolved_once_is_probed_while_it_does_not(
    probes: Probes, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves = True
    real = socket.getaddrinfo

    def look_up(*arguments: object, **options: object) -> object:
        if not resolves:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real(place[0], place[1], type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    reached: queue.Queue[None] = queue.Queue()
    with socket.create_server(place):
        probes.probe("hub.example", lambda: reached.put(None))
        reached.get(timeout=LIMIT_S)
        resolves = False
        probes.probe("hub.example", lambda: reached.put(None))

        reached.get(timeout=LIMIT_S)
