"""One publisher, many subscribers of its topic: loads an MQTT broker and checks that each got everything.

    python -m scripts.bench.broadcast_load < config.json

The publisher keeps at most `window` messages between itself and the slowest subscriber, so nothing is dropped
anywhere and the same work lies before every broker. Each message has its number; each subscriber has to get
all of them, once, in order. One process, one thread, plain epoll, as `mqtt_load.py`.

Configuration, on standard input because it holds passwords:

    target        {"host", "port", "ca_file", "server_name"} as for mqtt_load
    publisher     {"client_id", "topic", "username", "password"}
    subscribers   [{"client_id", "username", "password"}]
    qos           0 or 1, of the publishes and of the subscriptions
    pids          processes of the broker, whose CPU time is taken over the steady window
    payload_bytes, window, warmup_s, seconds, pause_us

Exit status: 0 measured, 2 the broker could not be used, or did not deliver everything in order.
"""

import gc
import json
import select
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

from scripts.bench import mqtt_wire
from scripts.bench.mqtt_link import BrokerRefused, Link, Target, open_session
from scripts.bench.processes import cpu_s

DRAIN_S = 10.0
NUMBER = struct.Struct(">Q")  # the first bytes of each payload


@dataclass(frozen=True, slots=True)
class Load:
    """What to do; the fields are described at the top of this file."""

    target: Target
    publisher: dict[str, Any]
    subscribers: list[dict[str, Any]]
    qos: int
    pids: list[int]
    payload_bytes: int = 256
    window: int = 200
    warmup_s: float = 0.5
    seconds: float = 3.0
    pause_us: int = 100


class Subscriber:
    """Takes the messages of one connection; all of them have the same size."""

    def __init__(self, link: Link, packet_bytes: int, payload_at: int, qos: int) -> None:
        self.link = link
        self.received = 0
        self._size = packet_bytes
        self._id_at = payload_at - 2
        self._qos = qos
        self._row = struct.Struct(f">{payload_at}xQ{packet_bytes - payload_at - NUMBER.size}x")
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Check what came, and acknowledge it.

        Raises:
            mqtt_wire.BadPacket: it is not the messages that follow.
        """
        data = self._rest + data if self._rest else data
        size = self._size
        count = len(data) // size
        end = count * size
        self._rest = data[end:]
        if not count:
            return
        numbers = [number for (number,) in self._row.iter_unpack(memoryview(data)[:end])]
        if numbers != list(range(self.received, self.received + count)):
            raise mqtt_wire.BadPacket(
                f"after {self.received} messages came {numbers[:3]}…: lost or reordered"
            )
        self.received += count
        if self._qos:
            acks = bytearray(b"\x40\x02\x00\x00" * count)
            acks[2::4] = data[self._id_at : end : size]
            acks[3::4] = data[self._id_at + 1 : end : size]
            self.link.write(bytes(acks))


class Publisher:
    """Writes numbered messages."""

    def __init__(self, link: Link, topic: str, load: Load) -> None:
        self.link = link
        self.sent = 0
        self._qos = load.qos
        head = mqtt_wire.string(topic) + (b"\x00\x01" if load.qos else b"")
        self._one = bytearray(mqtt_wire.packet(0x30 | load.qos << 1, head + bytes(load.payload_bytes)))
        self._payload_at = len(self._one) - load.payload_bytes

    @property
    def packet_bytes(self) -> int:
        return len(self._one)

    @property
    def payload_at(self) -> int:
        return self._payload_at

    def send(self, count: int) -> None:
        """Send the next messages, in one write."""
        size, at = len(self._one), self._payload_at
        buffer = self._one * count
        for index in range(count):
            number = self.sent + index
            NUMBER.pack_into(buffer, index * size + at, number)
            if self._qos:
                packet_id = number % mqtt_wire.PACKET_IDS + 1
                struct.pack_into(">H", buffer, index * size + at - 2, packet_id)
        self.sent += count
        self.link.write(bytes(buffer))


def measure(load: Load) -> dict[str, Any]:
    """Run the load and return what was seen."""
    context = load.target.tls()
    topic = load.publisher["topic"]
    link, _ = open_session(load.target, context, load.publisher)
    publisher = Publisher(link, topic, load)
    poll = select.epoll()
    subscribers: dict[int, Subscriber] = {}
    for client in load.subscribers:
        its, early = open_session(load.target, context, {**client, "filters": [topic], "qos": load.qos})
        subscriber = Subscriber(its, publisher.packet_bytes, publisher.payload_at, load.qos)
        subscriber.take(early)
        subscribers[its.socket.fileno()] = subscriber
        poll.register(its.socket.fileno(), select.EPOLLIN)
    own = link.socket.fileno()
    poll.register(own, select.EPOLLIN)
    everybody = list(subscribers.values())
    writing: set[int] = set()

    def turn(*, publish: bool) -> None:
        if load.pause_us:
            time.sleep(load.pause_us / 1e6)
        for fd, events in poll.poll(0.1):
            one = link if fd == own else subscribers[fd].link
            if events & select.EPOLLOUT:
                one.flush()
            if events & ~select.EPOLLOUT:
                if fd == own:
                    one.read()  # PUBACKs
                else:
                    subscribers[fd].take(one.read())
            watch(fd, one)
        if publish:
            free = load.window - (publisher.sent - min(s.received for s in everybody))
            if free >= load.window // 4:
                publisher.send(free)
                watch(own, link)

    def watch(fd: int, one: Link) -> None:
        if bool(one.unsent) != (fd in writing):
            writing.symmetric_difference_update({fd})
            poll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if one.unsent else 0))

    gc.disable()
    publisher.send(load.window)
    until_s = time.monotonic() + load.warmup_s
    while time.monotonic() < until_s:
        turn(publish=True)
    before, own_s, start_s = sum(s.received for s in everybody), time.process_time(), time.monotonic()
    broker_s = sum(map(cpu_s, load.pids))
    while time.monotonic() < start_s + load.seconds:
        turn(publish=True)
    took_s = time.monotonic() - start_s
    delivered = sum(s.received for s in everybody) - before
    busy = (time.process_time() - own_s) / took_s
    broker_s = sum(map(cpu_s, load.pids)) - broker_s
    until_s = time.monotonic() + DRAIN_S
    while any(s.received < publisher.sent for s in everybody) and time.monotonic() < until_s:
        turn(publish=False)
    lost = sum(publisher.sent - s.received for s in everybody)
    for one in (link, *(s.link for s in everybody)):
        one.close()
    return {
        "sent": publisher.sent,
        "lost": lost,
        "delivered_per_s": delivered / took_s,
        "cpu_us": broker_s * 1e6 / max(1, delivered),
        "generator_cpu_share": busy,
    }


def main() -> int:
    fields = json.loads(sys.stdin.read())
    try:
        report = measure(Load(**{**fields, "target": Target(**fields["target"])}))
    except (OSError, BrokerRefused, mqtt_wire.BadPacket, TypeError) as error:
        print(f"broadcast_load: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
