"""The MQTT head in virtual time, with clients on fake transports and mailboxes for the actors around it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from actors.addresses import AMQP, HUB_CLIENT, IDENTITIES, METHODS, MQTT, ROUTER, STORE, TWINS, UPSTREAM
from actors.heads.connected_clients import ConnectedClients
from actors.heads.mqtt_head import MqttHead
from actors.hub.identity_messages import ACCEPTED, Authenticate, Verdict
from actors.hub.router import Endpoints, ListEndpoints, Publish
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.store.messages import Attach, LoadSessions, Ready, SaveSession, Sessions, SessionSaved, Stored
from messaging.envelope import Envelope
from messaging.message import Message, decode_header, encode_header
from messaging.mqtt.packets import Connect, Packet, SubAck, Subscribe, Will
from messaging.mqtt.packets import Publish as PublishPacket
from tests.actors.hub_world import World, message_in
from tests.fakes.transport import MemoryClient, MemoryListener

HEAD, CLOUD, OTHER_HEAD = MQTT, UPSTREAM, AMQP
EDGE = "edge1"
USER_NAME = "iothub.test/{}/?api-version=2021-04-12"
HEADER = encode_header("/messages/modules/sensor/", {}, {})


def connect_packet(
    client_id: str = f"{EDGE}/sensor",
    *,
    user_name: str | None = None,
    password: bytes | None = b"token",
    clean_session: bool = False,
    keep_alive_s: int = 60,
    will: Will | None = None,
) -> Connect:
    name = USER_NAME.format(client_id) if user_name is None else user_name
    return Connect(client_id, clean_session, keep_alive_s, name, password, will)


class HeadWorld(World):
    def __init__(
        self,
        endpoints: Sequence[tuple[str, str, str]] = (),
        sessions: dict[str, tuple[tuple[str, int], ...]] | None = None,
        environment: HubEnvironment = DEFAULTS,
    ) -> None:
        super().__init__(STORE, ROUTER, IDENTITIES, TWINS, METHODS, CLOUD, HUB_CLIENT, OTHER_HEAD, "test")
        self.endpoints = tuple(endpoints)
        self.sessions = sessions or {}
        self.environment = environment
        self.connected = ConnectedClients(environment.max_connected_clients)
        self.ports = itertools.count(40_000)
        self.listener = MemoryListener()
        self.start(HEAD, self.build)
        self.answer_start()

    def build(self) -> MqttHead:
        self.listener = MemoryListener()
        return MqttHead(
            self.listener,
            EDGE,
            environment=self.environment,
            connected=self.connected,
        )

    def answer_start(self) -> None:
        """Answer what the head asks when it starts."""
        for letter in self.letters(STORE):
            if letter.kind == LoadSessions.__name__:
                self.tell(HEAD, Sessions(self.sessions), STORE, letter.correlation_id)
        assert [letter.kind for letter in self.letters(ROUTER)][-1] == ListEndpoints.__name__
        self.tell(HEAD, Endpoints(self.endpoints), ROUTER)

    def open(self, *packets: Packet, certificates: tuple[bytes, ...] = ()) -> MemoryClient:
        """Open a connection, with certificates in its handshake, and send packets on it."""
        client = MemoryClient(self.listener, next(self.ports))
        client.transport.certificates = certificates
        if packets:
            client.send(*packets)
        self.system.run()
        return client

    def send(self, client: MemoryClient, *packets: Packet) -> None:
        client.send(*packets)
        self.system.run()

    def asked(self, address: str) -> list[Envelope]:
        return self.letters(address)

    def judge(self, code: int = ACCEPTED, reason: str = "", ends_s: float | None = None) -> list[str]:
        """Answer every question to the identities; return who was asked about."""
        asked = [letter for letter in self.letters(IDENTITIES) if letter.kind == Authenticate.__name__]
        for letter in asked:
            self.tell(HEAD, Verdict(letter.body[0], code, reason, ends_s), IDENTITIES, letter.correlation_id)
        return [letter.body[0] for letter in asked]

    def connect(self, client_id: str = f"{EDGE}/sensor", **settings: object) -> MemoryClient:
        """Open a connection that is accepted; its CONNACK is taken out."""
        client = self.open(connect_packet(client_id, **settings))  # type: ignore[arg-type]
        self.judge()
        [connack] = client.received()
        assert connack.return_code == 0  # type: ignore[union-attr]
        return client

    def save_sessions(self) -> list[SaveSession]:
        """Confirm what the head wants saved."""
        saved = [letter for letter in self.letters(STORE) if letter.kind == SaveSession.__name__]
        for letter in saved:
            self.tell(HEAD, SessionSaved(letter.body[0]), STORE, letter.correlation_id)
        return [message_in(letter) for letter in saved]

    def subscribe(self, client: MemoryClient, topic_filter: str, qos: int = 1) -> list[Attach]:
        """Subscribe and have it saved; return what the head attached after that."""
        self.send(client, Subscribe(1, ((topic_filter, qos),)))
        self.save_sessions()
        assert client.received() == [SubAck(1, (qos,))]
        return self.told(STORE, Attach)

    def published(self) -> list[tuple[Envelope, Publish]]:
        """Return what was handed to the router, with the envelopes to answer."""
        letters = [letter for letter in self.letters(ROUTER) if letter.kind == Publish.__name__]
        return [(letter, message_in(letter)) for letter in letters]

    def messages(self) -> list[Message]:
        """Return the messages that were handed to the router."""
        return [
            decode_header(publish.headers[index], body)
            for _, publish in self.published()
            for index, body in publish.entries
        ]

    def store(self, *correlation_ids: int) -> None:
        self.tell(HEAD, Stored(tuple(correlation_ids)), STORE)

    def ready(self, attach: Attach, first: int, *bodies: bytes, header: bytes = HEADER) -> None:
        entries = tuple((0, body) for body in bodies)
        runs = ((first, (header,), entries),)
        self.tell(HEAD, Ready(attach.endpoint_id, attach.attachment, runs), STORE)


def publish_packet(packet_id: int, body: bytes = b"x", who: str = f"{EDGE}/sensor", bag: str = "") -> Packet:
    device, _, module = who.partition("/")
    middle = f"/modules/{module}" if module else ""
    topic = f"devices/{device}{middle}/messages/events/{bag}"
    return PublishPacket(topic, body, 1 if packet_id else 0, packet_id)
