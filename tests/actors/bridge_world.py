"""A bridge between two brokers that tests play by hand, on one thread and under a clock that is moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.broker.bridge import Bridge
from actors.ports.bridges import BridgeAccess, LineHandler
from messaging.broker.bridges import BridgeRule
from messaging.clock import ManualClock
from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from runtime.storage.bridge_db import MAX_QUEUE_BYTES, BridgeDb
from tests.fakes.transport import MemoryTransport

ENDPOINT = "site"


class FarBroker:
    """The other broker, as `ports.bridges.Lines`: keeps everything, acknowledges when it is told to."""

    def __init__(self) -> None:
        self.access: BridgeAccess | None = None
        self.handler: LineHandler | None = None
        self.transport = MemoryTransport("far:8883")
        self.attempts = 0
        self.subscribed: dict[str, int] = {}
        self.refuses_filters: set[str] = set()
        self.got: list[Publish] = []
        self.unanswered: list[int] = []
        self.acknowledges = True
        self.is_present = False  # the session
        self.last_connect: Connect | None = None
        self.acknowledged_by_bridge: list[int] = []
        self.abandoned = 0
        self.is_accepted = False
        self.swallows = False  # what the bridge sends gets lost on its way
        self._codec = ServerConnection()

    # Lines

    def connect(self, access: BridgeAccess, handler: LineHandler) -> FarBroker:
        self.attempts += 1
        self.access, self.handler = access, handler
        self.is_accepted = self.swallows = False
        return self

    def abandon(self) -> None:
        self.abandoned += 1
        self.handler = None

    # what a test has it do

    def accept(self, code: ReturnCode = ReturnCode.ACCEPTED) -> None:
        """Let the connection come about that is waited for."""
        assert self.handler is not None
        self.transport = MemoryTransport("far:8883")
        self._codec = ServerConnection()
        self.handler.opened(self.transport)
        [connect] = self._codec.receive_data(self._taken())
        assert isinstance(connect, Connect)
        self.last_connect = connect
        answer = self._codec.send(ConnAck(code, self.is_present and code is ReturnCode.ACCEPTED))
        if code is ReturnCode.ACCEPTED:
            self.is_present = self.is_accepted = True
            self._codec.authenticated()
        self.handler.received(answer)
        self.answer()

    def lose(self, reason: str = "the connection was lost") -> None:
        """End the connection, or the attempt at one."""
        handler, self.handler = self.handler, None
        assert handler is not None
        handler.closed(reason)

    def answer(self) -> None:
        """Answer what the bridge has sent, until it sends nothing more."""
        while self.handler is not None and (data := self._taken()) and not self.swallows:
            replies: list[Packet] = []
            for packet in self._codec.receive_data(data):
                if isinstance(packet, Publish):
                    self.got.append(packet)
                    if packet.qos:
                        self.unanswered.append(packet.packet_id)
                elif isinstance(packet, Subscribe):
                    codes = []
                    for name, qos in packet.topic_filters:
                        codes.append(0x80 if name in self.refuses_filters else qos)
                        if name not in self.refuses_filters:
                            self.subscribed[name] = qos
                    replies.append(SubAck(packet.packet_id, tuple(codes)))
                elif isinstance(packet, Unsubscribe):
                    for name in packet.topic_filters:
                        self.subscribed.pop(name, None)
                    replies.append(UnsubAck(packet.packet_id))
                elif isinstance(packet, PingReq):
                    replies.append(PingResp())
                elif isinstance(packet, PubAck):
                    self.acknowledged_by_bridge.append(packet.packet_id)
            if self.acknowledges:
                replies += [PubAck(packet_id) for packet_id in self.unanswered]
                self.unanswered.clear()
            if replies:
                self.handler.received(b"".join(map(self._codec.send, replies)))

    def acknowledge(self) -> None:
        """Acknowledge what it has, and all that comes."""
        self.acknowledges = True
        unanswered, self.unanswered = self.unanswered, []
        assert self.handler is not None
        self.handler.received(b"".join(PubAck(packet_id).encode() for packet_id in unanswered))
        self.answer()

    def send(self, *messages: Publish) -> None:
        """Deliver in one read of the bridge."""
        assert self.handler is not None
        self.handler.received(b"".join(map(self._codec.send, messages)))
        self.answer()

    def _taken(self) -> bytes:
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data


class World:
    """Implements `actors.broker.bridge.Host` and `BridgeSettings`; the local broker is the test itself."""

    def __init__(self, path: Path, max_bytes: int = MAX_QUEUE_BYTES, max_messages: int | None = None) -> None:
        self.clock = ManualClock()
        self.far = FarBroker()
        self.store = BridgeDb.open(path, max_bytes, max_messages)
        self.settings: BridgeAccess | None = BridgeAccess("far", 8883, "me", user_name="u")
        self.filters: list[str] = []
        self.near: list[Publish] = []  # published locally …
        self.unpublished = 0  # … and not confirmed
        self.confirms = True
        self.acknowledged = 0
        self.wants_flush = False
        self.wants_tick = False
        self.keys_asked: list[tuple[str, bool]] = []
        self.bridge = Bridge(ENDPOINT, self, self.store, self.far, self)

    def begin(self, *rules: BridgeRule) -> None:
        """Set rules and connect."""
        self.bridge.set_rules(rules)
        self.tick()
        self.far.accept()

    def restart(self) -> None:
        """The process was killed: only the disk is left."""
        self.bridge = Bridge(ENDPOINT, self, self.store, self.far, self)

    def tick(self, after_s: float = 0.0) -> None:
        """Let time pass, second by second."""
        while after_s > 0:
            step_s = min(1.0, after_s)
            after_s -= step_s
            self.clock.advance(step_s)
            self.bridge.tick()
            self.far.answer()
        self.bridge.tick()
        self.far.answer()

    def publish(self, topic: str, *bodies: bytes, qos: int = 1, retain: bool = False) -> None:
        """Have the local broker deliver messages to the bridge, in one batch."""
        self.bridge.arrived_locally([Publish(topic, body, qos, retain=retain) for body in bodies])
        self.far.answer()

    def confirm(self) -> None:
        """Have the local broker say that it has what was published."""
        while self.unpublished:
            count, self.unpublished = self.unpublished, 0
            self.bridge.published_locally(count)
        self.far.answer()

    # BridgeSettings

    def access(self, endpoint: str) -> BridgeAccess:
        if self.settings is None:
            raise ConfigError(f"no settings for '{endpoint}'")
        return self.settings

    def names(self, endpoint: str) -> bool:
        return self.settings is not None

    # Host

    def subscribe_locally(self, endpoint: str, filters: Sequence[str]) -> None:
        self.filters = list(filters)

    def publish_locally(self, endpoint: str, messages: Sequence[Publish]) -> None:
        self.near += messages
        self.unpublished += len(messages)

    def acknowledge_locally(self, endpoint: str, count: int) -> None:
        self.acknowledged += count

    def ask_key(self, endpoint: str, identity: str, was_refused: bool) -> None:
        self.keys_asked.append((identity, was_refused))

    def flush_soon(self) -> None:
        self.wants_flush = True

    def tick_soon(self, endpoint: str) -> None:
        self.wants_tick = True


KEY = Secret(b"c2VjcmV0LXNlY3JldA==")
