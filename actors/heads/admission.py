"""Who may open a connection: strangers, who have not authenticated yet, get only so much of the hub.

A connection costs a descriptor, buffers and a TLS handshake before anybody knows whose it is. What has
authenticated is counted in the total alone: many devices may stand behind one address.
"""

from __future__ import annotations

import ipaddress
from typing import Final

MOST_CONNECTIONS: Final = 10_000
STRANGERS_PER_ADDRESS: Final = 256
LOOPBACK_STRANGERS: Final = 4096  # all modules of this machine, when they come back at once
STRANGERS_SHARE: Final = 2  # one in so many connections at most is a stranger's


class Admission:
    """Counts the connections of one listener."""

    def __init__(self, most_connections: int = MOST_CONNECTIONS) -> None:
        self._most_connections = most_connections
        self._most_strangers = most_connections // STRANGERS_SHARE
        self._connections = 0
        self._strangers: dict[str, int] = {}  # by address, none with 0
        self._strangers_in_all = 0

    def enter(self, address: str) -> str:
        """Return "" when one more connection from this address is taken, which counts it; else why not."""
        if self._connections >= self._most_connections:
            return f"{self._connections} connections are open, as many as this hub takes"
        if self._strangers_in_all >= self._most_strangers:
            return f"{self._strangers_in_all} connections have not authenticated yet"
        limit = LOOPBACK_STRANGERS if _is_loopback(address) else STRANGERS_PER_ADDRESS
        known = self._strangers.get(address, 0)
        if known >= limit:
            return f"{known} connections from {address} have not authenticated yet"
        self._connections += 1
        self._strangers_in_all += 1
        self._strangers[address] = known + 1
        return ""

    def authenticated(self, address: str) -> None:
        """A stranger from this address has become somebody."""
        self._strangers_in_all -= 1
        left = self._strangers.pop(address) - 1
        if left:
            self._strangers[address] = left

    def leave(self, address: str, *, stranger: bool) -> None:
        """A connection is gone."""
        self._connections -= 1
        if stranger:
            self.authenticated(address)


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
