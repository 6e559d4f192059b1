"""Credit of a link on which a client of the stand-in sends."""

from __future__ import annotations

from messaging.amqp.link import Link


class Inflow:
    """Gives credit anew for what was dealt with, many at once: each time is a frame."""

    def __init__(self, link: Link, credit: int) -> None:
        self.link = link
        self._at_least = credit // 10
        self._spent = 0
        link.grant(credit)

    def dealt_with(self, count: int = 1) -> None:
        """So many messages more need nothing of us any longer."""
        self._spent += count
        if self._spent >= self._at_least:
            self.link.grant(self._spent)
            self._spent = 0
