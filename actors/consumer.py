"""What the store knows of one consumer: what it was sent, how much more it takes, what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from actors.stored import Run

READY_BYTES: Final = 4 * 1024 * 1024  # new messages kept in memory for a consumer that is nearly up to date


@dataclass(slots=True)
class _Sent:
    """A run that is on its way: which of its positions are not yet delivered, counted only."""

    last: int
    left: int
    size_bytes: int


class Consumer:
    """The position of one consumer in one queue. No I/O: whoever owns it reads the database for it.

    Works on runs (messages with consecutive positions), so that nothing is done per message. *Behind* means
    that the queue holds messages behind `cursor` that are not in memory and have to be read; a consumer that
    is not behind gets new messages without a read. *Rewound* is a cursor in front of what was sent already.
    """

    def __init__(
        self, endpoint_id: str, address: str, attachment: int, window_messages: int, window_bytes: int
    ) -> None:
        self.endpoint_id = endpoint_id
        self.address = address
        self.attachment = attachment
        self.behind = True
        self.cursor = -1  # every message up to here was sent or is in `_ready`
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._sent: dict[int, _Sent] = {}  # by first position, in the order of sending
        self._sent_messages = 0
        self._sent_bytes = 0
        self._sent_to = -1  # the highest position ever sent
        self._arrived: list[int] = []  # keys of `_sent`: delivered, and behind a rewound cursor
        self._ready: deque[tuple[Run, int]] = deque()  # with what each weighs, which is counted once
        self._ready_bytes = 0

    @property
    def room(self) -> int:
        """How many more messages may be sent now; 0 while the window of bytes is used up.

        The last run may exceed the window of bytes, which saves weighing each message.
        """
        return 0 if self._sent_bytes >= self._window_bytes else self._window_messages - self._sent_messages

    @property
    def to_read(self) -> int:
        """How many messages to read from the database now; 0 when that is not needed."""
        return 0 if not self.behind or self._ready else max(0, self.room)

    def offer(self, run: Run) -> None:
        """Take note of messages that were just stored."""
        if run.first_position <= self.cursor:  # a higher priority than what went before: read from there
            not_sent = self._ready[0][0].first_position if self._ready else run.first_position
            self.cursor = min(not_sent, run.first_position) - 1
            self.behind = True
            self._ready.clear()
            self._ready_bytes = 0
        elif not self.behind:
            if self._ready_bytes >= READY_BYTES:
                self.behind = True
            else:
                self._keep(run)

    def read(self, runs: Iterable[Run]) -> None:
        """Take what was read behind `cursor`; nothing at all means that the end is reached."""
        self.behind = False
        for run in runs:
            self.behind = True
            if run.first_position > self._sent_to:
                self._keep(run)
                continue
            for part in self._not_sent(run):
                self._keep(part)
            self.cursor = run.last_position
        if self._arrived:
            self._forget_arrived()

    def forget_ready(self) -> None:
        """Read anew what was not sent yet: it may not be there any more."""
        if self._ready:
            self.cursor = self._ready[0][0].first_position - 1
        self._ready.clear()
        self._ready_bytes = 0
        self.behind = True

    def _keep(self, run: Run) -> None:
        size_bytes = run.size_bytes
        self._ready.append((run, size_bytes))
        self._ready_bytes += size_bytes
        self.cursor = run.last_position

    def _not_sent(self, run: Run) -> list[Run]:
        """Leave out what was sent already: after a rewind such messages are read again."""
        parts = [run]
        for first, sent in self._sent.items():
            if first > run.last_position or sent.last < run.first_position:
                continue
            parts = [
                piece
                for part in parts
                for piece in (
                    part.cut(part.first_position, first - 1),
                    part.cut(sent.last + 1, part.last_position),
                )
                if piece is not None
            ]
        return parts

    def _forget_arrived(self) -> None:
        """Drop the memory of delivered runs that the cursor has passed, or that are read no more."""
        kept = []
        for first in self._arrived:
            if self.behind and self._sent[first].last > self.cursor:
                kept.append(first)
            else:
                del self._sent[first]
        self._arrived = kept

    def take(self) -> list[Run]:
        """Return what is to be sent now, and count it as sent."""
        taken: list[Run] = []
        ready = self._ready
        while ready and (room := self.room) > 0:
            run, size_bytes = ready.popleft()
            self._ready_bytes -= size_bytes
            if len(run.entries) > room:
                middle = run.first_position + room
                rest = run.cut(middle, run.last_position)
                head = run.cut(run.first_position, middle - 1)
                assert rest is not None
                assert head is not None
                ready.appendleft((rest, rest.size_bytes))
                self._ready_bytes += ready[0][1]
                run, size_bytes = head, head.size_bytes
            count, last = len(run.entries), run.last_position
            self._sent[run.first_position] = _Sent(last, count, size_bytes)
            self._sent_messages += count
            self._sent_bytes += size_bytes
            self._sent_to = max(self._sent_to, last)
            taken.append(run)
        return taken

    def delivered(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make room: these positions have arrived, each said once."""
        for first, last in ranges:
            missing = last - first + 1
            done: list[int] = []
            for start, sent in self._sent.items():  # mostly one of the first: in the order of sending
                overlap = min(last, sent.last) - max(first, start) + 1
                if overlap <= 0 or not sent.left:
                    continue
                sent.left -= overlap
                self._sent_messages -= overlap
                missing -= overlap
                if not sent.left:
                    done.append(start)
                if not missing:
                    break
            for start in done:
                sent = self._sent[start]
                self._sent_bytes -= sent.size_bytes
                if self.behind and sent.last > self.cursor:
                    self._arrived.append(start)  # it may be read again before it is forgotten on disk
                else:
                    del self._sent[start]
