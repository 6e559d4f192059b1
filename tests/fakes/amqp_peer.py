"""An IoT Hub over AMQP that does what a test wants, right or wrong: our engine's server end behind TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from messaging.amqp import cbs
from messaging.amqp.codec import BATCH_FORMAT, decode, encode, split_batch
from messaging.amqp.connection import Connection
from messaging.amqp.events import Ended, Event, LinkAttached, LinkDetached, Opened, Received, SaslDone
from messaging.amqp.link import Delivery, Link
from messaging.amqp.sasl import ServerSasl

Decide = Callable[["AmqpPeer", Delivery], None]


def accept(peer: AmqpPeer, delivery: Delivery) -> None:
    """Take what was sent."""
    delivery.accept()


class AmqpPeer:
    """`with AmqpPeer(place, chain, decide) as peer`. One connection at a time.

    Attributes:
        decide: What becomes of a transfer to a link for telemetry.
        transfers: The bodies of each, in order.
        tokens: Audiences shown, in order.
        statuses: With which tokens are answered, in turn; then 200.
        refusals: By the end of an address: with which condition its link is refused.
        credit: That a link for telemetry gets.
        answers: Whether it says anything at all.
    """

    def __init__(self, place: tuple[str, int], chain: Path, decide: Decide = accept) -> None:
        self.decide = decide
        self.transfers: list[list[bytes]] = []
        self.tokens: list[str] = []
        self.statuses: list[int] = []
        self.refusals: dict[str, str] = {}
        self.credit = 100
        self.answers = True
        self.links: dict[str, Link] = {}  # of clients that send, by address
        self.detached: list[str] = []
        self.accepted = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(chain)
        self._listening = socket.create_server(place)
        self._thread = threading.Thread(target=self._serve, name="amqp-peer", daemon=True)
        self._does: list[Callable[[], None]] = []
        self._engine: Connection | None = None
        self._replies: Link | None = None
        self._words = b""

    def __enter__(self) -> AmqpPeer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def do(self, work: Callable[[], None]) -> None:
        """Do something in the thread of the connection, at once."""
        done = threading.Event()
        self._does.append(lambda: (work(), done.set())[0])
        assert done.wait(10)

    def close(self, condition: str, description: str = "") -> None:
        """End the connection with an error."""
        assert self._engine is not None
        self._engine.close(condition, description)

    def say(self, data: bytes) -> None:
        """Send what the engine would not."""
        self._words = data

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            with accepted:
                try:
                    with self._context.wrap_socket(accepted, server_side=True) as secured:
                        self._speak(secured)
                except OSError:
                    pass  # the client has gone

    def _speak(self, secured: ssl.SSLSocket) -> None:
        self._engine = engine = Connection(container_id="peer", sasl=ServerSasl())
        secured.settimeout(0.02)
        while not engine.ended:
            while self._does:
                self._does.pop(0)()
            engine.tick(time.monotonic())
            data = engine.data_to_send()
            data, self._words = data + self._words, b""
            if data and self.answers:
                secured.sendall(data)
            try:
                came = secured.recv(65536)
            except TimeoutError:
                continue
            for event in engine.receive_data(came):
                self._handle(engine, event)
        secured.sendall(engine.data_to_send())

    def _handle(self, engine: Connection, event: Event) -> None:
        match event:
            case SaslDone():
                engine.sasl_outcome(True)
            case Opened():
                engine.open()
            case LinkAttached(link):
                self._attach(link)
            case LinkDetached(link):
                self.detached.append(link.address)
            case Received(delivery):
                self._receive(delivery)
            case Ended():
                pass

    def _attach(self, link: Link) -> None:
        for end, condition in self.refusals.items():
            if link.address.endswith(end):
                link.refuse(condition, "as the test wants it")
                return
        link.accept()
        if link.is_sender:
            self._replies = link if link.address == "$cbs" else self._replies
        else:
            link.grant(100 if link.address == "$cbs" else self.credit)
            self.links[link.address] = link

    def _receive(self, delivery: Delivery) -> None:
        if delivery.link.address == "$cbs":
            request = decode(delivery.data)
            delivery.accept()
            self.tokens.append(str(request.application_properties["name"]))
            status = self.statuses.pop(0) if self.statuses else 200
            assert self._replies is not None
            reply = encode(cbs.answer(request, status, "as the test wants it"))
            self._replies.send(reply, b"%d" % len(self.tokens), settled=True)
            return
        is_batch = delivery.message_format == BATCH_FORMAT
        parts = split_batch(delivery.data) if is_batch else [delivery.data]
        self.transfers.append([decode(part).body for part in parts])
        self.decide(self, delivery)
