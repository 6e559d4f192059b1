"""The expiry that a sender gives a message, `$.exp`: it can only shorten the time to live of its route.

The reference keeps such a message until the time to live of the route is over (spec sheet routing.md
section 5.7); ours is not delivered when its sender says that it is of no use any more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from actors.store.stored import Match
from messaging import system_properties as names
from messaging.errors import EnvelopeError
from messaging.message import decode_header

_MARK: Final = names.EXPIRY.encode()  # a header without these bytes need not be decoded

Headers = tuple[tuple[bytes, tuple[Match, ...]], ...]


def with_own_expiry(headers: Headers, now_s: float) -> Headers:
    """Return the headers of a batch with times to live that end when the message itself expires."""
    if not any(_MARK in header for header, _ in headers):
        return headers
    return tuple((header, _shortened(header, matches, now_s)) for header, matches in headers)


def _shortened(header: bytes, matches: tuple[Match, ...], now_s: float) -> tuple[Match, ...]:
    expires_at_s = expiry_of(header) if _MARK in header else None
    if expires_at_s is None:
        return matches
    left_s = max(0.0, expires_at_s - now_s)
    return tuple(
        Match(endpoint_id, priority, left_s if ttl_s is None else min(ttl_s, left_s))
        for endpoint_id, priority, ttl_s in matches
    )


def expiry_of(header: bytes) -> float | None:
    """Return when a message expires, in seconds since 1970-01-01 UTC; None when it does not say so.

    A time without an offset is UTC; what is no time in ISO 8601 counts as not said.
    """
    try:
        text = decode_header(header, b"").system_properties.get(names.EXPIRY)
        at = datetime.fromisoformat(text) if text else None
        if at is None:
            return None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (EnvelopeError, ValueError, OverflowError):
        return None
