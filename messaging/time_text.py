"""Times as IoT Hub writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

NEVER = "0001-01-01T00:00:00Z"  # what IoT Hub shows for a time that has not come about


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_FIRST_MS: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST_MS: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


def iso_utc(at_s: float) -> str:
    """Return seconds since 1970-01-01 UTC as `2026-11-21T12:31:15.123456Z`; 0 as `NEVER`."""
    if at_s == 0:
        return NEVER
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_iso(text: str) -> float:
    """Return a time in any form of ISO 8601 as seconds since 1970-01-01 UTC; without a zone it is UTC.

    Raises:
        ValueError: `text` is no such time.
    """
    time = datetime.fromisoformat(text)
    try:
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except OverflowError as exc:
        raise ValueError(f"{text} is out of range") from exc


def iso_of_ms(at_ms: int) -> str:
    """Return milliseconds since 1970-01-01 UTC as `2026-11-21T12:31:15.123Z`, cut to the years 1 to 9999."""
    time = _EPOCH + timedelta(milliseconds=min(max(at_ms, _FIRST_MS), _LAST_MS))
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ms_of_iso(text: str) -> int:
    """Return a time in any form of ISO 8601 as milliseconds since 1970-01-01 UTC; without a zone it is UTC.

    Raises:
        ValueError: `text` is no such time.
    """
    time = datetime.fromisoformat(text)
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
