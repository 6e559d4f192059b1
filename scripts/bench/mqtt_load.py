"""Loads an MQTT broker with QoS 1 messages, checks every one of them, and prints what it saw as JSON.

    python -m scripts.bench.mqtt_load < config.json

One process, one thread, plain epoll: P publishers with a window of unacknowledged messages each, S
subscribers that acknowledge everything one read brought with one write. Every subscriber has to get every
message of every publisher: each payload starts with sequence, publisher id and send time, from which loss,
duplicates, order per publisher and latency are told. The steady window starts after the warm-up; what was
sent is drained before the verdict.

Configuration, on standard input because it holds passwords:

    target        {"host", "port", "ca_file": null for plain TCP, "server_name": "localhost"}
    publishers    [{"client_id", "topic", "username", "password", "clean_session"}]; the last three optional
    subscribers   [{"client_id", "filters", "username", "password", "clean_session"}]
    mode          "burst": what the window has room for goes in one write; "one": each message goes in a
                  write (over TLS: a record) of its own, the window is kept as full; "alone": the next message
                  goes when the last was acknowledged
    window        messages in flight per publisher in a burst                    default 100
    pause_us      a burst's rest between two rounds over its sockets             default 100
    payload_bytes at least 24                                                    default 256
    json          bodies are JSON with a property `level`, which is 7            default false
    warmup_s, seconds                                                            default 0.5 and 3
    messages      stop after so many per publisher instead; no warm-up then      default 0: no such limit
    take          without publishers: stop when each subscriber has got so many messages of earlier runs
    pids          processes whose CPU time is noted at each tenth of `take`
    per_s         messages a second of each publisher, as far as its window has room; for bursts
                                                                                 default 0: as fast as it goes
    drain_s       longest wait without progress at the end                       default 5

A pace is an open loop: messages are due by the clock, whatever the answers, and all latencies count from when
a message was due. One that had to wait for the window, or for this program, counts that, too; `late_ms` tells
how long they had waited when they were sent. Without a pause each is sent when it is due.

Without the pause the generator would wake for every single acknowledgement and spend a core on system calls
that the broker then lacks. While it rests the broker has a window of work left, so only the latency figures
grow, by no more than the pause; mosquitto passes a quarter more messages for it. The other modes do not
pause.

Exit status: 0 measured (look at `lost` and its neighbours), 2 the broker could not be used.
"""

import gc
import json
import secrets
import select
import sys
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from scripts.bench import mqtt_wire, processes
from scripts.bench.mqtt_link import BrokerRefused, Link, Target, open_session

clock_ns = time.perf_counter_ns
NS = 1_000_000_000
MODES = ("burst", "one", "alone")


@dataclass(frozen=True, slots=True)
class Load:
    """What to do; the fields are described at the top of this file."""

    target: Target
    publishers: list[dict[str, Any]]
    subscribers: list[dict[str, Any]]
    mode: str = "burst"
    window: int = 100
    pause_us: int = 100
    payload_bytes: int = 256
    json: bool = False
    warmup_s: float = 0.5
    seconds: float = 3.0
    messages: int = 0
    take: int = 0
    pids: tuple[int, ...] = ()
    per_s: float = 0.0
    drain_s: float = 5.0

    @classmethod
    def from_json(cls, text: str) -> "Load":
        fields = json.loads(text)
        fields["target"] = Target(**fields["target"])
        load = cls(**fields)
        if load.mode not in MODES:
            raise ValueError(f"mode is {load.mode!r}; it is one of {', '.join(MODES)}")
        if load.take and load.publishers:
            raise ValueError(f"take is {load.take}, with publishers; it is for what earlier runs left")
        return load

    def in_flight(self) -> int:
        return 1 if self.mode == "alone" else self.window


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    at_ns: int
    received: int
    acknowledged: int
    cpu_s: float


