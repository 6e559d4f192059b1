"""Direct methods that the cloud called over one connection and that have no answer yet. Pure."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

LIFE_S: Final = 360.0  # the cloud waits five and a half minutes for an answer

T = TypeVar("T")


class MethodCalls(Generic[T]):
    """Under ids of our own, because the cloud may use one of its ids again; T is what the cloud's id is."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[T, float]] = {}  # our id → the cloud's, since when

    def came(self, request_id: str, cloud_id: T, now_s: float) -> None:
        """Keep a call until it is answered; those that nobody waits for any more are forgotten."""
        while self._open and next(iter(self._open.values()))[1] < now_s - LIFE_S:
            del self._open[next(iter(self._open))]
        self._open[request_id] = cloud_id, now_s

    def answered(self, request_id: str) -> T | None:
        """Return the cloud's id of the call that this answers, once; None when it is nobody's any more."""
        cloud_id, _ = self._open.pop(request_id, (None, 0.0))
        return cloud_id

    def clear(self) -> None:
        """Forget all."""
        self._open.clear()
