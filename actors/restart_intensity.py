"""Decides whether a failing actor is restarted or its parent is asked, in the manner of OTP supervisors.

More than `limit` restarts within `period_s` mean that restarting does not help. The failure that would need
one restart more escalates.

Source: erlang/otp: lib/stdlib/src/supervisor.erl (add_restart, in_period).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LIMIT = 5
PERIOD_S = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`restarts` are the times to pass in again at the next failure, this restart included."""

    escalate: bool
    restarts: tuple[float, ...]


def decide(
    restarts: Sequence[float], now_s: float, *, limit: int = LIMIT, period_s: float = PERIOD_S
) -> Verdict:
    """Return whether the failure at `now_s` is answered by a restart or by escalation.

    Args:
        restarts: Times of earlier restarts, oldest first, from a monotonic clock.
        now_s: Time of this failure, from the same clock.
        limit: How many restarts are allowed within the period; 0 escalates at once.
        period_s: Length of the period, more than 0; a restart exactly that long ago still counts.
    """
    recent = tuple(at_s for at_s in restarts if now_s - at_s <= period_s)
    if len(recent) >= limit:
        return Verdict(escalate=True, restarts=recent)
    return Verdict(escalate=False, restarts=(*recent, now_s))
