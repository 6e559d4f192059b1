"""What actors need from the outside world, as Protocols; `runtime/` implements them, tests pass fakes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from actors.stored import DropReason, Ledger, Run, Segment
from messaging.message import Message


class MessageStore(Protocol):
    """The durable queues of the hub: one per endpoint, and the body of each message once.

    Used by one thread only. Whatever changes something happens inside `with store.transaction()`: all of
    it is on disk when the block has ended, or none of it. Every method raises StoreError when the
    database cannot do it, StoreFull when that is for want of space.
    """

    def transaction(self) -> AbstractContextManager[None]:
        """Commit what the block did, with one sync to disk; undo all of it when anything in it failed."""
        ...

    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        """Store messages and return the sequence number of the first; the others follow it one by one.

        Messages without a match take their numbers, are counted as received and unrouted, and are not kept.

        Args:
            segments: In order.
            now_s: Seconds since 1970-01-01 UTC; the time to live of every match starts here.
        """
        ...

    def delivered(self, endpoint_id: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Forget messages that the endpoint took; return how many of them were still waiting.

        A range is first and last position, both included; ranges may overlap. Positions where nothing
        waits (any longer: said twice, expired meanwhile) are not counted.

        Raises:
            ValueError: A position is not in 0 to MAX_POSITION.
        """
        ...

    def dropped(self, endpoint_id: str, ranges: Sequence[tuple[int, int]], reason: DropReason) -> int:
        """Give up messages of an endpoint; return how many of them were still waiting."""
        ...

    def drop_queue(self, endpoint_id: str, reason: DropReason, limit: int = 1000) -> int:
        """Give up the next `limit` messages of an endpoint; a smaller result says that none is left."""
        ...

    def expire(self, now_s: float, limit: int = 1000) -> dict[str, int]:
        """Delete at most `limit` messages past their time to live; return how many at which endpoint.

        A sum below `limit` says that none is left.
        """
        ...

    def read(
        self, endpoint_id: str, after_position: int, max_count: int, max_bytes: int, now_s: float
    ) -> list[Run]:
        """Return the next messages behind `after_position` (-1: from the start) in order of delivery.

        At most `max_count`, and as many as fit into `max_bytes` by `Run.size_bytes`, but at least one when
        any waits. Expired messages are passed over.
        """
        ...

    def pending(self, endpoint_id: str) -> int:
        """Return how many messages wait for the endpoint."""
        ...

    def ledger(self) -> Ledger:
        """Return the ledger of this moment."""
        ...

    def save_session(self, identity_id: str, record: bytes) -> None:
        """Keep what must survive a restart of the session of a client."""
        ...

    def delete_session(self, identity_id: str) -> None:
        """Forget the session of a client; nothing happens when there is none."""
        ...

    def sessions(self) -> dict[str, bytes]:
        """Return all kept sessions by identity."""
        ...

    def tidy(self) -> int:
        """Give free space back to the file system, a slice at a time; return the bytes still to give.

        For moments without traffic, outside a transaction.
        """
        ...

    def close(self) -> None:
        """Close the database, outside a transaction. Nothing else may be called after that."""
        ...


class Transport(Protocol):
    """One connection of a client, with TLS or without. Used on the event loop of its head."""

    peer: str  # address and port, for logs

    def write(self, data: bytes) -> None:
        """Send; what the socket does not take now waits in memory."""
        ...

    def close(self) -> None:
        """Send what waits, then close."""
        ...

    def pause_reading(self) -> None:
        """Read no more: the peer's socket fills up."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...


class ConnectionHandler(Protocol):
    """What a listener tells its head, all on the head's event loop."""

    def connected(self, transport: Transport) -> Any:
        """A connection was accepted; the answer is handed back with all that follows."""
        ...

    def received(self, client: Any, data: bytes) -> None:
        """Bytes came."""
        ...

    def disconnected(self, client: Any, error: str) -> None:
        """The connection is gone, by whichever side."""
        ...


class Listener(Protocol):
    """The listening sockets of a protocol head."""

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections; those that came earlier have waited in the backlog."""
        ...

    def close(self) -> None:
        """Stop accepting. The sockets stay open: who connects meanwhile waits in the backlog."""
        ...


class CloudLink(Protocol):
    """The way to the cloud for messages."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages in order; when this returns, the cloud has them.

        Raises:
            EdgeError: it has not, or not all; they will be sent again.
        """
        ...

    def is_on(self) -> bool:
        """Return whether the link is switched on."""
        ...

    def switch(self, on: bool) -> None:
        """Switch the link on or off, also for the next start."""
        ...

    def close(self) -> None:
        """Let go of files and connections; `send` opens them again."""
        ...
