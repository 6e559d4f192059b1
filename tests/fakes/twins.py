"""Twins in memory, which survive the actor that uses them."""

from __future__ import annotations

from collections.abc import Mapping

from messaging.errors import StoreError


class MemoryTwins:
    """Implements `actors.ports.TwinStore`. `failing`: nothing can be stored."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.failing = False

    def load(self, identity: str) -> bytes | None:
        return self.kept.get(identity)

    def save(self, twins: Mapping[str, bytes]) -> None:
        if self.failing:
            raise StoreError("twin database: no space left to store a twin; free some on its disk")
        self.kept.update(twins)

    def remove(self, identity: str) -> None:
        if self.failing:
            raise StoreError("twin database: no space left to forget a twin; free some on its disk")
        self.kept.pop(identity, None)

    def identities(self) -> list[str]:
        return list(self.kept)

    def close(self) -> None:
        """Nothing is open."""
