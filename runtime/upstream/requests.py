"""Twin requests of one connection: what was asked and has no answer yet. Pure; times are monotonic."""

from __future__ import annotations

from collections import deque

from msgspec import Struct


class TwinRequest(Struct, frozen=True):
    """One request; `number` is the asker's, the other id travels."""

    number: int
    request_id: str
    payload: bytes
    is_get: bool
    due_s: float

    @property
    def what(self) -> str:
        """What was asked, for a reason."""
        return "the twin was asked for" if self.is_get else "reported properties were sent"


class TwinRequests:
    """In the order of asking; those that have not left yet wait for their turn."""

    def __init__(self) -> None:
        self._open: dict[str, TwinRequest] = {}
        self._waiting: deque[str] = deque()

    def __len__(self) -> int:
        """Return how many have left and wait for an answer."""
        return len(self._open) - len(self._waiting)

    def add(self, request_id: str, number: int, is_get: bool, payload: bytes, due_s: float) -> None:
        """Keep a request that is to leave."""
        self._open[request_id] = TwinRequest(number, request_id, payload, is_get, due_s)
        self._waiting.append(request_id)

    def next_to_leave(self) -> TwinRequest | None:
        """Return the request whose turn it is; from now on it waits for its answer."""
        return self._open[self._waiting.popleft()] if self._waiting else None

    def answered(self, request_id: str) -> TwinRequest | None:
        """Return the request that this is the answer to, once; None when it is nobody's any more."""
        return self._open.pop(request_id, None)

    def overdue(self, now_s: float) -> list[TwinRequest]:
        """Return the requests whose time is over, and forget them."""
        late = [request_id for request_id, request in self._open.items() if request.due_s <= now_s]
        self._waiting = deque(request_id for request_id in self._waiting if request_id not in late)
        return [self._open.pop(request_id) for request_id in late]

    def take_all(self) -> list[int]:
        """Return the numbers of all, and forget them."""
        numbers = [request.number for request in self._open.values()]
        self._open.clear()
        self._waiting.clear()
        return numbers
