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
from dataclasses import dataclass
from typing import Any

from scripts.bench import mqtt_wire, processes
from scripts.bench.load_clients import NS, Publisher, Subscriber, clock_ns
from scripts.bench.mqtt_link import BrokerRefused, Link, Target, open_session

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
