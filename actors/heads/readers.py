"""Whose socket is read next, when many clients publish more than one commit should hold. Knows no protocol.

A look at the sockets brings what all clients have sent: of a hundred with a hundred messages each, ten
thousand messages, which nothing else comes between. Whoever takes them acknowledges once in that time, and so
gets one window of messages for it: what comes in outruns what goes out, and all of it is read from the disk
again. So once a commit has enough to do, clients that publish are read by turns.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from actors.kernel.base import EdgeActor
from messaging.kinds import message

ENOUGH_MESSAGES: Final = 250  # for one commit
ENOUGH_BYTES: Final = 256 * 1024
IDLE_S: Final = 0.001  # those whose turn it is have sent nothing: the next ones
LONGEST_S: Final = 1.0  # that a turn waits for a commit, which may have failed without a word

TURN: Final = "turn"  # why a socket is not read: others are before it


@message
class ReadOn:
    """Timer: those whose turn it is may have nothing to say."""


class Reader(Protocol):
    """Whose connection is read."""

    def hold(self, reason: str) -> None:
        """Do not read it."""
        ...

    def release(self, reason: str, now_s: float) -> None:
        """Read it again."""
        ...


class Readers:
    """Who publishes, in the order of their turns. A part of a head, which calls it for each batch."""

    def __init__(self, head: EdgeActor) -> None:
        self._head = head
        self._waiting: deque[tuple[Reader, int, int]] = deque()  # with what its last read brought
        self._messages = self._bytes = 0  # since the last commit
        self._released_s = 0.0  # the last ones, monotonic
        self._timer = False

    def has_read(self, reader: Reader, messages: int, size_bytes: int) -> None:
        """A client has published; it is read again when its turn comes."""
        self._messages += messages
        self._bytes += size_bytes
        if self._waiting or self._messages > ENOUGH_MESSAGES or self._bytes > ENOUGH_BYTES:
            if not self._waiting:
                self._released_s = self._head.clock.monotonic_s()
                self._wait()
            self._waiting.append((reader, messages, size_bytes))
            reader.hold(TURN)

    def committed(self) -> None:
        """What was read is on disk, or will not be: let the next ones be read."""
        if self._waiting:
            self._release()
        else:
            self._messages = self._bytes = 0

    def read_on(self) -> None:
        """The timer fired."""
        self._timer = False
        if not self._waiting:
            return
        if self._messages and self._head.clock.monotonic_s() < self._released_s + LONGEST_S:
            self._wait()  # for the commit, which goes on with the others
        else:
            self._release()

    def forget(self, reader: Reader) -> None:
        """It is gone."""
        if self._waiting:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not reader)

    def _release(self) -> None:
        now_s = self._released_s = self._head.clock.monotonic_s()
        waiting = self._waiting
        self._messages = self._bytes = messages = size_bytes = 0
        while waiting and messages < ENOUGH_MESSAGES and size_bytes < ENOUGH_BYTES:
            reader, its_messages, its_bytes = waiting.popleft()
            messages += its_messages
            size_bytes += its_bytes
            reader.release(TURN, now_s)
        if waiting:
            self._wait()

    def _wait(self) -> None:
        if not self._timer:
            self._timer = True
            self._head.set_timer(IDLE_S, ReadOn())
