"""What ends a run of an edge: a signal, a part of the edge that asks for it, or the end of its root actor."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class EdgeEnd:
    """The main thread waits here. Any thread may tell; signals arrive as bytes of a pipe, too."""

    def __init__(self) -> None:
        self.failure = ""  # why the root actor ended; "" when it was asked to
        self.root_ended = False
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ask(self) -> None:
        """Have the edge stop as if a signal had come."""
        os.write(self._writer, bytes([signal.SIGTERM]))

    def tell_root_end(self, reason: str) -> None:
        """Tell that the root actor has ended; `reason` is why it failed, "" when it did not."""
        self.failure = reason
        self.root_ended = True
        os.write(self._writer, b"\0")

    @contextmanager
    def signals_caught(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT wake `wait`. In the main thread."""
        earlier_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        earlier = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(earlier_fd)

    def wait(self, ends_s: float | None) -> bool:
        """Wait for a signal, the root's end or a monotonic time; returns whether it was a signal."""
        while not self.root_ended:
            left_s = None if ends_s is None else ends_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            if select.select([self._reader], [], [], left_s)[0]:
                came = os.read(self._reader, 64)
                if any(number in STOP_SIGNALS for number in came):
                    return True
        return False

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._reader)
        os.close(self._writer)
