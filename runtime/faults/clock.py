"""A clock that is wrong, and can be set: used before anything else is imported by programs that have one.

Every module that reads the time does so by `time.time`, and some keep that function when they are imported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

FILE: Final = "clock"  # beside the home: by how many seconds it is ahead; right while there is none
SEEN: Final = "clock-seen"  # beside it: a line for each process and time that was read from it first

_right = time.time


def set_clock(home: Path, ahead_s: float) -> None:
    """Let the clock of the edge on this home be wrong from now on."""
    new = home.with_name(f"{FILE}.new")
    new.write_text(str(ahead_s))
    new.rename(home.with_name(FILE))


def seen_clock(home: Path, ahead_s: float) -> set[int]:
    """Return the processes that have read a time that is so much ahead."""
    try:
        lines = home.with_name(SEEN).read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {int(pid) for pid, seen in map(str.split, lines) if float(seen) == ahead_s}


def go_wrong(home: Path) -> None:
    """Have this process read its time from the wrong clock."""
    file, seen = home.with_name(FILE), home.with_name(SEEN)
    last = ""

    def wrong() -> float:
        nonlocal last
        try:
            text = file.read_text()
        except FileNotFoundError:
            return _right()
        if text != last:
            last = text
            with seen.open("a") as lines:
                lines.write(f"{os.getpid()} {text}\n")
        return _right() + float(text)

    time.time = wrong
