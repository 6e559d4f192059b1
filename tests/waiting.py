"""Waits for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

LIMIT_S: Final = 30.0
_BETWEEN_LOOKS_S: Final = 0.02

T = TypeVar("T")


def wait_until(
    is_so: Callable[[], object], what: str | Callable[[], str] = "it", limit_s: float = LIMIT_S
) -> float:
    """Look again and again whether something has come true; return how many seconds that took.

    `what` is what a failure says that it waited for; what is costly to say is called for it.
    """
    began_s = time.monotonic()
    while not is_so():
        if time.monotonic() >= began_s + limit_s:
            raise AssertionError(f"not within {limit_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(_BETWEEN_LOOKS_S)
    return time.monotonic() - began_s


def wait_for(
    find: Callable[[], T | None], what: str | Callable[[], str] = "it", limit_s: float = LIMIT_S
) -> T:
    """Look again and again for something, and return it once it is there."""
    found: list[T] = []

    def is_there() -> bool:
        seen = find()
        if seen is not None:
            found.append(seen)
        return bool(found)

    wait_until(is_there, what, limit_s)
    return found[0]
