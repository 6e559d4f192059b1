"""What protocol heads and the services of the hub tell each other about clients: twins and methods.

No message here knows of a protocol: a head translates them to and from what its clients speak.
"""

from __future__ import annotations

from messaging.kinds import message


@message
class HeadStarted:
    """A head serves clients from now on; it has none yet. Also after a restart."""


@message
class ClientChanged:
    """A client is connected and wants these features, `messaging.topics.Feature` by name. From its head."""

    identity: str
    features: tuple[str, ...]
    model_id: str = ""  # of plug and play, if it has announced one


@message
class ClientGone:
    """A client is not connected to this head any more."""

    identity: str


@message
class GiveWay:
    """To a head: this identity wants to connect to another one. End its connection to yours.

    Answered with GaveWay, when everybody has been told of that.
    """

    identity: str


@message
class GaveWay:
    """This identity is not connected to this head any more."""

    identity: str


@message
class ForgetIdentity:
    """To a head: this identity is gone, or another has its name now. End its connection, and have everything
    forgotten that was kept for it: session, twin, messages from the cloud. Answered with IdentityForgotten.
    """

    identity: str


@message
class IdentityForgotten:
    """Nothing on disk is left of what was kept for this identity."""

    identity: str


# twins


@message
class GetTwin:
    """Tell the twin of a client. Answered with Twin, or with TwinRefused."""

    identity: str


@message
class Twin:
    """The twin of a client as clients get it: JSON with `desired` and `reported`, both with `$version`."""

    identity: str
    document: bytes


@message
class PatchReported:
    """Merge a JSON patch into the reported properties.

    Answered, once that is on disk, with ReportedPatched, or with TwinRefused.
    """

    identity: str
    patch: bytes


@message
class ReportedPatched:
    """The patch is on disk."""

    identity: str


@message
class TwinRefused:
    """A request for a twin could not be served; `status` as HTTP has it."""

    identity: str
    status: int
    reason: str


@message
class ForgetTwin:
    """This identity is gone: its twin goes, too. Answered with TwinForgotten."""

    identity: str


@message
class TwinForgotten:
    """The twin is not on disk any more."""

    identity: str


@message
class DesiredPatch:
    """To the head of a client that wants it: its desired properties changed."""

    identity: str
    version: int
    patch: bytes  # JSON, with `$version`


@message
class DesiredTold:
    """From the head: the client has taken the patch that made its desired properties this version."""

    identity: str
    version: int


# methods


@message
class InvokeMethod:
    """Call a direct method of a client. Answered with MethodResult or MethodFailed."""

    identity: str
    name: str
    payload: bytes  # JSON; empty: none
    response_timeout_s: float
    connect_timeout_s: float  # how long to wait for the client to connect and to want methods
    caller: str = "upstream"  # a module, or the cloud; for those who count


@message
class MethodResult:
    """What the client answered."""

    status: int
    payload: bytes  # as the client sent it; empty: none


@message
class MethodFailed:
    """The client did not answer: 404 it was not there, 504 it took too long, 429 too many calls wait."""

    status: int
    reason: str


@message
class CallMethod:
    """To the head of a client: pass a call on. Answered with MethodAnswered, whenever the client does."""

    identity: str
    request_id: str
    name: str
    payload: bytes


@message
class MethodAnswered:
    """A client answered a call. The request id is the client's word: compare without regard to case."""

    identity: str
    request_id: str
    status: int
    payload: bytes
