"""What is said to the store and what it answers.

Apart from the actor, because nearly every other actor of the hub speaks of it and none needs its insides.
"""

from __future__ import annotations

from messaging.kinds import data_message, message


@data_message
class Append:
    """Store these messages. Sent by the router in the name of the head, which is answered with Stored.

    A header and its matches serve all entries that name its index; a match is (endpoint, priority, time to
    live in seconds or None).
    """

    identity: str
    epoch: int  # of the connection
    index: int  # counts the batches of one connection from 0; a gap means that one was lost
    headers: tuple[tuple[bytes, tuple[tuple[str, int, float | None], ...]], ...]
    entries: tuple[tuple[int, bytes], ...]  # (index of its header, body)


@data_message
class Stored:
    """These batches are on disk: the correlation ids of their Publish."""

    batches: tuple[int, ...]


# Attach and Detach travel in the data lane: they must not overtake what was delivered before them, or that
# would be sent again.


@data_message
class Attach:
    """Send me the messages of this endpoint, so many at once. Those that waited longest come first."""

    endpoint_id: str
    attachment: int  # comes back with each Ready, so that one for an earlier attachment can be told
    window_messages: int
    window_bytes: int


@data_message
class Detach:
    """No more of this endpoint. What was sent and not yet said to be delivered will be sent again."""

    endpoint_id: str


@data_message
class Ready:
    """Messages for a consumer, in order of delivery, as runs: (first position, headers, entries).

    The positions in a run are consecutive; an entry is (index of its header, body).
    """

    endpoint_id: str
    attachment: int
    runs: tuple[tuple[int, tuple[bytes, ...], tuple[tuple[int, bytes], ...]], ...]


@data_message
class Delivered:
    """The consumer has these messages now, for good."""

    endpoint_id: str
    attachment: int  # of the Ready; one for an earlier attachment makes no room in the window of this one
    ranges: tuple[tuple[int, int], ...]  # first and last position, both included


@data_message
class Undeliverable:
    """The consumer can never take these messages: drop them as poison."""

    endpoint_id: str
    attachment: int
    ranges: tuple[tuple[int, int], ...]  # first and last position, both included


@data_message
class Expired:
    """The consumer left these messages out: their time to live is over. The next sweep counts them."""

    endpoint_id: str
    attachment: int
    ranges: tuple[tuple[int, int], ...]  # first and last position, both included


@message
class SaveSession:
    """Keep the subscriptions of a client, as (filter, granted QoS). Answered with SessionSaved."""

    identity: str
    subscriptions: tuple[tuple[str, int], ...]


@message
class DeleteSession:
    """Forget the session of a client. Answered with SessionSaved."""

    identity: str


@message
class ForgetClient:
    """This identity is gone: forget its session and the messages from the cloud that wait for it.

    Answered with SessionSaved.
    """

    identity: str


@message
class SessionSaved:
    """The session is on disk."""

    identity: str


@message
class LoadSessions:
    """Tell all kept sessions. Answered with Sessions."""


@message
class Sessions:
    """All kept sessions: identity → subscriptions."""

    sessions: dict[str, tuple[tuple[str, int], ...]]


@data_message
class KeepQueues:
    """Routes lead to these endpoints now, and will to no others: give up what waits for others.

    In the data lane, behind what was routed before.
    """

    endpoint_ids: tuple[str, ...]


@data_message
class WatchQueues:
    """Tell which queues with this prefix have messages and no consumer. Answered with QueuesWaiting, and told
    again with each queue of which that becomes true.

    Whoever asks has just started, or the store has: what the asker was attached to is detached.
    """

    prefix: str


@data_message
class QueuesWaiting:
    """Messages wait in these queues, and nobody is attached. Each is told once until somebody is."""

    endpoint_ids: tuple[str, ...]


@message
class CountQueues:
    """Tell how many messages wait in each queue with this prefix. Answered with QueueCounts."""

    prefix: str


@message
class QueueCounts:
    """How many messages wait in which queue; those in which none waits are left out."""

    counts: tuple[tuple[str, int], ...]
