"""A registry whose syncs end when the test says so."""

from __future__ import annotations

from collections.abc import Callable

from actors.ports.security import SyncOutcome
from actors.upstream.connection import CloudFault, Fault

FINE = SyncOutcome(identities=3)


class FakeRegistry:
    """Implements `actors.ports.Registry`."""

    host_name = "hub1"
    device_id = "edge1"
    is_own = False

    def __init__(self) -> None:
        self.running: list[Callable[[SyncOutcome], None]] = []
        self.begun = 0

    def start_sync(self, done: Callable[[SyncOutcome], None]) -> None:
        self.begun += 1
        self.running.append(done)

    def end(self, outcome: SyncOutcome = FINE) -> None:
        """End the sync that runs; only one may."""
        [done] = self.running
        self.running.clear()
        done(outcome)


def failed(kind: Fault, status: int = 0, reason: str = "something is wrong") -> SyncOutcome:
    return SyncOutcome(CloudFault(kind, reason, status))
