"""One thread for the sockets of all connections to the cloud, and for everything that is done to them.

What it runs must not block: opening a connection, which does, has threads of its own (upstream/openers.py).
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

Ready = Callable[[bool], None]  # called with whether there is something to read
FAREWELL_S: Final = 1.0  # how long the last packets may take to leave
_JOIN_S: Final = 5.0


class CloudLoop:
    """Runs calls of any thread in their order, timers, and whoever watches a socket that is ready."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wake = -1
        self._is_woken = False
        self._is_ending = False
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = itertools.count()
        self._watched: dict[int, Ready] = {}

    # any thread

    def call(self, work: Callable[..., object], *arguments: object) -> None:
        """Run `work` on the loop, after what was asked before; the first call starts the thread."""
        self._calls.append((work, arguments))
        if self._thread is None:
            self._start()
        if not self._is_woken and threading.current_thread() is not self._thread:
            self._is_woken = True
            with self._lock:
                if self._wake >= 0:
                    os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Do what was asked, give the sockets a second to send their last bytes, and end the thread."""
        with self._lock:
            thread, self._is_ending = self._thread, True
        if thread is not None:
            self.call(lambda: None)
            thread.join(_JOIN_S)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._is_ending:
                self._selector = selectors.DefaultSelector()
                self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._selector.register(self._wake, selectors.EVENT_READ)
                self._thread = threading.Thread(target=self._run, name="cloud-link", daemon=True)
                self._thread.start()

    # on the loop

    def later(self, delay_s: float, work: Callable[[], object]) -> None:
        """Run `work` once, after the delay."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._timer_numbers), work))

    def watch(self, watched: socket.socket, ready: Ready) -> None:
        """Call `ready` whenever there is something to read, or after `wants_write` room to write."""
        assert self._selector is not None
        self._selector.register(watched, selectors.EVENT_READ)
        self._watched[watched.fileno()] = ready

    def wants_write(self, watched: socket.socket, wants: bool) -> None:
        """Say whether the socket has something to write that did not fit."""
        assert self._selector is not None
        if watched.fileno() in self._watched:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants else 0)
            if self._selector.get_key(watched).events != events:
                self._selector.modify(watched, events)

    def forget(self, watched: socket.socket) -> None:
        """Watch a socket no longer; call it before the socket is closed."""
        if self._watched.pop(watched.fileno(), None) is not None:
            assert self._selector is not None
            self._selector.unregister(watched)

    def _run(self) -> None:
        assert self._selector is not None
        ends_at_s = float("inf")
        while time.monotonic() < ends_at_s:
            for key, events in self._selector.select(self._pause_s(ends_at_s)):
                if key.fd == self._wake:
                    os.eventfd_read(self._wake)
                    self._is_woken = False
                elif key.fd in self._watched:
                    self._do(self._watched[key.fd], bool(events & selectors.EVENT_READ))
            for _ in range(len(self._calls)):
                work, arguments = self._calls.popleft()
                self._do(work, *arguments)
            now_s = time.monotonic()
            while self._timers and self._timers[0][0] <= now_s:
                self._do(heapq.heappop(self._timers)[2])
            if self._is_ending and not self._calls:
                ends_at_s = min(ends_at_s, now_s + FAREWELL_S) if self._watched else now_s
        with self._lock:
            os.close(self._wake)
            self._wake = -1
        self._selector.close()

    def _pause_s(self, ends_at_s: float) -> float | None:
        if self._calls:
            return 0.0
        next_s = min(self._timers[0][0] if self._timers else float("inf"), ends_at_s)
        return None if next_s == float("inf") else max(0.0, next_s - time.monotonic())

    def _do(self, work: Callable[..., object], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:
            # One connection's mistake must not stop the others.
            log.exception("the link to the cloud: %s failed", getattr(work, "__qualname__", work))
