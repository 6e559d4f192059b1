"""What the hub's actors and the actor that holds the link to the cloud tell each other, besides messages."""

from __future__ import annotations

from messaging.kinds import data_message, message


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


@message
class DesiredFollowed:
    """From the cloud's actor: changes of this identity's desired properties are told from now on.

    There may have been some that nobody told of.
    """

    identity: str


@data_message
class C2dReceived:
    """From the cloud: a cloud-to-device message for a device that has the feature C2D, in their order.

    Told to the router. Answered with `store.Stored` once it is on disk: only then may the cloud forget it.
    Without that, after RequestFailed or in time, it has to come again.
    """

    device_id: str
    header: bytes  # see messaging/message.py; its `expiry` counts
    body: bytes
