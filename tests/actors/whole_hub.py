"""The hub in virtual time: real head, router, store and identities; connections and disk in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actors.addresses import HUB_CLIENT, IDENTITIES, METHODS, MQTT, ROUTER, STORE, TWINS, UPSTREAM
from actors.heads.connected_clients import ConnectedClients
from actors.heads.mqtt_head import MqttHead
from actors.hub.config import RouteText
from actors.hub.identities import IdentityActor
from actors.hub.identity import HubIdentity, KnownIdentities
from actors.hub.methods import MethodActor
from actors.hub.own_client import HubClientActor
from actors.hub.router import KeptRoutes, RouterActor
from actors.hub.trail import RoutingTrail, StorageTrail
from actors.hub.twins import TwinActor
from actors.kernel.memory_system import MemorySystem
from actors.manifest.hub_environment import DEFAULTS
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.connections import ConnectionHandler
from actors.ports.storage import MessageStore
from actors.store.append_guard import AppendGuard
from actors.store.store import StoreActor
from actors.upstream.switchboard import Where
from actors.upstream.upkeep import LinkLimits
from actors.upstream.upstream import UpstreamActor
from messaging import sas
from messaging.clock import Clock
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.mqtt import wire
from messaging.mqtt.packets import Connect, Packet, Publish, Subscribe, Unsubscribe
from runtime.security.client_certificates import check_certificate
from tests.fakes.cloud import MemoryCopy, MemorySwitch
from tests.fakes.cloud_connections import MemoryCloud
from tests.fakes.message_db import MemoryDisk, MemoryMessageDb
from tests.fakes.twins import MemoryTwins

IOTHUB = "iothub.test.internal"
DEVICE = "edge1"
A, B, LEAF = f"{DEVICE}/a", f"{DEVICE}/b", "leaf"
KEY = b"k" * 32
UP = {"up": "FROM /messages/* INTO $upstream"}
A_TO_B = {"ab": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/b/inputs/in")'}
INPUT = f"devices/{DEVICE}/modules/b/inputs/#"
DEFAULT_PRIORITY = 2_000_000_000

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xB0, 0xD0


class FakeListener:
    """Hands connections that a test makes to the head."""

    def __init__(self) -> None:
        self.handler: ConnectionHandler | None = None

    def open(self, handler: ConnectionHandler) -> None:
        self.handler = handler

    def close(self) -> None:
        self.handler = None


@dataclass
class FakeTransport:
    """Keeps what the head writes. `stuck`: the peer does not read, so that it waits."""

    peer: str = "192.0.2.1:1"
    written: bytearray = field(default_factory=bytearray)
    unsent_bytes: int = 0
    closed: bool = False
    reading: bool = True
    known: bool = False
    certificates: tuple[bytes, ...] = ()

    def write(self, data: bytes) -> None:
        assert not self.closed or not data
        self.written += data

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        assert not self.closed
        self.reading = True

    def authenticated(self) -> None:
        assert not self.known
        self.known = True


class Peer:
    """One connection of a client, seen from the client."""

    def __init__(self, world: HubWorld) -> None:
        self.world = world
        self.transport = FakeTransport()
        assert world.listener.handler is not None
        self.handler = world.listener.handler
        self.client = self.handler.connected(self.transport)

    def send(self, *packets: Packet | bytes) -> None:
        """Send packets, as one read."""
        data = b"".join(p if isinstance(p, bytes) else p.encode() for p in packets)
        self.handler.received(self.client, data)
        self.world.system.run()

    def connect(self, client_id: str, *, clean: bool = True, keep_alive_s: int = 60) -> Peer:
        """Send a CONNECT that is accepted."""
        self.send(self.world.connect_packet(client_id, clean=clean, keep_alive_s=keep_alive_s))
        [(kind, body)] = self.received()
        assert (kind, body[1]) == (CONNACK, 0)
        return self

    def publish(self, body: bytes, packet_id: int = 1, qos: int = 1) -> None:
        topic = self.world.topic_of(self.client.client_id)
        self.send(Publish(topic, body, qos, packet_id if qos else 0))

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        self.send(Subscribe(9, ((topic_filter, qos),)))

    def unsubscribe(self, topic_filter: str) -> None:
        self.send(Unsubscribe(9, (topic_filter,)))

    def gone(self) -> None:
        """The connection is lost."""
        self.handler.disconnected(self.client, "connection lost")
        self.world.system.run()

    def received(self) -> list[tuple[int, bytes]]:
        """Return what came since the last call: type and the rest of each packet."""
        data, found, at = bytes(self.transport.written), [], 0
        self.transport.written.clear()
        while at < len(data):
            length, start = wire.read_length(data, at + 1)
            assert start
            assert start + length <= len(data)
            found.append((data[at] & 0xF0, data[start : start + length]))
            at = start + length
        return found


class HubWorld:
    """The actors of one hub."""

    def __init__(
        self,
        routes: dict[str, str] = UP,
        seed: int = 0,
        store: MessageStore | None = None,
        metrics: Callable[[Clock], HubMetrics] = lambda clock: OFF,
    ) -> None:
        self.system = MemorySystem(seed, "hub")
        self.metrics = counts = metrics(self.system.clock)
        self.disk = MemoryDisk()
        self.listener = FakeListener()
        self.cloud = MemoryCloud()
        self.twins = MemoryTwins()
        keys = (Secret(KEY), Secret(KEY))
        copy = self.copy = MemoryCopy(
            KnownIdentities(tuple(HubIdentity(name, keys=keys) for name in (A, B, LEAF)))
        )
        texts = tuple(RouteText(name, text, DEFAULT_PRIORITY, 0) for name, text in routes.items())
        guard, kept = AppendGuard(), KeptRoutes(texts, None)
        connected = ConnectedClients(metrics=counts)
        routing, storage = RoutingTrail(), StorageTrail()
        start = self.system.start
        start(
            STORE,
            lambda: StoreActor(lambda: store or MemoryMessageDb(self.disk), guard, storage, metrics=counts),
        )
        start(
            IDENTITIES,
            lambda: IdentityActor(
                copy, (IOTHUB,), (MQTT,), check_certificate, lambda: False, UPSTREAM, DEVICE, counts
            ),
        )
        start(ROUTER, lambda: RouterActor(DEVICE, STORE, kept, routing, counts))
        start(
            UPSTREAM,
            lambda: UpstreamActor(
                lambda: self.cloud,
                MemorySwitch(False),
                Where(IOTHUB, DEVICE, lambda: ""),
                limits=LinkLimits(),
                metrics=counts,
            ),
        )
        start(TWINS, lambda: TwinActor(lambda: self.twins, ROUTER, UPSTREAM, DEVICE, {}, counts))
        start(METHODS, lambda: MethodActor(counts))
        start(
            HUB_CLIENT,
            lambda: HubClientActor(
                DEVICE,
                report_s=5.0,
            ),
        )
        start(
            MQTT,
            lambda: MqttHead(
                self.listener,
                DEVICE,
                environment=DEFAULTS,
                connected=connected,
            ),
        )
        self.system.run()

    @property
    def head(self) -> MqttHead:
        behaviour = self.system.cells[MQTT]._behaviour
        assert isinstance(behaviour, MqttHead)
        return behaviour

    def open(self) -> Peer:
        return Peer(self)

    def token(self, client_id: str, key: bytes = KEY) -> str:
        expiry_s = int(self.system.clock.now_s()) + 365 * 24 * 3600
        return sas.make_token(sas.audience_of(IOTHUB, Identity.parse(client_id)), key, expiry_s)

    def connect_packet(
        self, client_id: str, *, clean: bool = True, keep_alive_s: int = 60, key: bytes = KEY, **more: Any
    ) -> Connect:
        user_name = f"{IOTHUB}/{client_id}/?api-version=2021-04-12"
        password = self.token(client_id, key).encode()
        return Connect(client_id, clean, keep_alive_s, user_name=user_name, password=password, **more)

    @staticmethod
    def topic_of(client_id: str) -> str:
        device, _, module = client_id.partition("/")
        return f"devices/{device}/{f'modules/{module}/' if module else ''}messages/events/"

    def bodies(self) -> set[bytes]:
        """Return the bodies on disk."""
        return {body for _, body in self.disk.contents.messages.values()}
