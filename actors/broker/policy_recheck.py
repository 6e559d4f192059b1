"""Looks at every session once the rules of the broker have changed. A part of the MQTT head.

There may be thousands, each with hundreds of filters, and messages must not wait that long: so some are
looked at in a turn. Whoever connects meanwhile is judged by the new rules anyhow.

Source: spec sheet broker.md sections 3.2 and 13
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from actors.broker.hub_broker import PolicyApplied
from actors.broker.user_topics import UserTopics
from actors.kernel.base import EdgeActor
from messaging.envelope import Envelope
from messaging.kinds import message

FILTERS_AT_ONCE: Final = 2000  # with 100 rules 30 to 50 ms
FILTERS_A_CLIENT: Final = 20  # what it costs to find the rules that are about a client, in filters


@message
class RecheckDue:
    """Go on looking at sessions."""


class PolicyRecheck:
    """One look at all sessions at a time; when the rules change again meanwhile, it begins anew."""

    def __init__(
        self,
        head: EdgeActor,
        topics: UserTopics,
        sessions: Callable[[], Mapping[str, Mapping[str, int]]],
        cut_off: Callable[[str, str], None],
    ) -> None:
        """Take the head, who knows the rules, client id → filters of all sessions, and what ends one."""
        self._head = head
        self._topics = topics
        self._sessions = sessions
        self._cut_off = cut_off
        self._left: list[str] = []  # client ids
        self._is_due = False
        self._asked: list[Envelope] = []

    def begin(self, asked: Envelope | None = None) -> None:
        """Look at all sessions; whoever asked for it is told when that is done."""
        if asked is not None:
            self._asked.append(asked)
        self._left = list(self._sessions())
        self._look()

    def go_on(self) -> None:
        """RecheckDue has come."""
        self._is_due = False
        self._look()

    def _look(self) -> None:
        sessions = self._sessions()
        count = 0
        while self._left and count < FILTERS_AT_ONCE:
            name = self._left.pop()
            filters = sessions.get(name)
            if filters is None:
                continue  # it has ended
            count += FILTERS_A_CLIENT + len(filters)
            if reason := self._topics.why_cut_off(name, filters):
                self._cut_off(name, reason)
        if not self._left:
            asked, self._asked = self._asked, []
            for envelope in asked:
                self._head.reply(PolicyApplied(), envelope)
        elif not self._is_due:
            self._is_due = True
            self._head.tell(self._head.address, RecheckDue())
