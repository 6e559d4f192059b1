"""Tells what another broker sends back to a bridge only because the bridge published it there.

MQTT 3.1.1 has no way to say that one does not want one's own messages. So topic and payload of what was sent
are remembered for a while, when a subscription of the bridge covers that topic, and one arrival of the same
is the echo. A memory that is too short costs a duplicate; one that is too long could take the message of
somebody else for an echo: so nothing is remembered for longer than the other broker plausibly takes, and the
time in which there was no connection does not count.

Source: spec sheet broker.md sections 7.2 and 13
"""

from __future__ import annotations

from collections import deque
from typing import Final

ECHO_LIMIT_S: Final = 30.0  # of a connection that stands
REMEMBERED: Final = 10_000


class EchoGuard:
    """What one bridge sent to one broker. Not thread-safe; times are those of one monotonic clock."""

    def __init__(self) -> None:
        self._sent: dict[int, deque[float]] = {}  # hash of topic and payload → when it was sent
        self._order: deque[tuple[float, int]] = deque()
        self._connected_s = 0.0

    def connected(self, now_s: float) -> None:
        """There is a new connection: what was not echoed by the one before may still be."""
        self._connected_s = now_s

    def sent(self, topic: str, payload: bytes, now_s: float) -> None:
        """The bridge has published this to a topic that it is subscribed to itself."""
        self._forget(now_s)
        key = hash((topic, payload))
        self._sent.setdefault(key, deque()).append(now_s)
        self._order.append((now_s, key))

    def is_echo(self, topic: str, payload: bytes, now_s: float) -> bool:
        """Say whether what arrives is an echo; each message sent has one."""
        self._forget(now_s)
        key = hash((topic, payload))
        waiting = self._sent.get(key)
        if not waiting:
            return False
        waiting.popleft()
        if not waiting:
            del self._sent[key]
        return True

    def _forget(self, now_s: float) -> None:
        order = self._order
        while order and (
            len(order) >= REMEMBERED or now_s - max(order[0][0], self._connected_s) > ECHO_LIMIT_S
        ):
            sent_s, key = order.popleft()
            waiting = self._sent.get(key)
            if waiting and waiting[0] <= sent_s:
                waiting.popleft()
                if not waiting:
                    del self._sent[key]
