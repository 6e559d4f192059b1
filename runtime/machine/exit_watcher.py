"""One thread that waits for the end of any number of processes, and for points in time.

A pidfd becomes readable when its process ends, whoever its parent is: no polling, and no race with a pid that
is given away again.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class ExitWatcher:
    """Calls back, in its own thread, when a watched process ends or a delay is over.

    Callbacks must be short: all others wait for them. `watch` and `call_later` may be called from any thread.
    """

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._endings: dict[int, Callable[[], None]] = {}  # by pidfd
        self._delays: list[tuple[float, int, Callable[[], None]]] = []  # heap by monotonic time
        self._order = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def watch(self, pidfd: int, on_end: Callable[[], None]) -> None:
        """Call `on_end` once when the process of `pidfd` has ended, at once if it has. Owns the pidfd."""
        with self._lock:
            self._endings[pidfd] = on_end
            self._epoll.register(pidfd, select.EPOLLIN)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `delay_s` seconds from now."""
        with self._lock:
            heapq.heappush(self._delays, (time.monotonic() + delay_s, next(self._order), callback))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread and forget all; what it watched lives on. Not to be called from a callback."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for pidfd in self._endings:
            os.close(pidfd)
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while True:
            ready = self._epoll.poll(self._timeout_s())
            if self._closed:
                return
            for descriptor, _ in ready:
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._call(self._take_ending(descriptor))
            for callback in self._take_due():
                self._call(callback)

    def _timeout_s(self) -> float | None:
        with self._lock:
            return max(0.0, self._delays[0][0] - time.monotonic()) if self._delays else None

    def _take_ending(self, pidfd: int) -> Callable[[], None]:
        with self._lock:
            self._epoll.unregister(pidfd)
            os.close(pidfd)
            return self._endings.pop(pidfd)

    def _take_due(self) -> list[Callable[[], None]]:
        due = []
        with self._lock:
            while self._delays and self._delays[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._delays)[2])
        return due

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # the loop must outlive its work: other modules are watched here too
            log.exception("a callback of %s failed", self._thread.name)
