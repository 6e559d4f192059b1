"""A clock that is wrong, and can be set: used before anything else is imported by programs that have one.

Every module that reads the time does so by `time.time`, and some keep that function when they are imported.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

FILE: Final = "clock"  # beside the home: by how many seconds it is ahead; right while there is none

_right = time.time


def set_clock(home: Path, ahead_s: float) -> None:
    """Let the clock of the edge on this home be wrong from now on."""
    new = home.with_name(f"{FILE}.new")
    new.write_text(str(ahead_s))
    new.rename(home.with_name(FILE))


def go_wrong(home: Path) -> None:
    """Have this process read its time from the wrong clock."""
    file = home.with_name(FILE)

    def wrong() -> float:
        try:
            return _right() + float(file.read_text())
        except FileNotFoundError:
            return _right()

    time.time = wrong
