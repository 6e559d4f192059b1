"""Telemetry of one identity on its way over AMQP: what waits, what leaves together, what has no answer yet.

Pure; times are monotonic. A batch leaves when it is full, when nothing is under way, or when its first
message has waited long enough. So a message of a quiet sender leaves at once, and those of a busy one share
a delivery.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from actors.cloud_connection import CloudFault

BATCH_MESSAGES: Final = 100  # at most
BATCH_BYTES: Final = 64 * 1024  # what a slow line can do within the time in which the cloud has to answer
BATCH_AGE_S: Final = 0.005
_ELEMENT_HEAD_BYTES: Final = 8  # descriptor and length of one message in a batch


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that has not left."""

    number: int
    encoded: bytes
    since_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages that leave, or have left, as one delivery."""

    messages: tuple[Waiting, ...]
    size_bytes: int
    sent_s: float

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of all, in order."""
        return [message.number for message in self.messages]


class Batches:
    """In the order of sending."""

    def __init__(self, most_messages: int = BATCH_MESSAGES, most_bytes: int = BATCH_BYTES) -> None:
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._under_way: dict[object, Batch] = {}  # by delivery, in the order of sending
        self._answers: dict[object, CloudFault | None] = {}  # that came before those in front of them
        self._alone = 0  # so many leave one by one: they were refused together

    def add(self, number: int, encoded: bytes, now_s: float) -> None:
        """Let a message wait for its turn."""
        self._waiting.append(Waiting(number, encoded, now_s))
        self._waiting_bytes += len(encoded) + _ELEMENT_HEAD_BYTES

    def due_s(self, now_s: float) -> float | None:
        """Return how long to wait until a batch has to leave: 0.0 for now, None when nothing waits."""
        if not self._waiting:
            return None
        if self._alone:
            return 0.0 if not self._under_way else None
        if not self._under_way or len(self._waiting) >= self._most_messages:
            return 0.0
        if self._waiting_bytes >= self._most_bytes:
            return 0.0
        return max(0.0, self._waiting[0].since_s + BATCH_AGE_S - now_s)

    def take(self, now_s: float, peer_most_bytes: int = 0) -> Batch:
        """Return what leaves next; there has to be something. `sent` follows.

        Args:
            peer_most_bytes: That the cloud takes at once; 0: it has no limit.
        """
        most_bytes = min(self._most_bytes, peer_most_bytes or self._most_bytes)
        most_messages = 1 if self._alone else self._most_messages
        taken: list[Waiting] = []
        size_bytes = 0
        while self._waiting and len(taken) < most_messages:
            next_bytes = len(self._waiting[0].encoded) + _ELEMENT_HEAD_BYTES
            if taken and size_bytes + next_bytes > most_bytes:
                break
            taken.append(self._waiting.popleft())
            size_bytes += next_bytes
        self._waiting_bytes -= size_bytes
        self._alone = max(0, self._alone - 1)
        return Batch(tuple(taken), size_bytes, now_s)

    def sent(self, delivery: object, batch: Batch) -> None:
        """Note what a delivery carries."""
        self._under_way[delivery] = batch

    def answered(self, delivery: object, fault: CloudFault | None) -> None:
        """Note what became of a delivery; the cloud answers in whatever order it likes."""
        if delivery in self._under_way:
            self._answers[delivery] = fault

    def next_answer(self) -> tuple[Batch, CloudFault | None] | None:
        """Return what became of the batch whose turn it is, once; None while that is not known."""
        delivery = next(iter(self._under_way), None)
        if delivery not in self._answers:
            return None
        return self._under_way.pop(delivery), self._answers.pop(delivery)

    def again_one_by_one(self, batch: Batch) -> None:
        """Let the messages of a batch that was refused leave again, each by itself: one of them is to blame.

        What left behind it may be there already: their order is lost with a message that nobody can take.
        """
        self._waiting.extendleft(reversed(batch.messages))
        self._waiting_bytes += batch.size_bytes
        self._alone += len(batch.messages)

    def oldest(self) -> Batch | None:
        """Return what waits longest for its answer."""
        return next(iter(self._under_way.values()), None)

    def take_all(self) -> list[int]:
        """Return the numbers of all without an answer, in the order of sending, and forget them."""
        numbers = [number for batch in self._under_way.values() for number in batch.numbers]
        numbers += [waiting.number for waiting in self._waiting]
        self._under_way.clear()
        self._answers.clear()
        self._waiting.clear()
        self._waiting_bytes = self._alone = 0
        return numbers
