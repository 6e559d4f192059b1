"""One bridge: what comes at one broker is on disk before it is acknowledged, and goes to the other in order.

    local broker ─arrived→ queue `out` ═disk═→ session (16 in flight) ─→ other broker ─PUBACK→ forgotten
    other broker ─PUBLISH→ queue `in`  ═disk═→ PUBACK; local broker ─published→ forgotten

A part of BridgesActor, on its thread; it owns queues, session and connection of one endpoint. Rules that
change are compared with those before; the connection stays.

Source: spec sheet broker.md sections 7.2 to 7.4
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from actors.broker.bridge_link import BridgeLink, LinkHost
from actors.metrics.broker_metrics import BridgeStand
from actors.ports.bridges import BridgeSettings, BridgeStore, Lines, Waiting
from messaging.broker.bridges import UPSTREAM, BridgeRule, Direction
from messaging.broker.echo import EchoGuard
from messaging.envelope import Secret
from messaging.errors import StoreError
from messaging.mqtt.client_session import ClientSession, Received
from messaging.mqtt.filters import matches, validate_filter
from messaging.mqtt.packets import Publish
from messaging.text import quoted
from messaging.time_text import iso_utc

log = logging.getLogger(__name__)

READ_AHEAD: Final = 100
LOCAL_WINDOW: Final = 100  # messages that the local broker was given and has not confirmed
LARGEST_BYTES: Final = 256 * 1024  # of topic and payload, as for the clients of the local broker
SUSPICIOUS: Final = 3  # connections in a row that ended while the same message was the first in flight
FLUSH_AT: Final = 64  # forwarded messages that are deleted together, at the latest at the next flush


class Host(LinkHost, Protocol):
    """What a bridge asks of its actor."""

    def subscribe_locally(self, endpoint: str, filters: Sequence[str]) -> None:
        """Have the local broker deliver at QoS 1 what matches these, and nothing else nor of this bridge."""
        ...

    def publish_locally(self, endpoint: str, messages: Sequence[Publish]) -> None:
        """Publish in order; `published_locally` tells when that is done."""
        ...

    def acknowledge_locally(self, endpoint: str, count: int) -> None:
        """So many of the messages that arrived, in their order, are on disk."""
        ...

    def flush_soon(self) -> None:
        """Call `flush` of all bridges within 50 ms."""
        ...


class Bridge:
    """Implements LinkOwner. What the disk does not take is tried again."""

    def __init__(
        self, endpoint: str, host: Host, store: BridgeStore, lines: Lines, settings: BridgeSettings
    ) -> None:
        """Take up what an earlier life has left on disk."""
        self.endpoint = endpoint
        self._host = host
        self._store = store
        self._session = ClientSession(store.held(endpoint))
        self._echo = EchoGuard()
        self._rules: tuple[BridgeRule, ...] = ()
        self._is_orphan = False  # a bridge to the parent of an edge that has none
        self._problems: tuple[str, ...] = ()
        self._link = BridgeLink(endpoint, self._session, host, self, lines, settings)
        # to the other broker
        self._ahead: deque[Waiting] = deque()  # read, and not sent
        self._out_read = -1
        self._taken: list[int] = []
        self._unsaved: list[Publish] = []  # arrived, and the disk would not take them yet
        self._has_overflowed = False
        # from the other broker
        # What arrived and is neither on disk nor acknowledged, and what it is here: None for nothing.
        self._held_back: list[tuple[Publish, Publish | None]] = []
        self._in_read = -1
        self._in_local: list[int] = []  # with the local broker
        self._published: list[int] = []
        self._echoes = 0
        self._stuck: tuple[int, str] | None = None  # what was the first in flight when a connection ended …
        self._stuck_count = 0  # … so many times

    # rules

    def has_settings(self, is_so: bool) -> None:
        """Without a parent, nothing is kept for it: that an edge has none is no fault that will pass."""
        if self.endpoint == UPSTREAM and self._is_orphan is is_so:
            self._is_orphan = not is_so
            self._subscribe_locally()

    def _subscribe_locally(self) -> None:
        filters = [] if self._is_orphan else self._sources(Direction.OUT)
        self._host.subscribe_locally(self.endpoint, filters)

    @property
    def is_over(self) -> bool:
        """Whether it has no rules any more, and nothing is left that could be done."""
        if self._rules:
            return False
        return self._link.status == "no settings" or not (self._waits() or self._session.has_any)

    def set_rules(self, rules: Sequence[BridgeRule]) -> None:
        """Carry these topics from now on; the connection stays."""
        problems = []
        good = []
        for number, rule in enumerate(rules):
            try:
                validate_filter(rule.source)
                good.append(rule)
            except ValueError as exc:
                problems.append(
                    f"rule {number} ({rule.direction}): inPrefix and topic do not make a filter: {exc}"
                )
        if problems:
            log.warning("bridge '%s': %s", self.endpoint, "; ".join(problems))
        self._problems = tuple(problems)
        self._rules = tuple(good)
        self._subscribe_locally()
        self._session.want(self._sources(Direction.IN), self._now_s())
        self._link.write()

    def _sources(self, direction: Direction) -> list[str]:
        return list(dict.fromkeys(rule.source for rule in self._rules if rule.direction is direction))

    def _renamed(self, message: Publish, direction: Direction) -> Publish | None:
        """Return a message as it is to be published at the other end; None when no rule says so."""
        for rule in self._rules:
            if rule.direction is direction and matches(rule.source, message.topic):
                topic = rule.destination(message.topic)
                if topic is None:
                    log.warning(
                        "bridge '%s': dropped a message to %s: nothing fit to be a topic is left of it",
                        self.endpoint,
                        quoted(message.topic),
                    )
                    return None
                return message._replace(topic=topic, packet_id=0, dup=False)
        return None

    # from the local broker to the other one

    def arrived_locally(self, messages: Sequence[Publish]) -> None:
        """The local broker delivers; `acknowledge_locally` follows when they are on disk, in order."""
        self._unsaved += messages
        self._save_arrived()

    def _save_arrived(self) -> None:
        messages = self._unsaved
        named = [
            renamed for message in messages if (renamed := self._renamed(message, Direction.OUT)) is not None
        ]
        lost = 0
        try:
            if named:
                lost = len(named) - self._store.append(self.endpoint, Direction.OUT, named, self._taken)
                self._taken = []
            if lost:
                self._store.dropped(self.endpoint, Direction.OUT, lost)
        except StoreError as exc:
            self._failed_on_disk(exc)
            return
        if lost and not self._has_overflowed:
            log.warning(
                "bridge '%s': its queue is full; new messages are dropped until some are forwarded",
                self.endpoint,
            )
        if named:
            self._has_overflowed = bool(lost)
        self._unsaved = []
        self._host.acknowledge_locally(self.endpoint, len(messages))
        self._pump_out()

    def _pump_out(self) -> None:
        """Send what waits as far as there is room."""
        session, now_s = self._session, self._now_s()
        while session.room and (self._ahead or self._read_ahead()):
            number, message = self._ahead.popleft()
            if self._comes_back(message.topic):
                self._echo.sent(message.topic, message.payload, now_s)
            if session.send(number, message, now_s):
                self._forwarded(self._taken, (number,))
        self._link.write()

    def _read_ahead(self) -> bool:
        try:
            found = self._store.read(self.endpoint, Direction.OUT, self._out_read, READ_AHEAD)
        except StoreError as exc:
            self._failed_on_disk(exc)
            return False
        if found:
            self._out_read = found[-1].number
            self._ahead.extend(found)
        return bool(found)

    def _comes_back(self, topic: str) -> bool:
        return any(
            rule.direction is Direction.IN
            and self._session.has_granted(rule.source)
            and matches(rule.source, topic)
            for rule in self._rules
        )

    # from the other broker to the local one

    def _arrived(self, messages: Sequence[Publish]) -> None:
        now_s = self._now_s()
        for message in messages:
            renamed = None
            if self._echo.is_echo(message.topic, message.payload, now_s):
                self._echoes += 1
            elif len(message.topic) + len(message.payload) > LARGEST_BYTES:
                log.warning(
                    "bridge '%s': dropped a message of %d bytes to %s that came in; the limit is %d",
                    self.endpoint,
                    len(message.payload),
                    quoted(message.topic),
                    LARGEST_BYTES,
                )
                self._store.dropped(self.endpoint, Direction.IN, 1)
            else:
                renamed = self._renamed(message, Direction.IN)
            self._held_back.append((message, renamed))
        self._keep_arrived()

    def _keep_arrived(self) -> None:
        """Have on disk what there is room for, and acknowledge that; the rest waits, and more is not read."""
        arrived = self._held_back
        named = [renamed for _, renamed in arrived if renamed is not None]
        kept = 0
        if named:
            kept = self._store.append(self.endpoint, Direction.IN, named, self._published)
            self._published = []
        done = 0
        for _, renamed in arrived:
            if renamed is not None:
                if not kept:
                    break
                kept -= 1
            done += 1
        self._session.acknowledge([message for message, _ in arrived[:done]])
        self._held_back = arrived[done:]
        self._link.read(not self._held_back)
        self._link.write()
        self._pump_in()

    def _pump_in(self) -> None:
        room = LOCAL_WINDOW - len(self._in_local)
        if room <= 0:
            return
        found = self._store.read(self.endpoint, Direction.IN, self._in_read, room)
        if found:
            self._in_read = found[-1].number
            self._in_local += [number for number, _ in found]
            self._host.publish_locally(self.endpoint, [message for _, message in found])

    def published_locally(self, count: int) -> None:
        """So many of the messages that were published, in their order, are the local broker's now."""
        published, self._in_local = self._in_local[:count], self._in_local[count:]
        self._forwarded(self._published, published)
        try:
            if self._held_back:
                self._keep_arrived()
            else:
                self._pump_in()
        except StoreError as exc:
            self._failed_on_disk(exc)

    def publish_again(self) -> None:
        """Whether the local broker has what it did not confirm, nobody knows."""
        if self._in_local:
            self._in_read = self._in_local[0] - 1
            self._in_local = []

    def local_broker_restarted(self) -> None:
        """It has forgotten what it did not confirm, and delivers again what it was not confirmed."""
        self._unsaved = []
        self.publish_again()
        self._subscribe_locally()

    # both

    def _forwarded(self, numbers: list[int], more: Sequence[int]) -> None:
        """Remember what can be deleted; a crash before that only forwards it again."""
        numbers += more
        if len(numbers) >= FLUSH_AT:
            self.flush()
        elif len(numbers) == len(more):
            self._host.flush_soon()

    def flush(self) -> None:
        """Forget on disk what has arrived at the other end."""
        try:
            if self._taken:
                self._store.forwarded(self.endpoint, Direction.OUT, self._taken)
                self._taken = []
            if self._published:
                self._store.forwarded(self.endpoint, Direction.IN, self._published)
                self._published = []
        except StoreError as exc:
            self._failed_on_disk(exc)

    def _failed_on_disk(self, exc: StoreError) -> None:
        """Everything that was not kept is tried again with the next tick."""
        if str(exc) != self._link.error:
            log.error("bridge '%s': %s", self.endpoint, exc)
        self._link.error = str(exc)

    # what the link tells

    def tick(self) -> None:
        """Look after everything that waits, each second."""
        if self._unsaved:
            self._save_arrived()
        try:
            self._keep_arrived()
        except StoreError as exc:
            self._failed_on_disk(exc)
        self._pump_out()
        self._link.tick()

    def came_up(self) -> None:
        """The other broker has accepted the connection."""
        self._echo.connected(self._now_s())

    def handle(self, received: Received) -> None:
        """This has come from the other broker."""
        if received.rejected:
            log.warning(
                "bridge '%s': the other broker does not let it subscribe to %s; it is tried again",
                self.endpoint,
                ", ".join(map(quoted, received.rejected)),
            )
        if received.taken:
            self._forwarded(self._taken, received.taken)
        if received.arrived:
            self._arrived(received.arrived)
        self._pump_out()

    def went_down(self) -> None:
        """What was not acknowledged comes again."""
        self._held_back = []
        oldest = self._session.oldest
        self._stuck_count = self._stuck_count + 1 if oldest is not None and oldest == self._stuck else 1
        self._stuck = oldest

    def save_held(self, held: dict[str, bool]) -> None:
        """Keep which filters the other broker may know."""
        self._store.save_held(self.endpoint, held)

    def key_known(self, key: Secret) -> None:
        """The answer to `ask_key`."""
        self._link.key_known(key)

    def key_unknown(self, reason: str) -> None:
        """The answer to `ask_key`."""
        self._link.key_unknown(reason)

    def close(self) -> None:
        """End in order; what is queued stays on disk."""
        self.flush()
        self._link.leave()

    # what is told

    @property
    def status(self) -> str:
        """In a word or two: connected, connecting, waiting, ending, no settings."""
        is_ending = not self._rules and self._link.status != "no settings"
        return "ending" if is_ending else self._link.status

    @property
    def connected_since(self) -> str | None:
        """As IoT Hub writes times; None when it is not connected."""
        return None if self._link.up_since_s is None else iso_utc(self._link.up_since_s)

    def stand(self) -> BridgeStand:
        """Return what it stands at, for metrics."""
        out, came_in = (self._store.state(self.endpoint, way) for way in (Direction.OUT, Direction.IN))
        return BridgeStand(self.endpoint, self._link.up_since_s is not None, out, came_in)

    @property
    def error(self) -> str:
        """Why it is not connected, or what it could not do; "" when all is well."""
        return self._link.error

    def shown(self) -> dict[str, object]:
        """Return how the bridge is doing, as plain values for programs."""
        out, came_in = (self._store.state(self.endpoint, way) for way in (Direction.OUT, Direction.IN))
        return {
            "endpoint": self.endpoint,
            "address": self._link.address,
            "status": self.status,
            "connectedSince": self.connected_since,
            "error": self.error,
            "queued": out.messages,
            "queuedBytes": out.bytes,
            "sent": out.forwarded,
            "dropped": out.dropped + came_in.dropped,
            "queuedIn": came_in.messages,
            "received": came_in.forwarded,
            "echoes": self._echoes,
            "refused": self._session.rejected,
            "unanswered": self._session.unanswered,
            "problems": (*self._problems, *self._suspicion()),
        }

    def _suspicion(self) -> tuple[str, ...]:
        """Return why it may be that connections end again and again: brokers of MQTT 3.1.1 do not say it."""
        if self._stuck is None or self._stuck != self._session.oldest or self._stuck_count < SUSPICIOUS:
            return ()
        return (
            f"{self._stuck_count} connections ended while a message to {quoted(self._stuck[1])} was sent; "
            "see whether the other broker allows that topic and size",
        )

    def _waits(self) -> bool:
        waits = any(self._store.state(self.endpoint, direction).messages for direction in Direction)
        return waits or bool(self._unsaved or self._held_back)

    def _now_s(self) -> float:
        return self._host.clock.monotonic_s()
