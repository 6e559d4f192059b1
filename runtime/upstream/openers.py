"""Threads for what blocks: names to be resolved, TCP and TLS connections to be made.

They come when there is work and go when there is none. A few at a time: on a slow line the handshakes of many
would all run out of time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

MOST: Final = 8


class Openers:
    """Runs jobs, at most `MOST` at a time, in the order of `run`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()

    def run(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread of its own as soon as it is its turn."""
        with self._lock:
            self._jobs.append(job)
            if len(self._threads) < MOST:
                thread = threading.Thread(target=self._work, name="cloud-open", daemon=True)
                self._threads.add(thread)
                thread.start()

    def close(self, limit_s: float) -> None:
        """Forget what has not begun, and wait for the rest; a name that does not resolve may take longer."""
        deadline_s = time.monotonic() + limit_s
        with self._lock:
            self._jobs.clear()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._threads.discard(threading.current_thread())
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                log.exception("the link to the cloud: a connection could not be tried")
