"""How long to wait before something that was not taken is sent again."""

from __future__ import annotations


def wait_s(times: int, first_s: float, longest_s: float) -> float:
    """Return the seconds to wait after so many failed attempts to send again, 0 or more.

    Doubles from `first_s` up to `longest_s`. Without chance: there is no herd to break up, only one queue.
    """
    return min(first_s * 2.0 ** min(times, 30), longest_s)
