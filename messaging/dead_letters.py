"""Dead letters: messages that nobody could take, with the reason. One collection per process."""

from __future__ import annotations

import itertools
import logging
from collections import deque

from msgspec import Struct

from messaging.envelope import Envelope

log = logging.getLogger(__name__)

KEPT = 1000
_SHOWN_CHARS = 400


class DeadLetter(Struct, frozen=True):
    """One message that was not handled."""

    envelope: Envelope | None  # None when the frame was not an envelope
    reason: str
    traceback: str  # "" when no exception was the cause
    at_s: float  # seconds since 1970-01-01 UTC

    def summary(self) -> dict[str, object]:
        """Return plain values for the inspector. Secrets show as `***`; bodies are cut short."""
        envelope = self.envelope
        return {
            "kind": envelope.kind if envelope else "",
            "to": envelope.to if envelope else "",
            "from": envelope.sender if envelope else "",
            "message": _cut(repr(envelope.body)) if envelope else "",
            "reason": self.reason,
            "traceback": self.traceback,
            "at": self.at_s,
        }


class DeadLetters:
    """The last dead letters of this process, and how many there were. Safe to use from any thread."""

    def __init__(self, quiet: bool = False) -> None:
        """Start empty. `quiet`: keep out of the log, for processes that tell their user otherwise."""
        self._quiet = quiet
        self._numbers = itertools.count(1)
        self._letters: deque[tuple[int, DeadLetter]] = deque(maxlen=KEPT)  # each with its number
        self.count = 0

    def add(self, letter: DeadLetter) -> None:
        """Keep `letter` and tell the log unless quiet; the traceback goes to the log at ERROR."""
        self._letters.append((next(self._numbers), letter))
        self.count += 1
        if self._quiet:
            return
        envelope = letter.envelope
        what = f"{envelope.kind} from {envelope.sender or '-'} to {envelope.to}" if envelope else "a frame"
        if letter.traceback:
            log.error("dead letter: %s: %s\n%s", what, letter.reason, letter.traceback)
        else:
            log.warning("dead letter: %s: %s", what, letter.reason)

    def recent(self) -> list[DeadLetter]:
        """Return the kept letters, oldest first."""
        return [letter for _, letter in self.numbered()]

    def numbered(self) -> list[tuple[int, DeadLetter]]:
        """Return the kept letters, oldest first, each with its number: the first of the process has 1."""
        return list(self._letters)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
