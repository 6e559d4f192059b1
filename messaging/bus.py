"""The bus: takes messages to mailboxes. Here what all buses share, and the one that lives in memory."""

from __future__ import annotations

import itertools
import random
from collections import deque
from typing import TYPE_CHECKING, Protocol

from messaging.clock import Clock, ManualClock
from messaging.dead_letters import DeadLetter, DeadLetters
from messaging.envelope import VERSION, Envelope, encode
from messaging.errors import AddressInUse
from messaging.kinds import kind_of
from messaging.lifecycle import NOTICES

if TYPE_CHECKING:  # only where faults are allowed
    from messaging.envelope_faults import Verdict


class Observer(Protocol):
    """Watches the envelopes that actors of one process take from their mailboxes. Must not raise or block.

    Called in the thread of the actor. What an actor tells itself by a timer never was on the bus, and is not
    among them.
    """

    def received(self, envelope: Envelope, frame: bytes) -> None:
        """The actor is about to handle this envelope, which came as this frame."""
        ...

    def handled(self, envelope: Envelope, frame: bytes, took_s: float, failed: bool) -> None:
        """The actor is through with it."""
        ...


class Faults(Protocol):
    """Decides what becomes of the frames that actors take, for fault scripts. Any thread may call."""

    def judge(self, frame: bytes, now_s: float) -> Verdict:
        """Decide about one frame; `now_s` is monotonic."""
        ...

    def hang(self, for_s: float) -> None:
        """Return after so many seconds: a handler that hangs."""
        ...


class Bus(Protocol):
    """One per process. `send` may be called from any thread and never blocks or raises for a lost peer."""

    process: str
    epoch: int  # the incarnation of this process
    clock: Clock
    dead_letters: DeadLetters
    observer: Observer | None  # set and taken away at any time, from any thread; None costs a branch
    faults: Faults | None  # likewise; not taken away while frames are held back

    def send(
        self, to: str, message: object, *, sender: str, correlation_id: int, deadline_s: float
    ) -> int: ...

    def next_id(self) -> int: ...

    def watch_peer(self, process: str, address: str) -> None: ...

    def peer_seen(self, process: str, epoch: int) -> None: ...

    def peer_lost(self, process: str) -> None: ...


def first_id(seed: int) -> int:
    """Return where the ids of one process start: 40 random bits above 23 for counting."""
    return (seed & 0xFF_FFFF_FFFF) << 23 | 1


def make_envelope(
    message: object,
    to: str,
    sender: str,
    envelope_id: int,
    epoch: int,
    correlation_id: int,
    now_s: float,
    deadline_s: float,
) -> Envelope:
    """Wrap a message."""
    kind = kind_of(type(message))
    return Envelope(
        VERSION,
        kind.lane,
        envelope_id,
        kind.name,
        to,
        sender,
        epoch,
        correlation_id,
        now_s,
        deadline_s,
        kind.values(message),
    )


class MemoryBus:
    """A bus on one thread, for tests and virtual time: nothing moves until somebody takes frames out.

    Who is served next among the mailboxes that have something is drawn from `seed`; inside one mailbox the
    order per sender stays, control before data, as on the ZeroMQ bus.
    """

    def __init__(self, process: str = "test", clock: Clock | None = None, seed: int = 0) -> None:
        self.process = process
        self.epoch = seed + 1
        self.clock: Clock = clock if clock is not None else ManualClock()
        self.dead_letters = DeadLetters()
        self.observer: Observer | None = None
        self.faults: Faults | None = None
        self._random = random.Random(seed)
        self._ids = itertools.count(first_id(seed))
        self._mailboxes: dict[str, tuple[deque[bytes], deque[bytes]]] = {}

    def next_id(self) -> int:
        """Return a new envelope id."""
        return next(self._ids)

    def open(self, address: str) -> None:
        """Make a mailbox.

        Raises:
            AddressInUse: there is one already.
        """
        if address in self._mailboxes:
            raise AddressInUse(f"address {address!r} is taken")
        self._mailboxes[address] = (deque(), deque())

    def close(self, address: str) -> list[bytes]:
        """Take a mailbox away; returns what was waiting."""
        control, data = self._mailboxes.pop(address)
        return [*control, *data]

    def send(
        self, to: str, message: object, *, sender: str = "", correlation_id: int = 0, deadline_s: float = 0.0
    ) -> int:
        """Put a message into the mailbox of `to`, or among the dead letters."""
        envelope_id = correlation_id or self.next_id()
        envelope = make_envelope(
            message, to, sender, envelope_id, self.epoch, correlation_id, self.clock.now_s(), deadline_s
        )
        frame = encode(envelope)
        mailbox = self._mailboxes.get(to)
        if mailbox is None and envelope.kind not in NOTICES:
            self.dead_letters.add(DeadLetter(envelope, f"no actor at {to!r}", "", self.clock.now_s()))
        elif mailbox is not None:
            mailbox[envelope.lane].append(frame)
        return envelope_id

    def watch_peer(self, process: str, address: str) -> None:
        """There are no other processes in memory."""

    def peer_seen(self, process: str, epoch: int) -> None:
        """There are no other processes in memory."""

    def peer_lost(self, process: str) -> None:
        """There are no other processes in memory."""

    def draw(self) -> tuple[str, bytes] | None:
        """Take one frame out of a mailbox drawn by the seed; None when all is quiet."""
        waiting = [address for address, lanes in self._mailboxes.items() if lanes[0] or lanes[1]]
        if not waiting:
            return None
        address = self._random.choice(waiting)
        control, data = self._mailboxes[address]
        return address, (control or data).popleft()
