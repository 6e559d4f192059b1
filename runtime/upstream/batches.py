"""Telemetry of one identity on its way over AMQP: what waits, what leaves together, what has no answer yet.

Pure; times are monotonic. A batch leaves when nothing is under way: so a message of a quiet sender leaves at
once, those of a busy one share a delivery, and what the cloud refuses is overtaken by nothing. A cloud goes
on taking what left behind a batch that it refuses, so that is the price of order: a batch a round trip.

Where that would be slow, a batch may leave behind another one all the same: when it is full, the line is
long, and the cloud has taken what it was sent so far.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from actors.upstream.connection import CloudFault

BATCH_MESSAGES: Final = 250  # at most: half of what the store hands over of one sender
BATCH_BYTES: Final = 240 * 1024  # IoT Hub takes 256 KiB at once
LONG_LINE_S: Final = 0.02  # an answer that takes longer is worth not being waited for …
PROOFS: Final = 8  # … when so many in a row did, and were good ones
_ELEMENT_HEAD_BYTES: Final = 8  # descriptor and length of one message in a batch


class Waiting(Struct, frozen=True):
    """A message that has not left."""

    number: int
    encoded: bytes


class Batch(Struct, frozen=True):
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
        self._refused: list[Batch] = []  # that leave again in parts, in order, when nothing is under way
        self._parts: deque[int] = deque()  # so many of those that wait leave together, then so many
        self._took_s: deque[float] = deque(maxlen=PROOFS)  # the last answers, all of them good
        self._is_wary = False  # something was refused

    def add(self, number: int, encoded: bytes) -> None:
        """Let a message wait for its turn."""
        self._waiting.append(Waiting(number, encoded))
        self._waiting_bytes += len(encoded) + _ELEMENT_HEAD_BYTES

    @property
    def is_due(self) -> bool:
        """Whether a batch may leave now; else the next answer says when."""
        if not self._under_way:
            return bool(self._waiting or self._refused)
        if self._is_wary or len(self._took_s) < PROOFS or min(self._took_s) < LONG_LINE_S:
            return False
        return len(self._waiting) >= self._most_messages or self._waiting_bytes >= self._most_bytes

    def take(self, now_s: float, peer_most_bytes: int = 0) -> Batch:
        """Return what leaves next; it has to be due. `sent` follows.

        Args:
            peer_most_bytes: That the cloud takes at once; 0: it has no limit.
        """
        self._put_back_refused()
        most_bytes = min(self._most_bytes, peer_most_bytes or self._most_bytes)
        most_messages = self._parts.popleft() if self._parts else self._most_messages
        taken: list[Waiting] = []
        size_bytes = 0
        while self._waiting and len(taken) < most_messages:
            next_bytes = len(self._waiting[0].encoded) + _ELEMENT_HEAD_BYTES
            if taken and size_bytes + next_bytes > most_bytes:
                break
            taken.append(self._waiting.popleft())
            size_bytes += next_bytes
        self._waiting_bytes -= size_bytes
        return Batch(tuple(taken), size_bytes, now_s)

    def sent(self, delivery: object, batch: Batch) -> None:
        """Note what a delivery carries."""
        self._under_way[delivery] = batch

    def answered(self, delivery: object, fault: CloudFault | None, now_s: float) -> None:
        """Note what became of a delivery; the cloud answers in whatever order it likes."""
        batch = self._under_way.get(delivery)
        if batch is not None:
            self._answers[delivery] = fault
            self._took_s.append(now_s - batch.sent_s)

    def next_answer(self) -> tuple[Batch, CloudFault | None] | None:
        """Return what became of the batch whose turn it is, once; None while that is not known."""
        delivery = next(iter(self._under_way), None)
        if delivery not in self._answers:
            return None
        return self._under_way.pop(delivery), self._answers.pop(delivery)

    def again_in_parts(self, batch: Batch) -> None:
        """Let the messages of a batch that was refused leave again, in halves: one of them is to blame.

        Before all others, those included that left behind it and are refused as well.
        """
        self._is_wary = True
        self._refused.append(batch)

    def _put_back_refused(self) -> None:
        refused, self._refused = self._refused, []
        for batch in reversed(refused):
            count = len(batch.messages)
            self._waiting.extendleft(reversed(batch.messages))
            self._waiting_bytes += batch.size_bytes
            self._parts.extendleft((count - count // 2, count // 2))

    def oldest(self) -> Batch | None:
        """Return what waits longest for its answer."""
        return next(iter(self._under_way.values()), None)

    def take_all(self) -> list[int]:
        """Return the numbers of all without an answer, in the order of sending, and forget them."""
        batches = [*self._refused, *self._under_way.values()]
        numbers = [number for batch in batches for number in batch.numbers]
        numbers += [waiting.number for waiting in self._waiting]
        self._under_way.clear()
        self._answers.clear()
        self._refused.clear()
        self._parts.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._took_s.clear()
        self._is_wary = False
        return numbers
