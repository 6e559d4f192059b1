"""What is to be done with a connection to the cloud that is there: does it hang, rest, or have no use. Pure.

Times are monotonic.

Source: routing.md section 6.4
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from actors.upstream.rate import patience_s
from actors.upstream.source import Phase, Source

LINGER_S: Final = 10.0  # a client that renews its token is back by then
REST_S: Final = 30.0  # after which the store need not keep a window for a source that sends nothing
CONNECT_LIMIT_S: Final = 60.0  # a connection that says neither yes nor no in this time is begun anew


class LinkLimits(Struct, frozen=True):
    """What the link is allowed."""

    most_connections: int = 100  # at the same time, besides the hub's own
    messages_per_s: float | None = None  # of all sources together; None: as fast as they go
    idle_s: float | None = 3600.0  # then a connection without use is closed; None: never
    closes_with_client: bool = True  # … or soon after its client has gone
    operation_s: float = 20.0  # a connection on which nothing moves for so long is built anew


def hanging_s(source: Source, limits: LinkLimits, now_s: float) -> float | None:
    """Return for how long nothing has moved though it should, when that is too long, else None."""
    if source.phase is Phase.OPENING:
        limit_s, since_s = CONNECT_LIMIT_S, source.opened_s
    elif source.phase is Phase.OPEN and source.is_waited_for:
        limit_s, since_s = patience_s(limits.operation_s, source.in_flight_bytes), source.moved_s
    else:
        return None
    return limit_s if now_s - since_s > limit_s else None


def may_rest(source: Source, now_s: float) -> bool:
    """Say whether the store need not hand over messages of a source for now; it tells when there are some."""
    return (
        bool(source.attachment)
        and not source.held
        and not source.is_waited_for
        and now_s - source.used_s >= REST_S
    )


def has_no_use(source: Source, limits: LinkLimits, now_s: float) -> bool:
    """Say whether an open connection can be closed; never that of the hub itself."""
    if source.wants_connection or source.attachment:
        return False
    rests_s = now_s - source.used_s
    has_lost_client = limits.closes_with_client and not source.has_client and rests_s >= LINGER_S
    return has_lost_client or (limits.idle_s is not None and rests_s >= limits.idle_s)
