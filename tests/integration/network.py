"""What lines are like that tests use, and how long they are off and on; see `runtime.faults.line`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from runtime.faults.line import LIMIT_S, Line, Profile

SATELLITE: Final = Profile(0.3, 0.025, 25e6 / 8, 0.02)
MOBILE: Final = Profile(0.05, 0.005)
NARROW: Final = Profile(bytes_per_s=25e3 / 8)
# How many minutes a line is off and on in turn.
OUTAGES_MINUTES: Final = ((5, 5), (10, 10), (15, 15), (30, 30), (5, 20))


@contextmanager
def alternating(line: Line, off_s: float, on_s: float) -> Iterator[None]:
    """Cut the line and restore it in turn, beginning with a cut; in the end it is on."""
    ended = threading.Event()

    def alternate() -> None:
        while not ended.is_set():
            line.cut()
            ended.wait(off_s)
            line.restore()
            ended.wait(on_s)

    alternator = threading.Thread(target=alternate, name="line-alternates")
    alternator.start()
    try:
        yield
    finally:
        ended.set()
        alternator.join(LIMIT_S)
