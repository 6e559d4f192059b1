"""Times and states in words, as `list` and the live picture show them."""

from __future__ import annotations

import time


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit: `45 seconds`, `5 minutes`, `3 hours`, `12 days`."""
    whole = max(0, int(seconds))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if whole >= length:
            return _count(whole // length, unit)
    return _count(whole, "second")


def local_time(at_s: float, now_s: float) -> str:
    """Return a time for people on this machine: the clock alone when it is today."""
    then = time.localtime(at_s)
    today = then[:3] == time.localtime(now_s)[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
