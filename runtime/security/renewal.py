"""When a certificate is renewed. Pure.

Source: spec sheet security-daemon.md section 3.3
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

_UNITS_S: Final = {"min": 60, "day": 86_400}


class Threshold(Struct, frozen=True):
    """At which share of its life, or how long before its end, a certificate is due."""

    percent: int = 0  # of its life; 0: `before_end_s` counts
    before_end_s: int = 0

    def time_s(self, not_before_s: float, not_after_s: float) -> float:
        """Return when a certificate of this life is due, in seconds since 1970-01-01 UTC."""
        if self.percent:
            return not_before_s + (not_after_s - not_before_s) * self.percent / 100
        return not_after_s - self.before_end_s

    def is_due(self, not_before_s: float, not_after_s: float, now_s: float) -> bool:
        """Tell whether a certificate has to be issued anew.

        One that is not valid *yet* is not due: a device without a clock battery starts in the past, and a new
        edge CA would lock out every downstream device over it.
        """
        return not_before_s >= not_after_s or now_s >= self.time_s(not_before_s, not_after_s)


DEFAULT_THRESHOLD: Final = Threshold(percent=80)


def threshold(text: str) -> Threshold:
    """Read `80%`, `90min` or `7day`.

    Raises:
        ValueError: says what is allowed.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})(%|min|day)", text, re.ASCII)
    if match is None or (match[2] == "%" and int(match[1]) >= 100):
        raise ValueError("1% to 99% of its life, or how long before its end, such as 90min or 7day")
    number = int(match[1])
    return (
        Threshold(percent=number) if match[2] == "%" else Threshold(before_end_s=number * _UNITS_S[match[2]])
    )
