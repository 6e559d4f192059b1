"""What the heads of all protocols have in common: requests, and what to do with the answers.

Understands: DeadlinePassed, RequestFailed, Verdict, SessionSaved, GaveWay, Twin, ReportedPatched,
             TwinRefused, TwinForgotten: the answers to what a head asks
"""

from __future__ import annotations

from collections.abc import Callable

from actors.hub.client_services import GaveWay, ReportedPatched, Twin, TwinForgotten, TwinRefused
from actors.hub.identity_messages import Verdict
from actors.kernel.base import EdgeActor
from actors.store.messages import SessionSaved
from messaging.lifecycle import DeadlinePassed, RequestFailed


class ProtocolHead(EdgeActor):
    """Asks others on behalf of clients. A head says in `not_stored` what becomes of a publish that failed."""

    def __init__(self) -> None:
        self._waiting: dict[int, Callable[[object], None]] = {}  # by correlation id

    def ask(self, to: str, request: object, limit_s: float, answered: Callable[[object], None]) -> None:
        """Ask an actor; `answered` gets the answer, or the reason why there is none."""
        self._waiting[self.request(to, request, limit_s)] = answered

    def answered(self, answer: object) -> bool:
        """Hand an answer on to who asked; returns whether somebody did."""
        then = self._waiting.pop(self.envelope.correlation_id, None)
        if then is not None:
            then(answer)
        return then is not None

    def not_stored(self, batch_id: int, reason: str) -> None:
        """A batch of messages is not on disk, and will not be."""
        raise NotImplementedError

    def on_request_failed(self, message: RequestFailed) -> None:
        if not self.answered(message.reason):
            self.not_stored(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        then = self._waiting.pop(message.correlation_id, None)
        if then is not None:
            then(f"{message.address} did not answer in time")

    def on_verdict(self, message: Verdict) -> None:
        self.answered(message)

    def on_session_saved(self, message: SessionSaved) -> None:
        self.answered(message)

    def on_gave_way(self, message: GaveWay) -> None:
        self.answered(message)

    def on_twin(self, message: Twin) -> None:
        self.answered(message)

    def on_reported_patched(self, message: ReportedPatched) -> None:
        self.answered(message)

    def on_twin_refused(self, message: TwinRefused) -> None:
        self.answered(message)

    def on_twin_forgotten(self, message: TwinForgotten) -> None:
        self.answered(message)
