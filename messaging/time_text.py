"""Times as IoT Hub writes them."""

from __future__ import annotations

from datetime import UTC, datetime

NEVER = "0001-01-01T00:00:00Z"  # what IoT Hub shows for a time that has not come about


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
