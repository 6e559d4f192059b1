"""A blocking AMQP client on a real socket, with TLS; it can misbehave."""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

from messaging.amqp import cbs, codec
from messaging.amqp.codec import AmqpMessage, MessageId
from messaging.amqp.connection import Connection
from messaging.amqp.events import (
    CreditGranted,
    Ended,
    Event,
    LinkAttached,
    LinkDetached,
    Opened,
    Outcome,
    Received,
    Settled,
)
from messaging.amqp.link import Delivery, Link
from messaging.amqp.sasl import ClientSasl
from messaging.amqp.values import Described, ULong, encode_value
from messaging.identity import Identity
from tests.integration.hub_process import HubProcess

LIMIT_S = 20.0
READ_BYTES = 65_536

E = TypeVar("E")


class LinkRefused(Exception):
    """The hub ended a link; `condition` is the symbol."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(f"{condition}: {description}")
        self.condition = condition


def path_of(client_id: str) -> str:
    """Return what the addresses of an identity begin with."""
    identity = Identity.parse(client_id)
    module = f"/modules/{identity.module_id}" if identity.module_id else ""
    return f"/devices/{identity.device_id}{module}"


def frame(code: int, *fields: object, channel: int = 0, payload: bytes = b"", frame_type: int = 0) -> bytes:
    """Return a frame with a performative, legal or not. Source: AMQP 1.0 part 2.3."""
    body = encode_value(Described(ULong(code), list(fields))) + payload
    head = (len(body) + 8).to_bytes(4, "big") + bytes((2, frame_type)) + channel.to_bytes(2, "big")
    return head + body


OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)


class AmqpSocket:
    """One connection to a hub process."""

    def __init__(
        self,
        hub: HubProcess,
        *,
        sasl: ClientSasl | None = None,
        idle_timeout_s: float = 240.0,
        connect: bool = True,
    ) -> None:
        """Connect. `sasl` None skips SASL; `connect` False leaves everything behind TLS to the test."""
        self._hub = hub
        context = ssl.create_default_context(cafile=str(hub.ca_file))
        plain = socket.create_connection((hub.address, hub.amqp_port), timeout=LIMIT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = context.wrap_socket(plain, server_hostname="localhost")
        self.own_port = self.socket.getsockname()[1]
        self.engine = Connection(
            container_id=f"test-{self.own_port}",
            hostname="localhost",
            sasl=sasl,
            idle_timeout_s=idle_timeout_s,
        )
        self.events: list[Event] = []
        self.sent = b""  # all bytes
        self._names = itertools.count(1)
        self._cbs: tuple[Link, Link] | None = None
        if connect:
            self.engine.open()
            self.flush()
            self.wait_for(Opened)

    def __enter__(self) -> AmqpSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    # bytes

    def send_bytes(self, data: bytes) -> None:
        """Send what the engine knows nothing of."""
        self.socket.sendall(data)

    def flush(self) -> None:
        """Send what the engine has to say."""
        data = self.engine.data_to_send()
        self.sent += data
        if data:
            self.socket.sendall(data)

    def read(self, limit_s: float = LIMIT_S) -> list[Event]:
        """Wait for bytes, and return what they bring.

        Raises:
            TimeoutError: nothing came.
        """
        self.socket.settimeout(limit_s)
        try:
            data = self.socket.recv(READ_BYTES)
        except (ConnectionResetError, ssl.SSLEOFError):
            data = b""
        events = self.engine.receive_data(data)
        if not self.engine.ended:
            self.flush()
        return events

    def wait_for(
        self, kind: type[E], fits: Callable[[E], bool] = lambda event: True, limit_s: float = LIMIT_S
    ) -> E:
        """Return the first event of a kind, and keep all others.

        Raises:
            EOFError: the connection ended.
        """
        deadline_s = time.monotonic() + limit_s
        looked = 0
        while True:
            for at, event in enumerate(self.events[looked:], looked):
                if isinstance(event, kind) and fits(event):
                    del self.events[at]
                    return event
                if isinstance(event, Ended):
                    raise EOFError(f"{event.condition}: {event.description}")
            looked = len(self.events)
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"no {kind.__name__} within {limit_s:g} s; {self.events}"
            self.events += self.read(left_s)

    def end(self, limit_s: float = LIMIT_S) -> Ended:
        """Wait for the hub to end the connection."""
        return self.wait_for(Ended, limit_s=limit_s)

    # who we are

    def put_token(
        self,
        client_id: str,
        token: str | None = None,
        *,
        message_id: MessageId = "1",
        request: AmqpMessage | None = None,
    ) -> AmqpMessage:
        """Show a good token, or another one, or send another request; return the answer."""
        if self._cbs is None:
            sender = self.sender("$cbs")
            self._cbs = sender, self.receiver("$cbs")
        if request is None:
            audience = f"{self._hub.iothub}{path_of(client_id)}"
            request = cbs.put_token(audience, token or self._hub.token(client_id), message_id)
        sender, receiver = self._cbs
        sender.send(codec.encode(request), b"put", settled=False)
        self.flush()
        answer = self.wait_for(Received, lambda event: event.delivery.link is receiver).delivery
        answer.accept()
        receiver.grant(1)
        self.flush()
        return codec.decode(answer.data)

    def log_in(self, *client_ids: str) -> AmqpSocket:
        """Show good tokens, which have to be taken."""
        for client_id in client_ids:
            answer = self.put_token(client_id)
            assert answer.application_properties["status-code"] == 200, answer
        return self

    # links

    def sender(self, address: str, **settings: Any) -> Link:
        """Attach a link on which we send, and wait for credit.

        Raises:
            LinkRefused: the hub ended it.
        """
        link = self.engine.attach_sender(f"snd-{next(self._names)}", address, **settings)
        self._attached(link)
        while not link.credit:
            self._next_about(link, CreditGranted)
        return link

    def receiver(self, address: str, credit: int = 10, **settings: Any) -> Link:
        """Attach a link on which the hub sends.

        Raises:
            LinkRefused: the hub ended it.
        """
        link = self.engine.attach_receiver(f"rcv-{next(self._names)}", address, **settings)
        self._attached(link)
        link.grant(credit)
        self.flush()
        return link

    def _attached(self, link: Link) -> None:
        self.flush()
        self._next_about(link, LinkAttached)

    def _next_about(self, link: Link, kind: type) -> None:
        event = self.wait_for(
            Event,  # type: ignore[arg-type]
            lambda event: isinstance(event, (kind, LinkDetached)) and event.link is link,
        )
        if isinstance(event, LinkDetached):
            raise LinkRefused(event.condition, event.description)

    def detached(self, link: Link) -> LinkDetached:
        """Wait for the hub to end a link."""
        return self.wait_for(LinkDetached, lambda event: event.link is link)

    # messages

    def events_sender(self, client_id: str) -> Link:
        """Attach the link for messages to the hub."""
        return self.sender(f"{path_of(client_id)}/messages/events")

    def send(self, link: Link, message: AmqpMessage | bytes, **how: Any) -> Settled:
        """Send one message and return what became of it."""
        encoded = message if isinstance(message, bytes) else codec.encode(message)
        delivery = link.send(encoded, b"%d" % next(self._names), settled=False, **how)
        self.flush()
        return self.wait_for(Settled, lambda event: event.delivery is delivery)

    def send_ok(self, link: Link, body: bytes) -> None:
        """Send a message, which has to be taken."""
        settled = self.send(link, AmqpMessage(body=body))
        assert settled.outcome is Outcome.ACCEPTED, settled

    def receive(self, link: Link, limit_s: float = LIMIT_S) -> tuple[Delivery, AmqpMessage]:
        """Wait for the next message on a link."""
        delivery = self.wait_for(Received, lambda event: event.delivery.link is link, limit_s).delivery
        return delivery, codec.decode(delivery.data)

    def close(self) -> None:
        """Close in good order."""
        self.engine.close()
        self.flush()
        self.end()
