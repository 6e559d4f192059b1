"""A client's session at an MQTT broker without I/O: it outlives connections, and none of them loses anything.

What is sent at QoS 1 stays in flight, in order, until its PUBACK; after a reconnect it is sent again before
anything new. What arrives is acknowledged when the caller says that it is on disk, and not before. The topic
filters that are wanted are compared with those that the broker holds, so a change needs no reconnect.

Times are those of one monotonic clock, passed in. There is no QoS 2: subscriptions ask for QoS 1.

Source: OASIS MQTT 3.1.1 sections 3 and 4.4; spec sheet broker.md section 7.4
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from messaging.errors import RemoteProtocolError
from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import (
    SUBSCRIPTION_FAILURE,
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    Publish,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    encode_puback_many,
)

IN_FLIGHT: Final = 16
FILTERS_AT_ONCE: Final = 100
REJECTED_RETRY_S: Final = 10.0
ANSWER_LIMIT_S: Final = 20.0  # for CONNACK, and for any sign of life when one was asked for
QUIET_S: Final = 10.0  # without a sign of life, while an answer is due, before one is asked for
STUCK_S: Final = 60.0  # a broker that lives and does not acknowledge: only a new connection can help
MAX_PACKET_BYTES: Final = 64 * 1024 * 1024  # what a broker may send; smaller limits are the caller's
REMEMBERED: Final = 64  # acknowledged packet ids of a connection; brokers have 10 to 20 in flight


class Received(Struct):
    """What one read brought."""

    answer: ReturnCode | None = None  # to CONNECT
    arrived: list[Publish] = field(default_factory=list)  # to be acknowledged once they are on disk
    taken: list[int] = field(default_factory=list)  # numbers of what was sent and is the broker's now
    rejected: list[str] = field(default_factory=list)  # filters that may not be subscribed to
    offence: str = ""  # the broker broke the protocol; the connection is of no more use


class _Sent(Struct):
    """One message in flight."""

    number: int
    publish: Publish
    sent_s: float


class ClientSession:
    """One session. Not thread-safe."""

    def __init__(self, held: Mapping[str, bool] | None = None) -> None:
        """Take up a session.

        Args:
            held: Filters that the broker may know from an earlier life of this session, with whether it has
                granted them.
        """
        self.is_up = False
        self._held = dict(held or {})
        self._held_changed = False
        self._wanted: dict[str, None] = {}
        self._retry_at_s: dict[str, float] = {}  # rejected filters
        self._asked: dict[int, tuple[bool, tuple[str, ...]]] = {}  # packet id → whether to subscribe, to what
        self._in_flight: dict[int, _Sent] = {}  # by packet id, in order
        self._last_id = 0
        self._acknowledged: dict[int, int] = {}  # packet id → hash of topic and payload, of this connection …
        self._known: dict[int, int] = {}  # … and of the one before: what came then and comes again
        self._codec = ClientConnection(MAX_PACKET_BYTES)
        self._out: list[bytes] = []
        self._keep_alive_s = 0
        self._since_s = 0.0  # of the connection
        self._heard_s = 0.0
        self._written_s = 0.0
        self._pinged_s: float | None = None  # since when a sign of life is waited for

    # connections

    def connect(self, packet: Connect, now_s: float) -> None:
        """Begin a connection: TCP and TLS are there."""
        self.lost()
        self._codec = ClientConnection(MAX_PACKET_BYTES)
        self._keep_alive_s = packet.keep_alive_s
        self._since_s = self._heard_s = now_s
        self._out.append(self._codec.send(packet))

    def lost(self) -> None:
        """There is no connection any more. What is in flight waits for the next one."""
        self.is_up = False
        self._out.clear()
        self._asked.clear()
        self._pinged_s = None
        if self._acknowledged:
            self._known, self._acknowledged = self._acknowledged, {}

    def disconnect(self) -> None:
        """Say goodbye; `lost` follows when the bytes have been taken."""
        if self.is_up:
            self.is_up = False
            self._out.append(self._codec.send(Disconnect()))

    def data_to_send(self, now_s: float) -> bytes:
        """Return and forget the bytes that are to be written."""
        if not self._out:
            return b""
        self._written_s = now_s
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes, now_s: float) -> Received:
        """Take what was read. What it brought is to be looked at also when it ends in an offence."""
        self._heard_s = now_s
        self._pinged_s = None
        received = Received()
        try:
            packets = self._codec.receive_data(data)
            for packet in packets:
                if isinstance(packet, Publish):
                    self._take(packet, received)
                elif isinstance(packet, PubAck):
                    sent = self._in_flight.pop(packet.packet_id, None)
                    if sent is not None:
                        received.taken.append(sent.number)
                elif isinstance(packet, ConnAck):
                    self._connected(packet, received, now_s)
                elif isinstance(packet, SubAck):
                    self._subscribed(packet, received, now_s)
                elif isinstance(packet, UnsubAck):
                    self._unsubscribed(packet)
            if self._codec.offence is not None:
                raise self._codec.offence
        except RemoteProtocolError as exc:
            received.offence = str(exc)
        return received

    def tick(self, now_s: float, is_listening: bool = True) -> str:
        """Look after the connection, each second or so; return why it is of no more use, else "".

        Args:
            now_s: The time.
            is_listening: Whether its socket is read; while it is not, silence says nothing.
        """
        if not self.is_up:
            silent = now_s - self._since_s > ANSWER_LIMIT_S
            return f"no answer to CONNECT for {ANSWER_LIMIT_S:.0f} s" if silent else ""
        if is_listening:
            if self._pinged_s is not None and now_s - self._pinged_s > ANSWER_LIMIT_S:
                return f"no sign of life for {now_s - self._heard_s:.0f} s"
            oldest = next(iter(self._in_flight.values()), None)
            if oldest is not None and now_s - max(oldest.sent_s, self._since_s) > STUCK_S:
                return f"a message was not acknowledged for {STUCK_S:.0f} s"
        self._retry(now_s)
        is_owed = bool(self._in_flight or self._asked) and now_s - self._heard_s >= QUIET_S
        is_silent = 0 < self._keep_alive_s <= 2 * (now_s - self._written_s)
        if (is_owed and self._pinged_s is None) or is_silent:
            self._out.append(self._codec.send(PingReq()))
            if self._pinged_s is None and is_listening:
                self._pinged_s = now_s
        return ""

    # sending

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        return IN_FLIGHT - len(self._in_flight) if self.is_up else 0

    @property
    def unacknowledged(self) -> int:
        """How many messages are in flight, or were when the connection was lost."""
        return len(self._in_flight)

    @property
    def oldest(self) -> tuple[int, str] | None:
        """Number and topic of the first message in flight."""
        first = next(iter(self._in_flight.values()), None)
        return None if first is None else (first.number, first.publish.topic)

    def send(self, number: int, message: Publish, now_s: float) -> bool:
        """Send a message while there is room; returns whether that was all, as at QoS 0.

        At QoS 1 `Received.taken` has its number once the broker has it.
        """
        if message.qos == 0:
            self._out.append(self._codec.send(message._replace(packet_id=0, dup=False)))
            return True
        publish = message._replace(qos=1, packet_id=self._next_id(), dup=False)
        self._out.append(self._codec.send(publish))
        self._in_flight[publish.packet_id] = _Sent(number, publish, now_s)
        return False

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self._in_flight and self._last_id not in self._asked:
                return self._last_id

    # receiving

    def acknowledge(self, messages: Iterable[Publish]) -> None:
        """These are on disk: the broker may forget them."""
        mine = [message for message in messages if message.qos]
        for message in mine:
            self._acknowledged.pop(message.packet_id, None)
            self._acknowledged[message.packet_id] = hash((message.topic, message.payload))
        while len(self._acknowledged) > REMEMBERED:
            del self._acknowledged[next(iter(self._acknowledged))]
        if mine and self.is_up:
            self._out.append(encode_puback_many(message.packet_id for message in mine))

    def _take(self, message: Publish, received: Received) -> None:
        if message.qos == 2:
            raise RemoteProtocolError(
                "it sends QoS 2, which this session never asked for; another program may have used the same "
                "client id: give the bridge one of its own"
            )
        if message.qos:
            known = self._known.pop(message.packet_id, None)
            if message.dup and known == hash((message.topic, message.payload)):
                self.acknowledge((message,))  # its PUBACK was lost with the connection before
                return
        received.arrived.append(message)

    # subscriptions

    def want(self, filters: Iterable[str], now_s: float) -> None:
        """Subscribe to these at QoS 1 and to no others, now and after each reconnect."""
        self._wanted = dict.fromkeys(filters)
        self._retry_at_s = {name: at for name, at in self._retry_at_s.items() if name in self._wanted}
        self._reconcile(now_s)

    def held_if_changed(self) -> dict[str, bool] | None:
        """Return the filters that the broker may know, with whether it granted them; None: as before.

        To be on disk before the bytes leave: what an earlier life subscribed to is ended by a later one.
        """
        if not self._held_changed:
            return None
        self._held_changed = False
        return dict(self._held)

    @property
    def has_any(self) -> bool:
        """Whether the broker may still know any filter of this session."""
        return bool(self._held)

    @property
    def rejected(self) -> tuple[str, ...]:
        """The wanted filters that the broker has refused; they are tried again."""
        return tuple(self._retry_at_s)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """The wanted filters that the broker has neither granted nor refused yet."""
        return tuple(
            name for name in self._wanted if not self._held.get(name) and name not in self._retry_at_s
        )

    def has_granted(self, topic_filter: str) -> bool:
        """Say whether the broker sends what this filter matches."""
        return self._held.get(topic_filter, False)

    def _connected(self, packet: ConnAck, received: Received, now_s: float) -> None:
        received.answer = packet.return_code
        if packet.return_code is not ReturnCode.ACCEPTED:
            return
        self.is_up = True
        if not packet.session_present:
            self._held_changed |= bool(self._held)
            self._held.clear()
            self._known.clear()
        self._retry_at_s.clear()
        for sent in self._in_flight.values():
            sent.sent_s = now_s
            self._out.append(self._codec.send(sent.publish._replace(dup=packet.session_present)))
        self._reconcile(now_s)

    def _reconcile(self, now_s: float) -> None:
        """Ask for what is missing, and for the end of what is not wanted any more."""
        if not self.is_up:
            return
        asked = {name for _, names in self._asked.values() for name in names}
        surplus = [name for name in self._held if name not in self._wanted and name not in asked]
        missing = [
            name
            for name in self._wanted
            if not self._held.get(name) and name not in asked and self._retry_at_s.get(name, 0.0) <= now_s
        ]
        for names in _parts(surplus):
            packet_id = self._next_id()
            self._asked[packet_id] = False, names
            self._out.append(self._codec.send(Unsubscribe(packet_id, names)))
        for names in _parts(missing):
            packet_id = self._next_id()
            self._asked[packet_id] = True, names
            self._held |= dict.fromkeys(names, False)
            self._held_changed = True
            self._out.append(self._codec.send(Subscribe(packet_id, tuple((name, 1) for name in names))))

    def _retry(self, now_s: float) -> None:
        due = [name for name, at_s in self._retry_at_s.items() if at_s <= now_s]
        if due:
            self._reconcile(now_s)

    def _subscribed(self, packet: SubAck, received: Received, now_s: float) -> None:
        _, names = self._asked.pop(packet.packet_id, (True, ()))
        if len(names) != len(packet.return_codes):
            raise RemoteProtocolError(
                f"SUBACK with {len(packet.return_codes)} return codes for {len(names)} filters"
            )
        for name, code in zip(names, packet.return_codes, strict=True):
            if code == SUBSCRIPTION_FAILURE:
                received.rejected.append(name)
                self._held.pop(name, None)
                if name in self._wanted:
                    self._retry_at_s[name] = now_s + REJECTED_RETRY_S
            else:
                self._held[name] = True
                self._retry_at_s.pop(name, None)
        self._held_changed = True
        self._reconcile(now_s)

    def _unsubscribed(self, packet: UnsubAck) -> None:
        _, names = self._asked.pop(packet.packet_id, (False, ()))
        for name in names:
            self._held.pop(name, None)
        self._held_changed = True
        self._reconcile(self._heard_s)


def _parts(names: list[str]) -> list[tuple[str, ...]]:
    return [tuple(names[at : at + FILTERS_AT_ONCE]) for at in range(0, len(names), FILTERS_AT_ONCE)]
