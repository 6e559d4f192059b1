"""What the hub's actors and the actor that holds the link to the cloud tell each other, besides messages."""

from __future__ import annotations

from messaging.kinds import message


@message
class LinkChanged:
    """The cloud can be asked from now on, or no longer; the answer to WatchLink, too."""

    is_up: bool


@message
class WatchLink:
    """Tell me whether the cloud can be asked, now and whenever that changes: LinkChanged."""


@message
class FetchTwin:
    """Tell the twin of an identity as the cloud has it. Answered with CloudTwin or CloudRefused."""

    identity: str


@message
class CloudTwin:
    """A twin as the cloud has it; both sections JSON objects with `$version`."""

    identity: str
    desired: bytes
    reported: bytes


@message
class SendReported:
    """Merge a JSON patch into the reported properties in the cloud.

    Answered with ReportedSent or CloudRefused.
    """

    identity: str
    patch: bytes


@message
class ReportedSent:
    """The cloud has the patch."""

    identity: str


@message
class CloudRefused:
    """The cloud did not do what was asked; `status` as HTTP has it, 0 when there was no answer."""

    identity: str
    status: int
    reason: str


@message
class DesiredChanged:
    """From the cloud: desired properties of an identity were patched, which made them this version."""

    identity: str
    version: int
    patch: bytes
