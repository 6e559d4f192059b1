"""What is asked of the link to the cloud from outside the hub, and what it answers."""

from __future__ import annotations

from messaging.kinds import message

Source = tuple[str, str, float, str, str, int, int, float]
"""Identity, state (`upstream_source.Phase` by value), since when in seconds since 1970-01-01 UTC, kind of the
fault or "", its reason, messages the cloud took since the hub started, messages on their way, and when it is
tried again, in seconds since 1970-01-01 UTC, or 0."""


@message
class SwitchLink:
    """Switch the link to the cloud on or off; it stays so over restarts. Answered with LinkState."""

    on: bool


@message
class GetLinkState:
    """Tell the state of the link. Answered with LinkState."""


@message
class LinkState:
    """How the link to the cloud is, and each identity that uses it."""

    on: bool
    sent: int  # messages that the cloud took since the hub started
    is_up: bool = False
    since_s: float = 0.0  # since when it is up or not; seconds since 1970-01-01 UTC
    reason: str = ""  # why it is not up
    host_name: str = ""
    sources: tuple[Source, ...] = ()