class Run:
    """One load from the first CONNECT to the report."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.context = load.target.tls()
        self.pause_s = load.pause_us / 1e6 if load.mode == "burst" else 0
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.poll = select.epoll()
        self.by_fd: dict[int, Publisher | Subscriber] = {}
        self.writing: set[int] = set()

    def connect(self) -> None:
        """Open all sessions, subscribers first."""
        load = self.load
        run_id = secrets.randbits(48) << 16
        ids = [run_id + n for n in range(len(load.publishers))]
        for client in load.subscribers:
            link, early = open_session(load.target, self.context, client)
            subscriber = Subscriber(link, dict.fromkeys(ids, 0), takes_earlier=bool(load.take))
            self._watch(link, subscriber)
            self.subscribers.append(subscriber)
            subscriber.receive(early)
        acks = mqtt_wire.pubacks(1, mqtt_wire.PACKET_IDS) + mqtt_wire.pubacks(1, load.in_flight())
        for publisher_id, client in zip(ids, load.publishers, strict=True):
            link, _ = open_session(load.target, self.context, client)
            kind = mqtt_wire.JsonPublishBuffer if load.json else mqtt_wire.PublishBuffer
            buffer = kind(client["topic"], load.payload_bytes, publisher_id, load.in_flight())
            most = load.in_flight() if load.mode == "burst" else 1
            publisher = Publisher(link, buffer, acks, load.in_flight(), load.messages, most, load.per_s)
            self._watch(link, publisher)
            self.publishers.append(publisher)

    def _watch(self, link: Link, client: Publisher | Subscriber) -> None:
        self.by_fd[link.socket.fileno()] = client
        self.poll.register(link.socket.fileno(), select.EPOLLIN)

    def _turn(self, timeout_s: float, *, publish: bool) -> None:
        """Serve every socket that has something, once."""
        if self.pause_s:
            time.sleep(self.pause_s)
        if publish and self.load.per_s:
            for publisher in self.publishers:
                publisher.publish()
            self._wait_until_due(timeout_s)
            timeout_s = 0.0
        for fd, events in self.poll.poll(timeout_s):
            client = self.by_fd[fd]
            if events & select.EPOLLOUT:
                client.link.flush()
            if events & ~select.EPOLLOUT:
                if isinstance(client, Subscriber):
                    client.receive(client.link.read())
                else:
                    client.receive()
                    if publish:
                        client.publish()
            if bool(client.link.unsent) != (fd in self.writing):
                self.writing ^= {fd}
                self.poll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if client.link.unsent else 0))

    def _wait_until_due(self, longest_s: float) -> None:
        """Wait until a message is due or a socket has something; with a pause, that is the clock."""
        if self.pause_s:
            return
        due_ns = [p.due_ns() for p in self.publishers if not p.waits_for_its_window()]
        left_s = (min(due_ns) - clock_ns()) / NS if due_ns else longest_s
        if left_s > 0:  # not by epoll, which takes whole milliseconds
            select.select([self.poll], [], [], min(left_s, longest_s))

    def _snapshot(self) -> Snapshot:
        received = sum(subscriber.received for subscriber in self.subscribers)
        acknowledged = sum(publisher.acknowledged for publisher in self.publishers)
        return Snapshot(clock_ns(), received, acknowledged, time.process_time())

    def _turn_until(self, end_ns: int) -> Snapshot:
        while (left_ns := end_ns - clock_ns()) > 0:
            self._turn(left_ns / NS, publish=True)
        return self._snapshot()

    def _record(self, recording: bool) -> None:
        for client in (*self.publishers, *self.subscribers):
            client.recording = recording

    def _finish(self, wanted: int, *, publish: bool) -> Snapshot:
        """Wait until `wanted` messages are acknowledged and received, or nothing has moved for `drain_s`."""
        seen = self._snapshot()
        moved_ns = seen.at_ns
        while seen.at_ns - moved_ns < self.load.drain_s * NS:
            if seen.acknowledged >= wanted and seen.received >= wanted * len(self.subscribers):
                break
            self._turn(0.1, publish=publish)
            before, seen = seen, self._snapshot()
            if (seen.received, seen.acknowledged) != (before.received, before.acknowledged):
                moved_ns = seen.at_ns
        return seen

    def measure(self) -> dict[str, Any]:
        """Run the load and return the report."""
        load = self.load
        before = self._mark()
        self.connect()
        gc.disable()  # nothing here makes cycles, and a pause would look like the broker's
        self._record(bool(load.messages))
        opened = self._snapshot()
        if load.take:
            return self._taken(before, opened)
        for number, publisher in enumerate(self.publishers):
            if load.per_s:  # not all of them at the same moment
                publisher.began_ns = clock_ns() + int(number / len(self.publishers) / load.per_s * NS)
            publisher.publish()
        if load.messages:
            closed = drained = self._finish(load.messages * len(self.publishers), publish=True)
        else:
            opened = self._turn_until(clock_ns() + int(load.warmup_s * NS))
            self._record(True)
            closed = self._turn_until(opened.at_ns + int(load.seconds * NS))
            self._record(bool(load.per_s))  # one that is due in the window counts, however late it comes
            drained = self._finish(sum(publisher.sent for publisher in self.publishers), publish=False)
        for client in (*self.publishers, *self.subscribers):
            client.link.close()
        return self._report(opened, closed, drained)

    def _taken(self, before: dict[str, float], opened: Snapshot) -> dict[str, Any]:
        """Take what earlier runs left; return the report, with a mark at each tenth.

        The first mark is from before the connection: a broker may send all there is ahead of its SUBACK.
        """
        wanted = self.load.take * len(self.subscribers)
        marks = [before]
        seen, moved_ns = opened, opened.at_ns
        while seen.received < wanted and seen.at_ns - moved_ns < self.load.drain_s * NS:
            self._turn(0.1, publish=False)
            earlier, seen = seen, self._snapshot()
            moved_ns = seen.at_ns if seen.received != earlier.received else moved_ns
            if wanted > seen.received >= wanted * len(marks) / 10:
                marks.append(self._mark())
        marks.append(self._mark())
        for subscriber in self.subscribers:
            subscriber.link.close()
        report = self._report(opened, seen, seen)
        return report | {"lost": wanted - seen.received, "marks": marks}

    def _mark(self) -> dict[str, float]:
        seen = self._snapshot()
        used_s = sum(map(processes.cpu_s, self.load.pids))
        return {"at_s": seen.at_ns / NS, "received": seen.received, "cpu_s": used_s}

    def _report(self, opened: Snapshot, closed: Snapshot, drained: Snapshot) -> dict[str, Any]:
        window_s = max(1, closed.at_ns - opened.at_ns) / NS
        received = closed.received - opened.received
        acknowledged = closed.acknowledged - opened.acknowledged
        cpu_s = closed.cpu_s - opened.cpu_s
        sent = sum(publisher.sent for publisher in self.publishers)
        subscribers = self.subscribers
        return {
            "mode": self.load.mode,
            "in_flight": self.load.in_flight(),
            "publishers": len(self.publishers),
            "subscribers": len(subscribers),
            "payload_bytes": self.load.payload_bytes,
            "tls": (self.publishers[0].link.cipher() if self.publishers else None),
            "window_s": window_s,
            "received_per_s": received / window_s,
            "acknowledged_per_s": acknowledged / window_s,
            "ack_ms": summary([latency for p in self.publishers for latency in p.latencies_ns]),
            "end_to_end_ms": summary([latency for s in subscribers for latency in s.latencies_ns]),
            "late_ms": summary([late for p in self.publishers for late in p.lates_ns]),
            "sent": sent,
            "acknowledged": drained.acknowledged,
            "received": drained.received,
            "lost": drained.acknowledged * len(subscribers) - drained.received,
            "duplicated": sum(subscriber.duplicated for subscriber in subscribers),
            "out_of_order": sum(subscriber.out_of_order for subscriber in subscribers),
            "foreign": sum(subscriber.foreign for subscriber in subscribers),
            "generator_cpu_s": cpu_s,
            "generator_cpu_share": cpu_s / window_s,
            "generator_cpu_us_per_message": cpu_s * 1e6 / max(acknowledged, 1),
        }


def summary(latencies_ns: list[int]) -> dict[str, float] | None:
    """Return p50, p99 and the largest in ms; None without values."""
    if not latencies_ns:
        return None
    latencies_ns.sort()
    last = len(latencies_ns) - 1
    picks = {"p50": last // 2, "p99": last * 99 // 100, "max": last}
    return {name: latencies_ns[at] / 1e6 for name, at in picks.items()}


def main() -> int:
    try:
        report = Run(Load.from_json(sys.stdin.read())).measure()
    except (OSError, BrokerRefused, mqtt_wire.BadPacket, ValueError, TypeError) as error:
        print(f"mqtt_load: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
