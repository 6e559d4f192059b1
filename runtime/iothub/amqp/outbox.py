"""What a client of the stand-in is sent on one link at most once: settled, in order, as credit allows.

Source: spec sheet hub-protocols.md section 3.4
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from typing import Final, Protocol

from messaging.amqp.link import Link
from messaging.errors import LocalProtocolError

log = logging.getLogger(__name__)

MOST_WAITING_BYTES: Final = 1 << 20  # of a client that gives no credit; beyond, the oldest are dropped


class Wire(Protocol):
    """The connection as seen from here."""

    @property
    def is_writable(self) -> bool:
        """Whether the client reads."""

    def flush_soon(self) -> None:
        """Write soon."""


class Outbox:
    """Messages for one link, and those that wait for it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._link: Link | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._tags = itertools.count(1)

    @property
    def link(self) -> Link | None:
        """The link that counts."""
        return self._link

    def attach(self, link: Link) -> None:
        """Send on this link from now on."""
        self._link = link

    def detach(self, link: Link) -> None:
        """The link is gone, and what waited for it."""
        if link is self._link:
            self._link = None
            self._waiting.clear()
            self._waiting_bytes = 0

    def put(self, encoded: bytes) -> None:
        """Send a message, or keep it until there is credit for it."""
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)
        self.send()
        while self._waiting_bytes > MOST_WAITING_BYTES:
            self._take()

    def send(self) -> None:
        """Send what waits."""
        link = self._link
        if link is None:
            return
        sent = False
        while self._waiting and link.credit > 0 and self._wire.is_writable:
            encoded = self._take()
            sent = True
            try:
                link.send(encoded, next(self._tags).to_bytes(4, "big"), settled=True)
            except LocalProtocolError as exc:  # larger than the client takes
                log.warning("a message is dropped: %s", exc)
        if link.drain:
            link.drained()
            sent = True
        if sent:
            self._wire.flush_soon()

    def _take(self) -> bytes:
        encoded = self._waiting.popleft()
        self._waiting_bytes -= len(encoded)
        return encoded
