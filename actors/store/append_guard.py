"""Keeps the order of a publisher: batches of one connection are stored without a gap, or not at all.

A batch that got lost on its way or failed must not be overtaken by the next one of the same connection: its
client sends it again after a reconnect, and a later message would then stand in front of it. So the batches
of a connection are numbered, and after a gap everything from that connection is refused. The connection's
epoch grows with each CONNECT of an identity; what a connection that was taken over left behind is refused.
"""

from __future__ import annotations


class AppendGuard:
    """Remembers for each identity the newest connection and the batch that comes next."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[int, int]] = {}  # identity → (epoch, index of the next batch)

    def check(self, identity: str, epoch: int, index: int) -> str:
        """Return "" when this batch may be stored, which counts it; else why it is refused."""
        newest, expected = self._next.get(identity, (0, 0))
        if epoch < newest:
            return f"'{identity}' has connected again since"
        if epoch > newest:
            expected = 0
        if index != expected:
            self._next[identity] = (epoch, -1)
            return f"batch {index} of '{identity}' came where {expected} was expected"
        self._next[identity] = (epoch, index + 1)
        return ""

    def failed(self, identity: str, epoch: int) -> None:
        """Refuse everything more of this connection: one of its batches was not stored."""
        if self._next.get(identity, (0, 0))[0] == epoch:
            self._next[identity] = (epoch, -1)
