"""What bridges need from the outside: their database, where the other brokers are, connections to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from actors.ports.connections import Transport
from messaging.broker.bridges import Direction
from messaging.envelope import Secret
from messaging.mqtt.packets import Publish


class Waiting(NamedTuple):
    """A message that waits to be forwarded; numbers of a queue grow."""

    number: int
    message: Publish


class QueueState(Struct, frozen=True):
    """What is known of one queue: what waits, and what became of the rest since it was made."""

    messages: int = 0
    bytes: int = 0
    forwarded: int = 0
    dropped: int = 0  # for want of room


class BridgeStore(Protocol):
    """The queues of all bridges on disk, two for each: one a direction.

    Used by one thread only; every method raises StoreError, StoreFull for want of space on the disk.
    """

    def append(
        self,
        endpoint: str,
        direction: Direction,
        messages: Sequence[Publish],
        forwarded: Sequence[int] = (),
    ) -> int:
        """Keep messages behind those that wait, and forget forwarded ones; on return all that is on disk.

        One message always has room, however large.

        Returns:
            How many of them there was room for, counted from the first: the others are not kept. What the
            caller does not bring again it tells with `dropped`.
        """
        ...

    def dropped(self, endpoint: str, direction: Direction, count: int) -> None:
        """Count messages that are given up."""
        ...

    def read(self, endpoint: str, direction: Direction, after: int, limit: int) -> list[Waiting]:
        """Return the next messages behind a number, -1 for the first, in order."""
        ...

    def forwarded(self, endpoint: str, direction: Direction, numbers: Sequence[int]) -> None:
        """Forget messages that have arrived at the other end."""
        ...

    def state(self, endpoint: str, direction: Direction) -> QueueState:
        """Return what is known of a queue."""
        ...

    def endpoints(self) -> tuple[str, ...]:
        """Return the endpoints of which anything is kept."""
        ...

    def forget(self, endpoint: str) -> int:
        """Remove all that is kept of an endpoint; return how many messages were still waiting."""
        ...

    def held(self, endpoint: str) -> dict[str, bool]:
        """Return the filters that the other broker may know, with whether it granted them."""
        ...

    def save_held(self, endpoint: str, held: Mapping[str, bool]) -> None:
        """Replace these filters; on return that is on disk."""
        ...

    def tidy(self) -> None:
        """Give free space back to the file system, a slice at a time: for moments without traffic."""
        ...

    def close(self) -> None:
        """Close the file. Nothing else may be called after that."""
        ...


class BridgeAccess(Struct, frozen=True):
    """Where another broker is, and as whom a bridge connects to it."""

    host: str
    port: int
    client_id: str
    is_tls: bool = True
    user_name: str | None = None
    password: Secret | None = None
    signs_as: str = ""  # an identity of this edge: the password is a fresh token of its key …
    audience_host: str = ""  # … for this host
    ca_file: str = ""  # PEM, instead of the authorities of the system
    certificate_file: str = ""  # PEM, ours; "": none
    key_file: str = ""
    keep_alive_s: int = 60

    @property
    def address(self) -> str:
        """What to call the other broker in logs."""
        return f"{self.host}:{self.port}"


class BridgeSettings(Protocol):
    """What the settings of this device say of the other brokers."""

    def access(self, endpoint: str) -> BridgeAccess:
        """Return what is to be known of an endpoint; read anew each time.

        Raises:
            EdgeError: the settings have nothing of this endpoint, or something that is wrong, or cannot be
                read; names the way out.
        """
        ...

    def names(self, endpoint: str) -> bool:
        """Say whether the settings have anything of an endpoint; where they cannot be read they may."""
        ...


class LineHandler(Protocol):
    """What a connection to another broker tells, on the event loop of the actor."""

    def opened(self, transport: Transport) -> None:
        """TCP and TLS are there."""
        ...

    def received(self, data: bytes) -> None:
        """Bytes came."""
        ...

    def closed(self, reason: str) -> None:
        """It is gone, or could not be made: said once, and the last word."""
        ...


class Line(Protocol):
    """A connection that is being made, or was."""

    def abandon(self) -> None:
        """Give it up at once; nothing is told any more."""
        ...


class Lines(Protocol):
    """Makes connections to other brokers, on the event loop of the thread that asks."""

    def connect(self, access: BridgeAccess, handler: LineHandler) -> Line:
        """Begin to connect; ends in `opened` or `closed`. Returns at once."""
        ...


class BridgePorts(Struct, frozen=True):
    """All that bridges need from the outside; `open_store` is called in the thread that uses it."""

    open_store: Callable[[], BridgeStore]
    lines: Lines
    settings: BridgeSettings
