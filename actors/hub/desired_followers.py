"""Which clients are told of changes of their desired properties, and what they were sent on this connection.

Pure. Versions are those of the desired properties.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from messaging.twin import Json

MOST_UNTAKEN: Final = 16  # patches of one client that are followed; of older ones the next one tells


class DesiredFollowers:
    """All clients that are connected, by identity; each has a head, and some want patches."""

    def __init__(self) -> None:
        self._clients: dict[str, tuple[str, bool]] = {}  # identity → its head, whether it wants patches
        self._sent: dict[str, dict[int, Json]] = {}  # by version, in order, what it has not taken yet

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[str]:
        """Return the identities of all clients."""
        return iter(self._clients)

    def head_started(self, head: str) -> None:
        """A head begins anew, and has no clients."""
        self._clients = {who: known for who, known in self._clients.items() if known[0] != head}

    def changed(self, identity: str, head: str, wants: bool) -> bool:
        """Note a client; returns whether it wants patches from now on, and did not before."""
        _, wanted = self._clients.get(identity, ("", False))
        self._clients[identity] = (head, wants)
        begins = wants and not wanted
        if begins:
            self._sent.pop(identity, None)
        return begins

    def gone(self, identity: str, head: str) -> None:
        """A client is gone, unless it is connected through another head by now."""
        if self._clients.get(identity, ("",))[0] == head:
            del self._clients[identity]
            self._sent.pop(identity, None)

    def head_of(self, identity: str) -> str:
        """Return the head through which a client is told patches, "" when it wants none."""
        head, wants = self._clients.get(identity, ("", False))
        return head if wants else ""

    def sent(self, identity: str, version: int, values: Json) -> None:
        """Note that a client was sent what makes its desired properties these."""
        sent = self._sent.setdefault(identity, {})
        sent.pop(version, None)  # the order is that of sending
        sent[version] = values
        if len(sent) > MOST_UNTAKEN:
            del sent[next(iter(sent))]

    def last_sent(self, identity: str) -> Json | None:
        """Return what a client has once it took all it was sent; None when nothing is on its way."""
        sent = self._sent.get(identity)
        return next(reversed(sent.values())) if sent else None

    def taken(self, identity: str, version: int) -> Json | None:
        """Note that a client has a patch and those before; return its values, None for an old one."""
        sent = self._sent.get(identity, {})
        values = sent.get(version)
        if values is not None:
            while next(iter(sent)) != version:
                del sent[next(iter(sent))]
            del sent[version]
        return values

    def forget_sent(self, identity: str) -> None:
        """Its twin is another one from now on."""
        self._sent.pop(identity, None)
