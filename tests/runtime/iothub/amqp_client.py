"""An AMQP client of the stand-in without a socket: our engine at the other end of a transport in memory."""

from __future__ import annotations

import itertools
from typing import Any, Final, TypeVar

from messaging import sas
from messaging.amqp import cbs, codec
from messaging.amqp.addresses import LinkKind, address_of, link_properties
from messaging.amqp.codec import AmqpMessage, MessageId
from messaging.amqp.connection import Connection
from messaging.amqp.events import (
    CreditGranted,
    Ended,
    Event,
    LinkAttached,
    LinkDetached,
    Opened,
    Received,
    Settled,
)
from messaging.amqp.link import Delivery, Link, RcvSettleMode
from messaging.amqp.sasl import ClientSasl
from messaging.identity import Identity
from tests.fakes.transport import MemoryTransport
from tests.runtime.iothub.mqtt_scene import HOST, Scene

CREDIT: Final = 100
_RECEIVES: Final = (LinkKind.INPUTS, LinkKind.C2D, LinkKind.METHOD_CALLS, LinkKind.TWIN_ANSWERS)
MOST_ROUNDS = 1000
QUIET_ROUNDS = 5  # what a client says may take so many jobs of the database, one after the other

E = TypeVar("E", bound=Event)


class AmqpClient:
    """One connection of a scene. What is waited for is taken out of the events so far, others stay."""

    def __init__(
        self,
        scene: Scene,
        sasl: ClientSasl | None = ClientSasl("MSSBCBS"),  # noqa: B008 - a value
        certificates: tuple[bytes, ...] = (),
    ) -> None:
        self.scene = scene
        self.transport = MemoryTransport(f"127.0.0.1:{scene.port()}")
        self.transport.certificates = certificates
        self.engine = Connection(container_id="client", hostname=HOST, sasl=sasl)
        self.events: list[Event] = []
        self._tags = itertools.count(1)
        self.known: Any = None
        scene.do(self._connect)
        self.engine.open()
        self._cbs: tuple[Link, Link] | None = None

    def _connect(self) -> None:
        self.known = self.scene.amqp_server.connected(self.transport)

    # bytes

    def exchange(self) -> bool:
        """Send what is to be sent, and take what came; returns whether there was anything."""
        data = self.engine.data_to_send()
        if data and not self.transport.closed:
            self.send_bytes(data)
        written = bytes(self.transport.written)
        self.transport.written.clear()
        if written:
            self.events += self.engine.receive_data(written)
        return bool(data or written)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes."""
        self.scene.do(self.scene.amqp_server.received, self.known, data)

    def lose(self) -> None:
        """Go without a word."""
        self.scene.do(self.scene.amqp_server.disconnected, self.known, "connection lost")

    # events

    def wait(self, kind: type[E], of: Link | Delivery | None = None) -> E:
        """Return the next event of a kind, of this link or delivery."""
        found: list[E] = []

        def came() -> bool:
            self.exchange()
            for event in self.events:
                if isinstance(event, kind) and (of is None or of in event):
                    self.events.remove(event)
                    found.append(event)
                    return True
            return False

        self.scene.wait(came, f"{kind.__name__}, there is {self.events}")
        return found[0]

    def rest(self) -> None:
        """Let both sides do what they have to do until nothing moves."""
        quiet_rounds = 0
        for _ in range(MOST_ROUNDS):
            quiet_rounds = 0 if self.exchange() else quiet_rounds + 1
            if quiet_rounds == QUIET_ROUNDS:
                return
            self.scene.settle()
        raise AssertionError(f"it never rests: {self.events[-5:]}")

    # tokens and links

    def opened(self) -> AmqpClient:
        """Wait for the hub's Open."""
        self.wait(Opened)
        return self

    def put_token(self, client_id: str, token: str | None = None, message_id: MessageId = "1") -> int:
        """Show the token of an identity, and return the status."""
        shown = self.scene.token(client_id) if token is None else token
        audience = sas.audience_of(HOST, Identity.parse(client_id))
        return self.ask_cbs(cbs.put_token(audience, shown, message_id)).status

    @property
    def cbs(self) -> tuple[Link, Link]:
        """The links of `$cbs`, attached."""
        if self._cbs is None:
            self._cbs = (
                self.engine.attach_sender("cbs-s", "$cbs"),
                self.engine.attach_receiver("cbs-r", "$cbs"),
            )
            for link in self._cbs:
                self.wait(LinkAttached, link)
            self._cbs[1].grant(CREDIT)
        return self._cbs

    def ask_cbs(self, request: AmqpMessage) -> cbs.CbsAnswer:
        """Send a request to `$cbs`, and return the answer."""
        sender, receiver = self.cbs
        self.send(sender, request)
        return cbs.parse_answer(self.receive(receiver))

    def attach(self, kind: LinkKind, client_id: str, *, credit: int = CREDIT, **asked: Any) -> Link:
        """Attach a link that has to be accepted; arguments as `ask`."""
        link = self.ask(kind, client_id, **asked)
        self.wait(LinkAttached, link)
        if kind in _RECEIVES:
            link.grant(credit)
        elif not link.credit:
            self.wait(CreditGranted, link)
        return link

    def ask(
        self,
        kind: LinkKind,
        client_id: str,
        *,
        channel: str = "",
        chain: tuple[str, ...] = (),
        address: str = "",
        rcv_settle_mode: RcvSettleMode = RcvSettleMode.FIRST,
    ) -> Link:
        """Ask for a link."""
        properties = link_properties(kind, "test", channel=channel, auth_chain=chain)
        address = address or address_of(kind, Identity.parse(client_id))
        name = f"{kind.name}-{next(self._tags)}"
        if kind in _RECEIVES:
            return self.engine.attach_receiver(
                name, address, properties=properties, rcv_settle_mode=rcv_settle_mode
            )
        return self.engine.attach_sender(name, address, properties=properties)

    def refused(self, link: Link) -> tuple[str, str]:
        """Wait for the end of a link, and return condition and description."""
        end = self.wait(LinkDetached, link)
        return end.condition, end.description

    # messages

    def start(
        self, link: Link, message: AmqpMessage | bytes, *, settled: bool = False, message_format: int = 0
    ) -> Delivery:
        """Send a message, and do not wait."""
        encoded = message if isinstance(message, bytes) else codec.encode(message)
        tag = next(self._tags).to_bytes(4, "big")
        return link.send(encoded, tag, settled=settled, message_format=message_format)

    def send(self, link: Link, message: AmqpMessage | bytes, *, message_format: int = 0) -> Settled:
        """Send a message, and return what became of it."""
        if not link.credit:
            self.wait(CreditGranted, link)
        return self.wait(Settled, self.start(link, message, message_format=message_format))

    def take(self, link: Link) -> Delivery:
        """Return the next delivery on a link, and decide nothing."""
        found: list[Delivery] = []

        def came() -> bool:
            self.exchange()
            for event in self.events:
                if isinstance(event, Received) and event.delivery.link is link:
                    self.events.remove(event)
                    found.append(event.delivery)
                    return True
            return False

        self.scene.wait(came, "a message")
        return found[0]

    def receive(self, link: Link) -> AmqpMessage:
        """Return the next message on a link, and accept it."""
        delivery = self.take(link)
        delivery.accept()
        return codec.decode(delivery.data)

    def received(self, link: Link) -> list[Delivery]:
        """Return what came on a link by now."""
        self.rest()
        found = [
            event.delivery
            for event in self.events
            if isinstance(event, Received) and event.delivery.link is link
        ]
        self.events = [
            event
            for event in self.events
            if not (isinstance(event, Received) and event.delivery.link is link)
        ]
        return found

    def wait_for_end(self) -> Ended:
        """Wait until the hub closes the connection."""

        def closed() -> bool:
            self.exchange()
            return self.transport.closed

        self.scene.wait(closed, "the end of the connection")
        return self.wait(Ended)


def connect(scene: Scene, *client_ids: str) -> AmqpClient:
    """Return a client that has shown the tokens of these identities."""
    client = AmqpClient(scene).opened()
    for client_id in client_ids:
        assert client.put_token(client_id) == 200
    return client
