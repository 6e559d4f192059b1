"""How often an actor may fail before its parent has to decide: the restart intensity.

Source: the supervision principles of Erlang/OTP (`intensity` and `period`).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

LIMIT: Final = 5  # restarts …
PERIOD_S: Final = 30.0  # … within this time; one more escalates


class Verdict(Struct, frozen=True):
    """Whether to restart, and what to remember of the failures so far."""

    restart: bool
    failed_at_s: tuple[float, ...]


def decide(failed_at_s: tuple[float, ...], now_s: float) -> Verdict:
    """Return whether an actor that failed now is restarted.

    Args:
        failed_at_s: The failures so far, oldest first, on the clock of `now_s`.
        now_s: When it failed now, in seconds on any clock that does not jump.
    """
    recent = tuple(at_s for at_s in failed_at_s if now_s - at_s < PERIOD_S)
    return Verdict(len(recent) < LIMIT, (*recent, now_s))
