"""What actors keep on disk, as Protocols: messages, the broker's state, twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from actors.store.stored import MAX_POSITION, DropReason, Ledger, Run, Segment

if TYPE_CHECKING:
    from messaging.broker.journal import Changes, Kept


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

    def delivered(self, ranges: Mapping[str, Sequence[tuple[int, int]]]) -> int:
        """Forget messages that endpoints took, all at once; return how many of them were still waiting.

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

    def due_headers(self, now_s: float, limit: int = 1000) -> list[tuple[bytes, int]]:
        """Return of what `expire` would delete the headers, and how many messages have each."""
        ...

    def drop_oldest(self, limit: int = 1000) -> dict[str, int]:
        """Give up the oldest messages of the lowest priority at which any wait, for want of space.

        Of all endpoints at once, so that the bodies they share go; at most `limit` sequence numbers.

        Returns:
            How many at which endpoint; nothing says that none is left.
        """
        ...

    def read(
        self,
        endpoint_id: str,
        after_position: int,
        max_count: int,
        max_bytes: int,
        now_s: float,
        last_position: int = MAX_POSITION,
    ) -> list[Run]:
        """Return the next messages behind `after_position` (-1: from the start) in order of delivery.

        None behind `last_position`. At most `max_count`, and as many as fit into `max_bytes` by
        `Run.size_bytes`, but at least one when any waits. Expired messages are passed over.
        """
        ...

    def pending(self, endpoint_id: str) -> int:
        """Return how many messages wait for the endpoint."""
        ...

    def waiting(self, endpoint_ids: Sequence[str], now_s: float) -> list[str]:
        """Return those of these queues in which a message waits that has not expired, in the same order."""
        ...

    def endpoint_ids(self) -> tuple[str, ...]:
        """Return the queues that messages were stored for, those in which some wait among them."""
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

        For moments without traffic, outside a transaction. A store that went short of space also gets its
        reserve back here, as soon as there is room for it.
        """
        ...

    def close(self) -> None:
        """Close the database, outside a transaction. Nothing else may be called after that."""
        ...


class BrokerStore(Protocol):
    """What the broker keeps on disk. Used by one thread only; every method raises StoreError."""

    def load(self) -> Kept:
        """Return all of it."""
        ...

    def write(self, changes: Changes) -> None:
        """Write them; on return all of it is on disk, else nothing."""
        ...

    def tidy(self) -> None:
        """Give free space back to the file system, a slice."""
        ...

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        ...


class TwinStore(Protocol):
    """The twins on disk, as bytes by identity. Used by one thread only; every method raises StoreError."""

    def load(self, identity: str) -> bytes | None:
        """Return what was saved for an identity, None when nothing was."""
        ...

    def save(self, twins: Mapping[str, bytes]) -> None:
        """Replace twins; on return all of them are on disk, else none."""
        ...

    def remove(self, identity: str) -> None:
        """Forget the twin of an identity, if there is one; on return that is on disk."""
        ...

    def identities(self) -> list[str]:
        """Return all identities that have a twin."""
        ...

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        ...
