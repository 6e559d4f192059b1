"""What `edge-actors inspect` says to the inspector of a process, and what that answers.

Whoever changes the meaning of one of these raises PROTOCOL in inspection/version.py: the command line and the
edge that it speaks to need not be of the same version.
"""

from __future__ import annotations

from typing import Any

from messaging.kinds import message


@message
class LookAtActors:
    """Tell how the actors of your process are. Answered with ActorsSeen."""


@message
class ActorsSeen:
    """The actors of one process, each as `actor_sight.as_values` writes it, in order of start."""

    process: str
    version: str  # of the program
    allows_faults: bool
    actors: tuple[dict[str, Any], ...]


@message
class LookAtKinds:
    """Tell which kinds of messages your process knows. Answered with KindsSeen."""


@message
class KindsSeen:
    """Their names."""

    kinds: tuple[str, ...]


@message
class OpenTap:
    """Keep envelopes for me from now on; patterns as in TapFilter. Answered with TapOpened.

    A tap that is not read for LEASE_S (inspector.py) keeps nothing any more and only counts what it misses;
    after COUNTED_S it ends.
    """

    to: tuple[str, ...] = ()
    sender: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


@message
class TapOpened:
    """The tap is there."""

    tap: int


@message
class ReadTap:
    """Give what waits, up to a sum of bytes; with 0 it is a sign of life alone. Answered with TapRead.

    Whoever did not get the last answer, because it was stopped meanwhile, gets it again.
    """

    tap: int
    most_bytes: int
    got: int  # the number of the last answer that came; 0 before the first one


@message
class TapRead:
    """Envelopes, oldest first, and between them how many were missed because this inspector was too slow."""

    number: int  # of this answer; one that brings nothing has that of the last one
    envelopes: tuple[tuple[float, int, bytes], ...]  # each as Tapped
    fields: dict[str, tuple[str, ...]]  # of each kind that this tap has not shown before: their names


@message
class CloseTap:
    """I am through with it. Answered with TapClosed."""

    tap: int


@message
class TapClosed:
    """It is gone, and how many envelopes it had missed since that was told last."""

    missed: int


@message
class ReadFlow:
    """Tell who talked to whom since somebody began to look, which this does. Answered with FlowRead."""


@message
class FlowRead:
    """Each link as LinkCounts."""

    at_s: float  # on the monotonic clock
    links: tuple[tuple[Any, ...], ...]


@message
class FindHops:
    """Tell the way of an envelope, given by its id or the correlation id. Answered with HopsFound."""

    id: int


@message
class HopsFound:
    """Each hop as Hop, in order of handling."""

    hops: tuple[tuple[Any, ...], ...]
    known: int  # how many hops of whatever envelope are remembered


@message
class ShowLetter:
    """Show one dead letter in full. Answered with LetterShown, or refused."""

    number: int


@message
class LetterShown:
    """One dead letter."""

    number: int
    at_s: float
    reason: str
    traceback: str
    size: int  # of its frame in bytes; another number than len(frame) when the body is left out
    frame: bytes  # b"" when it was no envelope
    fields: tuple[str, ...]  # the names of its fields; none when its kind is unknown


@message
class ReplayLetter:
    """Send what a dead letter carries once more. Answered with MessageSent, or refused."""

    number: int


@message
class SendMessage:
    """Send a message of this kind. Answered with MessageSent, or refused."""

    to: str
    kind: str
    fields: dict[str, Any]  # by name
    sender: str = ""  # in whose name; nobody's, then nobody answers


@message
class MessageSent:
    """It is on its way, in this envelope."""

    id: int
    to: str
    kind: str
