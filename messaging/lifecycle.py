"""What every actor understands or may be told, whoever it is."""

from __future__ import annotations

from typing import Any, Final

from messaging.kinds import message

# Sent to whoever may still be there; that nobody is tells nothing, so they are no dead letters.
NOTICES: Final = frozenset({"ActorStarted", "ActorStopped", "ActorRestarted", "PeerUp", "PeerDown", "Hello"})


@message
class Stop:
    """Stop your children in reverse order, then yourself. From the parent."""


@message
class ActorStarted:
    """The child answered: `on_start` is through."""

    address: str


@message
class ActorStopped:
    """The actor is gone; nothing it had waiting was handled. To parent and watchers."""

    address: str
    reason: str  # "" when it was asked to


@message
class ActorRestarted:
    """The actor failed and has a new behaviour; what it held in memory is lost. To parent and watchers."""

    address: str
    reason: str
    restarts: int  # since the process started


@message
class Watch:
    """Tell me when you restart or stop."""


@message
class RequestFailed:
    """The answer to a request whose handling failed. Carries the request's correlation id."""

    kind: str
    address: str
    reason: str


@message
class DeadlinePassed:
    """Nobody answered your request in time; a late answer will go to the dead letters."""

    kind: str
    address: str
    correlation_id: int


@message
class PeerUp:
    """Another process of this edge is there, in this incarnation. What it knew before is gone."""

    process: str
    epoch: int


@message
class PeerDown:
    """Another process of this edge is gone; what was sent to it last may be lost."""

    process: str


@message
class Hello:
    """A process greets another: who it is and which incarnation. Repeated as a sign of life.

    The one message that is for whichever incarnation of the receiver is there. Its form must not change, so
    that processes of different versions understand it; new fields come last and have a default.
    """

    process: str
    epoch: int
    version: str = ""  # of the program
    knows: int = 0  # the incarnation of the receiver from which a Welcome came; 0: none yet


@message
class Welcome:
    """The answer to Hello, once all actors of the process run. Its form is as fixed."""

    process: str
    epoch: int


@message
class Describe:
    """Tell how you are. Answered with Described."""


@message
class Described:
    """State of one actor, for the inspector."""

    address: str
    values: dict[str, Any]


@message
class ListDeadLetters:
    """Tell the last dead letters of your process. Answered by root actors."""


@message
class DeadLetterList:
    """The last dead letters, oldest first, as plain values."""

    count: int
    letters: tuple[dict[str, Any], ...]


@message
class WakeInspector:
    """Have the inspector of your process run, if it does not. Answered by root actors with InspectorAwake."""


@message
class InspectorAwake:
    """It runs, and can be spoken to."""
