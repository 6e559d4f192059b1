"""Publishers and consumers that live through every failure of the hub, and keep books of their own."""

from __future__ import annotations

import random
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from scripts.bench.mqtt_link import BrokerRefused, Link, Target, open_session
from scripts.bench.mqtt_wire import PACKET_IDS, PUBACK, BadPacket, PublishBuffer, PublishReader
from scripts.campaign.scenario import Presence

RETRY_S: Final = 0.02
TURN_S: Final = 0.01
WINDOW: Final = 200  # messages without an acknowledgement
BATCH: Final = 50  # messages in one write
TURNS: Final = 10  # messages of one output before those of the next
PAYLOAD_BYTES: Final = 256

Key = tuple[int, int]
"""A message: the number of its publisher, its sequence number."""


def output_of(sequence: int, outputs: int) -> int:
    """Return on which of its outputs a publisher sends a message: all of them in turn."""
    return (sequence - 1) // TURNS % outputs


class _Client(ABC):
    """One connection after the other, on a thread of its own."""

    def __init__(self, target: Target, account: Callable[[], dict[str, Any]]) -> None:
        self.connections = 0
        self.is_connected = False
        self.refused = 0  # nobody listened
        self.problems: list[str] = []
        self._target = target
        self._account = account
        self._context = target.tls()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            if not self._is_wanted():
                self._end.wait(TURN_S)
                continue
            try:
                link, early = open_session(self._target, self._context, self._account())
            except ConnectionRefusedError:
                self.refused += 1
                self._end.wait(RETRY_S)
                continue
            except (OSError, BrokerRefused):  # killed meanwhile, or the hub asks to try again
                self._end.wait(RETRY_S)
                continue
            self.connections += 1
            try:
                self.is_connected = True
                self._connected(link, early)
                while not self._end.is_set() and self._is_wanted():
                    if select.select([link.socket], [link.socket] if link.unsent else [], [], TURN_S)[0]:
                        self._received(link, link.read())
                    if link.unsent:
                        link.flush()
                    self._turn(link)
                link.close()
            except OSError:
                link.socket.close()
            except BadPacket as exc:
                self.problems.append(str(exc))
                link.socket.close()
            finally:
                self.is_connected = False

    def _is_wanted(self) -> bool:
        """Return whether to be connected now."""
        return True

    @abstractmethod
    def _connected(self, link: Link, early: bytes) -> None: ...

    @abstractmethod
    def _received(self, link: Link, data: bytes) -> None: ...

    @abstractmethod
    def _turn(self, link: Link) -> None: ...


class Publisher(_Client):
    """Sends 1, 2, 3 … at a steady rate; after a reconnect again whatever was not acknowledged.

    The hub acknowledges in order, so what it acknowledged is always 1 … `acknowledged`.
    """

    def __init__(
        self,
        target: Target,
        account: Callable[[], dict[str, Any]],
        topics: Sequence[str],
        number: int,
        rate_per_s: float,
    ) -> None:
        super().__init__(target, account)
        self.number = number
        self.acknowledged = 0
        self.sent = 0  # highest sequence number ever sent
        self.again: list[tuple[int, int]] = []  # first and last of what was sent again, at each reconnect
        self.links: list[tuple[int, int]] = []  # own port, and the first sequence number sent from it
        self.outages_s: list[float] = []  # from the loss of a connection to the next acknowledgement
        self._rate_per_s = rate_per_s
        self._buffers = [PublishBuffer(topic, PAYLOAD_BYTES, number, TURNS) for topic in topics]
        self._next = 1
        self._rest = b""
        self._last_ack_s = 0.0
        self._began_s = 0.0
        self._finishing = threading.Event()

    @property
    def outputs(self) -> int:
        return len(self._buffers)

    @property
    def sent_again(self) -> int:
        return sum(last - first + 1 for first, last in self.again)

    def times_sent_again(self, sequence: int) -> int:
        return sum(first <= sequence <= last for first, last in self.again)

    def finish(self) -> None:
        """Send nothing new any more."""
        self._finishing.set()

    def has_finished(self) -> bool:
        return self._finishing.is_set() and self.acknowledged == self.sent

    def _connected(self, link: Link, early: bytes) -> None:
        self._next = self.acknowledged + 1
        self.links.append((link.socket.getsockname()[1], self._next))
        if self.sent >= self._next:
            self.again.append((self._next, self.sent))
        self._rest = early
        self._began_s = self._began_s or time.monotonic()
        self._is_first_ack = True

    def _received(self, link: Link, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) // 4 * 4
        self._rest = data[whole:]
        for at in range(0, whole, 4):
            expected = _packet_id(self.acknowledged + 1)
            if data[at] != PUBACK or int.from_bytes(data[at + 2 : at + 4], "big") != expected:
                raise BadPacket(f"publisher {self.number}: not the PUBACK of {self.acknowledged + 1}")
            self.acknowledged += 1
        now_s = time.monotonic()
        if whole and self._is_first_ack:
            self._is_first_ack = False
            if self.connections > 1:
                self.outages_s.append(now_s - self._last_ack_s)
        if whole:
            self._last_ack_s = now_s

    def _turn(self, link: Link) -> None:
        due = self.sent if self._finishing.is_set() else self._due()
        packets = 0
        while self._next <= due and not link.unsent and packets < BATCH:
            first = self._next
            count = min(
                TURNS - (first - 1) % TURNS, due - first + 1, WINDOW - (first - self.acknowledged - 1)
            )
            count = min(count, PACKET_IDS - _packet_id(first) + 1)  # a batch does not wrap round
            if count <= 0:
                return
            ids = range(_packet_id(first), _packet_id(first) + count)
            buffer = self._buffers[output_of(first, self.outputs)]
            link.write(buffer.fill(ids, first, time.monotonic_ns()))
            packets += count
            self._next += count
            self.sent = max(self.sent, self._next - 1)

    def _due(self) -> int:
        """Return up to which number to send: by the clock, but without a burst after an outage."""
        by_clock = int((time.monotonic() - self._began_s) * self._rate_per_s)
        if by_clock > self.sent + WINDOW:
            self._began_s += (by_clock - self.sent - WINDOW) / self._rate_per_s
            by_clock = self.sent + WINDOW
        return max(by_clock, self.sent)


