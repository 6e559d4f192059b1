"""Whether the cloud can be reached: one TCP probe per host, shared by all who wait for it.

While the host cannot be reached a new try begins every 500 ms, and each has five seconds, so that a slow line
is not taken for a cut one. A name that resolved once is remembered: a resolver that comes back late must not
hold up the probe.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

INTERVAL_S: Final = 0.5
TRY_S: Final = 5.0
_JOIN_S: Final = 1.0

_Address = tuple[socket.AddressFamily, Any]


class Probes:
    """Probes hosts in threads that end with the answer."""

    def __init__(self, *ports: int) -> None:
        """Take the ports; a host is reached when one of them is."""
        self.use(*ports)
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._reached_s: dict[str, float] = {}
        self._addresses: dict[str, list[_Address]] = {}
        self._threads: set[threading.Thread] = set()
        self._closed = threading.Event()

    def use(self, *ports: int) -> None:
        """Try these ports from now on, also for those who wait."""
        self._ports = ports

    def probe(self, host_name: str, reached: Callable[[], None]) -> None:
        """See `CloudConnections.probe`. A host is reached twice a second at most, however often asked for."""
        with self._lock:
            if self._closed.is_set():
                return
            waiting = self._waiting.setdefault(host_name, [])
            waiting.append(reached)
            if len(waiting) == 1:
                thread = threading.Thread(
                    target=self._run, args=(host_name,), name="cloud-probe", daemon=True
                )
                self._threads.add(thread)
                thread.start()

    def close(self) -> None:
        """End all probes; nobody is called any more."""
        with self._lock:
            self._closed.set()
            self._waiting.clear()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def _run(self, host_name: str) -> None:
        try:
            again_s = self._reached_s.get(host_name, -INTERVAL_S) + INTERVAL_S
            self._closed.wait(max(0.0, again_s - time.monotonic()))
            if self._try_until_reached(host_name):
                self._reached_s[host_name] = time.monotonic()
        finally:
            with self._lock:
                waiting = self._waiting.pop(host_name, [])
                self._threads.discard(threading.current_thread())
        for reached in waiting:
            reached()

    def _try_until_reached(self, host_name: str) -> bool:
        resolver = _Resolver(host_name, lambda: self._ports, self._addresses)
        tries: list[tuple[float, socket.socket]] = []
        with selectors.DefaultSelector() as selector:
            try:
                while not self._closed.is_set():
                    began_s = time.monotonic()
                    resolver.refresh()
                    for family, address in self._addresses.get(host_name, ()):
                        started = _start(family, address)
                        if started is not None:
                            selector.register(started, selectors.EVENT_WRITE)
                            tries.append((began_s, started))
                    if self._is_any_connected(selector, tries, began_s + INTERVAL_S):
                        return True
                    for late in [each for each in tries if each[0] <= began_s - TRY_S]:
                        _drop(selector, tries, late[1])
            finally:
                for _, each in tries:
                    each.close()
        return False

    def _is_any_connected(
        self, selector: selectors.BaseSelector, tries: list[tuple[float, socket.socket]], until_s: float
    ) -> bool:
        """Wait for the tries under way, all of the interval unless one succeeds."""
        while (left_s := until_s - time.monotonic()) > 0:
            if not tries:
                self._closed.wait(left_s)
                return False
            for key, _ in selector.select(left_s):
                tried: socket.socket = key.fileobj  # type: ignore[assignment]  # a socket was registered
                if tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    return True
                _drop(selector, tries, tried)
            if self._closed.is_set():
                return False
        return False


class _Resolver:
    """Resolves one name in a thread of its own, because that may take long."""

    def __init__(
        self, host_name: str, ports: Callable[[], tuple[int, ...]], addresses: dict[str, list[_Address]]
    ) -> None:
        self._host_name = host_name
        self._ports = ports
        self._addresses = addresses
        self._thread: threading.Thread | None = None

    def refresh(self) -> None:
        """Resolve the name again unless that is under way; wait a little, as an answer is often there."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._resolve, name="cloud-resolve", daemon=True)
            self._thread.start()
        self._thread.join(INTERVAL_S / 5)

    def _resolve(self) -> None:
        try:
            found = [
                one
                for port in self._ports()
                for one in socket.getaddrinfo(self._host_name, port, type=socket.SOCK_STREAM)
            ]
        except (OSError, UnicodeError):
            return  # what was known before still is; opening the connection says what is wrong with the name
        self._addresses[self._host_name] = [(family, address) for family, _, _, _, address in found]


def _start(family: socket.AddressFamily, address: Any) -> socket.socket | None:
    started = socket.socket(family, socket.SOCK_STREAM)
    started.setblocking(False)
    try:
        started.connect(address)
    except BlockingIOError:
        return started
    except OSError:
        started.close()
        return None
    return started


def _drop(
    selector: selectors.BaseSelector, tries: list[tuple[float, socket.socket]], tried: socket.socket
) -> None:
    selector.unregister(tried)
    tries[:] = [each for each in tries if each[1] is not tried]
    tried.close()
