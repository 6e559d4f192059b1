"""Waits for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 30.0
_BETWEEN_LOOKS_S: Final = 0.02


def wait_until(is_so: Callable[[], object], what: str = "it", limit_s: float = LIMIT_S) -> float:
    """Look again and again whether something has come true; return how many seconds that took."""
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() < began_s + limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(_BETWEEN_LOOKS_S)
    return time.monotonic() - began_s
