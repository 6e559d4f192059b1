"""The AMQP head in virtual time, real client ends of the engine, mailboxes for the actors around it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from actors.addresses import AMQP, HUB_CLIENT, IDENTITIES, METHODS, MQTT, ROUTER, STORE, TWINS, UPSTREAM
from actors.heads.amqp_head import AmqpHead
from actors.heads.connected_clients import ConnectedClients
from actors.hub.identity_messages import ACCEPTED, Authenticate, Verdict
from actors.hub.router import Endpoints, ListEndpoints, Publish
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.ports.connections import ConnectionHandler
from actors.store.messages import Attach, Ready, Stored
from messaging import sas
from messaging.amqp import cbs
from messaging.amqp.addresses import LinkKind, address_of, channel_id, link_properties
from messaging.amqp.codec import AmqpMessage, decode, encode
from messaging.amqp.connection import Connection
from messaging.amqp.events import Ended, Event, LinkAttached, LinkDetached, Received, Settled
from messaging.amqp.link import Delivery, Link, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import ClientSasl
from messaging.envelope import Envelope
from messaging.identity import Identity
from messaging.lifecycle import RequestFailed
from messaging.message import Message, decode_header, encode_header
from tests.actors.hub_world import World, message_in
from tests.fakes.transport import MemoryListener, MemoryTransport

HEAD, CLOUD, OTHER_HEAD = AMQP, UPSTREAM, MQTT
EDGE = "edge1"
SENSOR, LEAF = f"{EDGE}/sensor", "leaf"
HOST = "iothub.test"
KEY = b"k" * 32
HEADER = encode_header("/messages/modules/sensor/", {}, {})


def token_of(holder: str, expires_in_s: float, now_s: float) -> str:
    return sas.make_token(sas.audience_of(HOST, Identity.parse(holder)), KEY, int(now_s + expires_in_s))


class AmqpPeer:
    """An AMQP client at the other end of a MemoryTransport; it can misbehave."""

    def __init__(
        self,
        world: AmqpWorld,
        *,
        sasl: ClientSasl | None = None,
        certificates: tuple[bytes, ...] = (),
        port: int = 40_000,
    ) -> None:
        assert world.listener.handler is not None
        self.world = world
        self._handler: ConnectionHandler = world.listener.handler
        self.transport = MemoryTransport(f"127.0.0.1:{port}")
        self.transport.certificates = certificates
        self.engine = Connection(container_id="client", hostname=HOST, sasl=sasl)
        self.events: list[Event] = []
        self._known: Any = self._handler.connected(self.transport)
        self._names = itertools.count(1)
        self.cbs_sender: Link | None = None
        self.engine.open()
        self.go()

    def go(self) -> None:
        """Exchange bytes until neither side has anything to say."""
        for _ in range(1000):
            data = self.engine.data_to_send()
            if data:
                self._handler.received(self._known, data)
            self.world.system.run()
            answer = bytes(self.transport.written)
            self.transport.written.clear()
            if answer:
                self.events += self.engine.receive_data(answer)
            if not data and not answer:
                return
        raise AssertionError("client and head do not come to rest")

    def send_bytes(self, data: bytes) -> None:
        self._handler.received(self._known, data)
        self.go()

    def lose(self) -> None:
        """Go without a word."""
        self.transport.closed = True
        self._handler.disconnected(self._known, "connection lost")
        self.world.system.run()

    def stop_reading(self) -> None:
        self._handler.writing_paused(self._known)

    def read_again(self) -> None:
        self._handler.writing_resumed(self._known)
        self.go()

    def of(self, kind: type[Any]) -> list[Any]:
        """Return and forget the events of one kind."""
        self.go()
        found = [event for event in self.events if isinstance(event, kind)]
        self.events = [event for event in self.events if not isinstance(event, kind)]
        return found

    # tokens

    def put_token(self, holder: str, *, expires_in_s: float = 3600.0, **changes: Any) -> AmqpMessage:
        """Put a token and return the answer."""
        if self.cbs_sender is None:
            self.cbs_sender = self.engine.attach_sender("cbs-sender", "$cbs")
            self.engine.attach_receiver("cbs-receiver", "$cbs").grant(1000)
            self.go()
            self.of(LinkAttached)
        token = token_of(holder, expires_in_s, self.world.clock.now_s())
        request = cbs.put_token(f"{HOST}/devices/{holder}", token, changes.pop("message_id", "1"))
        for name, value in changes.items():
            setattr(request, name, value)
        self.cbs_sender.send(encode(request), b"t%d" % next(self._names), settled=False)
        [answer] = self.of(Received)
        self.of(Settled)
        return decode(answer.delivery.data)

    # links

    def attach(
        self,
        kind: LinkKind,
        holder: str = SENSOR,
        *,
        channel: str = "c",
        credit: int = 100,
        address: str = "",
        properties: Mapping[str, object] | None = None,
        rcv_settle_mode: RcvSettleMode = RcvSettleMode.FIRST,
        snd_settle_mode: SndSettleMode = SndSettleMode.MIXED,
    ) -> Link:
        """Ask for a link; whether it is attached or not is in the events."""
        address = address or address_of(kind, Identity.parse(holder))
        told = link_properties(kind, "test", channel=channel) | dict(properties or {})
        name = f"link-{next(self._names)}"
        if kind in (LinkKind.EVENTS, LinkKind.TWIN_REQUESTS, LinkKind.METHOD_RESPONSES):
            link = self.engine.attach_sender(
                name,
                address,
                properties=told,
                snd_settle_mode=snd_settle_mode,
                rcv_settle_mode=rcv_settle_mode,
            )
        else:
            link = self.engine.attach_receiver(
                name,
                address,
                properties=told,
                snd_settle_mode=snd_settle_mode,
                rcv_settle_mode=rcv_settle_mode,
            )
            if credit:
                link.grant(credit)
        self.go()
        return link

    def send(
        self, link: Link, *messages: AmqpMessage, settled: bool = False, message_format: int = 0
    ) -> list[Delivery]:
        """Send messages in one read of the hub."""
        deliveries = [
            link.send(
                encode(message), b"d%d" % next(self._names), settled=settled, message_format=message_format
            )
            for message in messages
        ]
        self.go()
        return deliveries

    def outcomes(self) -> list[tuple[str, str]]:
        """Return and forget what was answered to messages: outcome and condition."""
        return [(event.outcome.value, event.condition) for event in self.of(Settled)]

    def received(self) -> list[tuple[Delivery, AmqpMessage]]:
        """Return and forget the messages that came."""
        return [(event.delivery, decode(event.delivery.data)) for event in self.of(Received)]

    def detached(self) -> list[tuple[str, str]]:
        """Return and forget which links were ended: address and condition."""
        return [(event.link.address, event.condition) for event in self.of(LinkDetached)]

    def ended(self) -> Ended | None:
        """Return how the connection has ended."""
        found = self.of(Ended)
        return found[0] if found else None

    @property
    def closed(self) -> bool:
        return self.transport.closed


class AmqpWorld(World):
    def __init__(
        self,
        endpoints: Sequence[tuple[str, str, str]] = (),
        environment: HubEnvironment = DEFAULTS,
    ) -> None:
        super().__init__(STORE, ROUTER, IDENTITIES, TWINS, METHODS, CLOUD, HUB_CLIENT, OTHER_HEAD, "test")
        self.endpoints = tuple(endpoints)
        self.environment = environment
        self.connected = ConnectedClients(environment.max_connected_clients)
        self.ports = itertools.count(40_000)
        self.listener = MemoryListener()
        self.start(HEAD, self.build)
        self.answer_start()

    def build(self) -> AmqpHead:
        self.listener = MemoryListener()
        return AmqpHead(
            self.listener,
            EDGE,
            environment=self.environment,
            connected=self.connected,
        )

    def answer_start(self) -> None:
        """Answer what the head asks when it starts."""
        self.letters(STORE)
        assert [letter.kind for letter in self.letters(ROUTER)][-1] == ListEndpoints.__name__
        self.tell(HEAD, Endpoints(self.endpoints), ROUTER)

    def open(self, **settings: Any) -> AmqpPeer:
        """Open a connection."""
        return AmqpPeer(self, port=next(self.ports), **settings)

    def questions(self) -> list[Envelope]:
        """Return and forget what the identities were asked."""
        return [letter for letter in self.letters(IDENTITIES) if letter.kind == Authenticate.__name__]

    def judge(self, code: int = ACCEPTED, reason: str = "", ends_s: float | None = None) -> list[str]:
        """Answer every question to the identities; return who was asked about."""
        asked = self.questions()
        for letter in asked:
            self.tell(HEAD, Verdict(letter.body[0], code, reason, ends_s), IDENTITIES, letter.correlation_id)
        return [letter.body[0] for letter in asked]

    def connect(self, holder: str = SENSOR, **settings: Any) -> AmqpPeer:
        """Open a connection on which an identity has put its token, which is accepted."""
        peer = self.open(**settings)
        assert peer.put_token(holder).application_properties["status-code"] == 200
        self.judge()
        return peer

    def link(self, peer: AmqpPeer, kind: LinkKind, holder: str = SENSOR, **settings: Any) -> Link:
        """Attach a link, which is accepted."""
        link = peer.attach(kind, holder, **settings)
        self.judge()
        assert [event.link for event in peer.of(LinkAttached)] == [link]
        return link

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

    def refuse(self, correlation_id: int, reason: str = "the disk is full") -> None:
        self.tell(HEAD, RequestFailed("Append", STORE, reason), STORE, correlation_id)

    def ready(self, attach: Attach, first: int, *bodies: bytes, header: bytes = HEADER) -> None:
        entries = tuple((0, body) for body in bodies)
        runs = ((first, (header,), entries),)
        self.tell(HEAD, Ready(attach.endpoint_id, attach.attachment, runs), STORE)


def text(body: str, **properties: object) -> AmqpMessage:
    return AmqpMessage(body=body.encode(), application_properties=dict(properties))


CHANNEL = channel_id
