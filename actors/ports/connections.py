"""What protocol heads and the link to the cloud need from outside, as Protocols: sockets, certificates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from messaging.identity import Identity


class Transport(Protocol):
    """One connection of a client, with TLS or without. Used on the event loop of its head."""

    peer: str  # address and port, for logs

    @property
    def unsent_bytes(self) -> int:
        """What was written and waits in memory, because the peer does not read."""
        ...

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """What the peer showed in the TLS handshake, as DER: its own certificate first; () for none.

        It has the private key of that one. Nothing else has been verified.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send; what the socket does not take now waits in memory."""
        ...

    def close(self) -> None:
        """Send what waits, then close; a peer that does not read it is cut off after a while."""
        ...

    def pause_reading(self) -> None:
        """Read no more: the peer's socket fills up."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...

    def authenticated(self) -> None:
        """The peer has said who it is: it is not counted among the strangers any more."""
        ...


class ConnectionHandler(Protocol):
    """What a listener tells its head, all on the head's event loop."""

    def connected(self, transport: Transport) -> Any:
        """A connection was accepted; the answer is handed back with all that follows."""
        ...

    def received(self, client: Any, data: bytes) -> None:
        """Bytes came."""
        ...

    def writing_paused(self, client: Any) -> None:
        """So much waits in memory for this peer that nothing more should be written."""
        ...

    def writing_resumed(self, client: Any) -> None:
        """The peer has taken most of it."""
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


class CheckCertificate(Protocol):
    """Reads certificates for the hub; see `runtime.security.client_certificates.check_certificate`."""

    def __call__(
        self,
        certificates: Sequence[bytes],
        identity: Identity,
        auth_type: str,
        thumbprints: Collection[str],
        authorities: Sequence[bytes],
        now_s: float,
    ) -> float:
        """Return until when the first certificate proves the identity, in seconds since 1970-01-01 UTC.

        Raises:
            AuthError: it does not.
        """
        ...


class LinkSwitch(Protocol):
    """Whether the link to the cloud is wanted, kept over restarts."""

    def is_on(self) -> bool:
        """Return whether it is switched on; it is until somebody switches it off."""
        ...

    def switch(self, on: bool) -> None:
        """Switch it on or off, for good.

        Raises:
            EnvironmentFault: that cannot be kept.
        """
        ...
