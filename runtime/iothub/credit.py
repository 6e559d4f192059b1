"""How much of what clients sent is on its way to the disk: beyond a limit, sockets are not read."""

from __future__ import annotations

from typing import Final, Protocol

CLIENT_BYTES: Final = 4 * 1024 * 1024  # of one client …
ALL_BYTES: Final = 16 * 1024 * 1024  # … and of all
REASON: Final = "credit"


class Holder(Protocol):
    """A client as seen from here."""

    unanswered_bytes: int

    def hold(self, reason: str) -> None:
        """Stop reading its socket."""

    def release(self, reason: str) -> None:
        """Read it again, unless there is another reason not to."""


class Credit:
    """Counts, and tells clients to wait."""

    def __init__(self) -> None:
        self._used_bytes = 0
        self._paused: set[Holder] = set()

    def take(self, client: Holder, size_bytes: int) -> None:
        """So much more of a client is on its way, and counted in its own `unanswered_bytes`."""
        self._used_bytes += size_bytes
        if client.unanswered_bytes > CLIENT_BYTES or self._used_bytes > ALL_BYTES:
            self._paused.add(client)
            client.hold(REASON)

    def give_back(self, size_bytes: int) -> None:
        """So much has arrived, or nobody waits for it any more."""
        self._used_bytes -= size_bytes
        if self._paused and self._used_bytes <= ALL_BYTES // 2:
            for client in [one for one in self._paused if one.unanswered_bytes <= CLIENT_BYTES // 2]:
                self._paused.discard(client)
                client.release(REASON)
