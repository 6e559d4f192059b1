"""What the store knows of one consumer: what it was sent, how much more it takes, what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from actors.stored import StoredMessage

READY_BYTES: Final = 4 * 1024 * 1024  # new messages kept in memory for a consumer that is nearly up to date


class Consumer:
    """The position of one consumer in one queue. No I/O: whoever owns it reads the database for it.

    *Behind* means that the queue holds messages behind `cursor` that are not in memory and have to be read.
    A consumer that is not behind gets new messages without a read.
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
        self._sent: dict[int, int] = {}  # position → bytes
        self._sent_bytes = 0
        self._ready: deque[StoredMessage] = deque()
        self._ready_bytes = 0

    @property
    def room(self) -> int:
        """How many more messages may be sent now; 0 while the window of bytes is used up."""
        return 0 if self._sent_bytes >= self._window_bytes else self._window_messages - len(self._sent)

    @property
    def to_read(self) -> int:
        """How many rows to read from the database now, those included that were sent before a rewind."""
        if not self.behind or self._ready or self.room <= 0:
            return 0
        return self.room + sum(1 for position in self._sent if position > self.cursor)

    def offer(self, messages: Iterable[StoredMessage]) -> None:
        """Take note of messages that were just stored."""
        for message in messages:
            position = message[0]
            if position <= self.cursor:  # a higher priority than what went before: read again from there
                self.cursor = position - 1
                self.behind = True
                self._ready.clear()
                self._ready_bytes = 0
            elif not self.behind:
                if self._ready_bytes >= READY_BYTES:
                    self.behind = True
                else:
                    self._ready.append(message)
                    self._ready_bytes += len(message[1]) + len(message[2])
                    self.cursor = position

    def read(self, rows: list[StoredMessage]) -> None:
        """Take rows that were read behind `cursor`; none of them means that the end is reached."""
        self.behind = bool(rows)
        for message in rows:
            self.cursor = message[0]
            if message[0] not in self._sent:
                self._ready.append(message)
                self._ready_bytes += len(message[1]) + len(message[2])

    def take(self) -> list[StoredMessage]:
        """Return what is to be sent now, and count it as sent."""
        taken: list[StoredMessage] = []
        ready, sent = self._ready, self._sent
        room = self._window_messages - len(sent)
        while ready and room > 0 and self._sent_bytes < self._window_bytes:
            message = ready.popleft()
            size_bytes = len(message[1]) + len(message[2])
            self._ready_bytes -= size_bytes
            self._sent_bytes += size_bytes
            sent[message[0]] = size_bytes
            taken.append(message)
            room -= 1
        return taken

    def delivered(self, positions: Iterable[int]) -> None:
        """Make room: these have arrived."""
        sent = self._sent
        for position in positions:
            self._sent_bytes -= sent.pop(position, 0)
