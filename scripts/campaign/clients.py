"""Publishers and a consumer that live through every failure of the hub, and keep books of their own."""

from __future__ import annotations

import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from scripts.bench.mqtt_link import BrokerRefused, Link, Target, open_session
from scripts.bench.mqtt_wire import PACKET_IDS, PUBACK, BadPacket, PublishBuffer, PublishReader

RETRY_S: Final = 0.02
TURN_S: Final = 0.01
WINDOW: Final = 200  # messages without an acknowledgement
BATCH: Final = 50  # messages in one write
PAYLOAD_BYTES: Final = 256


class _Client(ABC):
    """One connection after the other, on a thread of its own."""

    def __init__(self, target: Target, account: Callable[[], dict[str, Any]]) -> None:
        self.connections = 0
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
                self._connected(link, early)
                while not self._end.is_set():
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
        topic: str,
        number: int,
        rate_per_s: float,
    ) -> None:
        super().__init__(target, account)
        self.number = number
        self.acknowledged = 0
        self.sent = 0  # highest sequence number ever sent
        self.sent_again = 0
        self.outages_s: list[float] = []  # from the loss of a connection to the next acknowledgement
        self._rate_per_s = rate_per_s
        self._buffer = PublishBuffer(topic, PAYLOAD_BYTES, number, BATCH)
        self._next = 1
        self._rest = b""
        self._last_ack_s = 0.0
        self._began_s = 0.0
        self._finishing = threading.Event()

    def finish(self) -> None:
        """Send nothing new any more."""
        self._finishing.set()

    def has_finished(self) -> bool:
        return self._finishing.is_set() and self.acknowledged == self.sent

    def _connected(self, link: Link, early: bytes) -> None:
        self.sent_again += self.sent - self.acknowledged
        self._next = self.acknowledged + 1
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
        while self._next <= due and not link.unsent:
            first = self._next
            count = min(BATCH, due - first + 1, WINDOW - (first - self.acknowledged - 1))
            count = min(count, PACKET_IDS - _packet_id(first) + 1)  # a batch does not wrap round
            if count <= 0:
                return
            ids = range(_packet_id(first), _packet_id(first) + count)
            link.write(self._buffer.fill(ids, first, time.monotonic_ns()))
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
    """Notes every message: how often it came, and whether first occurrences came in order."""

    def __init__(self, target: Target, account: Callable[[], dict[str, Any]]) -> None:
        super().__init__(target, account)
        self.seen: dict[int, set[int]] = {}
        self.duplicates = 0
        self._highest: dict[int, int] = {}
        self._reader = PublishReader()

    def missing(self, publisher: int, acknowledged: int) -> list[int]:
        """Return which of the publisher's acknowledged messages never came."""
        seen = self.seen.get(publisher, set())
        return [sequence for sequence in range(1, acknowledged + 1) if sequence not in seen]

    def has(self, publisher: int, sequence: int) -> bool:
        return sequence == 0 or sequence in self.seen.get(publisher, ())

    def _connected(self, link: Link, early: bytes) -> None:
        self._reader = PublishReader()
        if early:
            self._received(link, early)

    def _received(self, link: Link, data: bytes) -> None:
        rows, acks = self._reader.receive(data) if data else ([], b"")
        for _, sequence, publisher, _ in rows:
            seen = self.seen.setdefault(publisher, set())
            if sequence in seen:
                self.duplicates += 1
                continue
            seen.add(sequence)
            before = self._highest.get(publisher, 0)
            if sequence < before:
                self.problems.append(f"publisher {publisher}: {before} came before {sequence}")
            self._highest[publisher] = max(before, sequence)
        if acks:
            link.write(acks)

    def _turn(self, link: Link) -> None:
        """Only listens."""


def _packet_id(sequence: int) -> int:
    return (sequence - 1) % PACKET_IDS + 1
