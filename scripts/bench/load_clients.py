"""Publisher and subscriber of the load generator: what is in flight, what is missing, how long it took."""

import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from itertools import repeat

from scripts.bench import mqtt_wire
from scripts.bench.mqtt_link import Link

clock_ns = time.perf_counter_ns
NS = 1_000_000_000


@dataclass(slots=True)
class Publisher:
    """Keeps its window full and matches acknowledgements, which come in the order of sending (4.6)."""

    link: Link
    buffer: mqtt_wire.PublishBuffer
    acks: bytes  # PUBACK of each packet id from 1 on, and of the first window once more
    window: int
    limit: int  # messages, 0 for none
    most_at_once: int  # messages in one write
    per_s: float = 0.0  # 0: as fast as it goes
    began_ns: int = 0  # of the pace
    latencies_ns: array = field(default_factory=lambda: array("q"))
    lates_ns: array = field(default_factory=lambda: array("q"))  # from due to sent, with a pace
    recording: bool = False
    sent: int = 0
    acknowledged: int = 0
    rest: bytes = b""
    # Messages, when the first of them was sent or due, and how much later each next one, in ns.
    batches: deque[tuple[int, int, int]] = field(default_factory=deque)

    def publish(self) -> None:
        free = self.window - (self.sent - self.acknowledged)
        if self.limit:
            free = min(free, self.limit - self.sent)
        if self.per_s:
            free = min(free, int((clock_ns() - self.began_ns) * self.per_s / NS) - self.sent)
        while free > 0:
            free -= self._write(min(free, self.most_at_once))

    def due_ns(self) -> int:
        """Return when the next message is due by the pace."""
        return self.began_ns + int((self.sent + 1) / self.per_s * NS)

    def waits_for_its_window(self) -> bool:
        return self.sent - self.acknowledged >= self.window

    def _write(self, free: int) -> int:
        first = self.sent % mqtt_wire.PACKET_IDS + 1
        free = min(free, mqtt_wire.PACKET_IDS + 1 - first)
        now_ns, step_ns = clock_ns(), 0
        if self.per_s:
            written_ns, now_ns, step_ns = now_ns, self.due_ns(), int(NS / self.per_s)
            if self.recording:
                self.lates_ns.extend([written_ns - now_ns - index * step_ns for index in range(free)])
        self.link.write(self.buffer.fill(range(first, first + free), self.sent, now_ns, step_ns))
        self.sent += free
        self.batches.append((free, now_ns, step_ns))
        return free

    def receive(self) -> None:
        data = self.rest + self.link.read()
        count = len(data) // 4
        self.rest = data[count * 4 :]
        at = self.acknowledged % mqtt_wire.PACKET_IDS * 4
        if count > self.sent - self.acknowledged or data[: count * 4] != self.acks[at : at + count * 4]:
            raise mqtt_wire.BadPacket(f"not the PUBACKs of the messages in flight: {data[:16].hex()}…")
        self.acknowledged += count
        now_ns = clock_ns()
        while count:
            size, sent_ns, step_ns = self.batches[0]
            done = min(size, count)
            if self.recording and step_ns:
                self.latencies_ns.extend([now_ns - sent_ns - index * step_ns for index in range(done)])
            elif self.recording:
                self.latencies_ns.extend(repeat(now_ns - sent_ns, done))
            if done == size:
                self.batches.popleft()
            else:
                self.batches[0] = (size - done, sent_ns + done * step_ns, step_ns)
            count -= done


@dataclass(slots=True)
class Subscriber:
    """Acknowledges and checks what arrives."""

    link: Link
    expected: dict[int, int]  # publisher id → next sequence
    reader: mqtt_wire.PublishReader = field(default_factory=mqtt_wire.PublishReader)
    latencies_ns: array = field(default_factory=lambda: array("q"))
    recording: bool = False
    received: int = 0  # of this run, each message once
    takes_earlier: bool = False  # messages of runs before this one, from wherever they begin
    missing: set[tuple[int, int]] = field(default_factory=set)  # publisher id, sequence: passed over so far
    duplicated: int = 0
    out_of_order: int = 0
    foreign: int = 0  # of an earlier run

    def receive(self, data: bytes) -> None:
        rows, acks = self.reader.receive(data)
        if acks:
            self.link.write(acks)
        now_ns = clock_ns()
        expected, regular = self.expected, len(rows)
        for _packet_id, sequence, publisher, _sent_ns in rows:
            if expected.get(publisher) == sequence:
                expected[publisher] = sequence + 1
            else:
                regular -= 1
                self._irregular(publisher, sequence)
        self.received += regular
        if self.recording:
            self.latencies_ns.extend([now_ns - row[3] for row in rows])

    def _irregular(self, publisher: int, sequence: int) -> None:
        next_sequence = self.expected.get(publisher)
        if next_sequence is None and self.takes_earlier:
            self.expected[publisher] = sequence + 1
            self.received += 1
        elif next_sequence is None:
            self.foreign += 1
        elif sequence > next_sequence:
            self.missing.update((publisher, passed) for passed in range(next_sequence, sequence))
            self.expected[publisher] = sequence + 1
            self.received += 1
        elif (publisher, sequence) in self.missing:
            self.missing.remove((publisher, sequence))
            self.out_of_order += 1
            self.received += 1
        else:
            self.duplicated += 1