class Consumer(_Client):
    """Notes every message: how often it came, and whether first occurrences came in order.

    What comes again is *redelivered* when it is one of the last `window` messages of its output that came on
    earlier connections: the hub may not know that they arrived. Of its output, for what has a higher priority
    may come in front of it. Everything else is *repeated*, and needs a publisher that sent it again.
    """

    def __init__(
        self,
        target: Target,
        account: Callable[[], dict[str, Any]],
        *,
        outputs: int = 1,
        window: int = 3000,
        presence: Presence | None = None,
        chance: random.Random | None = None,
    ) -> None:
        super().__init__(target, account)
        self.seen: dict[int, set[int]] = {}
        self.redelivered = 0
        self.repeated: Counter[Key] = Counter()
        self.acknowledgements: list[
            tuple[float, tuple[Key, ...]]
        ] = []  # when, by the wall clock, and of what
        self.misordered: list[str] = []
        self._outputs = outputs
        self._window = window
        # Of each output: the last that came, and how many copies of each there are.
        self._recent: tuple[dict[Key, int], ...] = tuple({} for _ in range(outputs))
        self._may_come_again: dict[Key, int] = {}
        self._highest: dict[tuple[int, int], int] = {}
        self._reader = PublishReader()
        self._presence = presence
        self._chance = chance or random.Random()
        self._is_there = True
        self._turns_at_s = 0.0

    @property
    def duplicates(self) -> int:
        return self.redelivered + self.repeated.total()

    @property
    def received(self) -> int:
        """How many different messages."""
        return sum(map(len, self.seen.values()))

    def leave(self) -> None:
        """Be away from now on."""
        self._is_there, self._presence = False, None

    def stay(self) -> None:
        """Be connected from now on."""
        self._is_there, self._presence = True, None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[1] in self.seen.get(key[0], ())

    def _is_wanted(self) -> bool:
        presence = self._presence
        if presence is not None and time.monotonic() >= self._turns_at_s:
            self._is_there = not self._is_there
            spread = presence.there if self._is_there else presence.away
            self._turns_at_s = time.monotonic() + spread.draw(self._chance)
        return self._is_there

    def _connected(self, link: Link, early: bytes) -> None:
        self._reader = PublishReader()
        self._may_come_again = {key: copies for recent in self._recent for key, copies in recent.items()}
        if early:
            self._received(link, early)

    def _received(self, link: Link, data: bytes) -> None:
        rows, acks = self._reader.receive(data) if data else ([], b"")
        for _, sequence, publisher, _ in rows:
            self._note(publisher, sequence)
        if acks:
            # Before it is sent: nobody can have known it earlier.
            self.acknowledgements.append((time.time(), tuple((row[2], row[1]) for row in rows)))
            link.write(acks)

    def _note(self, publisher: int, sequence: int) -> None:
        key = publisher, sequence
        seen = self.seen.setdefault(publisher, set())
        output = output_of(sequence, self._outputs)
        recent = self._recent[output]
        copies = recent.pop(key, 0)
        if sequence not in seen:
            seen.add(sequence)
            copies += 1
            lane = publisher, output
            before = self._highest.get(lane, 0)
            if sequence < before:
                self.misordered.append(f"publisher {publisher}: {before} came before {sequence}")
            self._highest[lane] = max(before, sequence)
        elif self._may_come_again.get(key, 0):
            self._may_come_again[key] -= 1
            self.redelivered += 1
        else:
            self.repeated[key] += 1
            copies += 1
        recent[key] = copies or 1
        if len(recent) > self._window:
            del recent[next(iter(recent))]

    def _turn(self, link: Link) -> None:
        """Only listens."""


def _packet_id(sequence: int) -> int:
    return (sequence - 1) % PACKET_IDS + 1
