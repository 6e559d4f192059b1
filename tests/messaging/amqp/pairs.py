"""A client's and a server's connection whose bytes go from one to the other, in pieces of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from messaging.amqp.connection import Connection
from messaging.amqp.events import Event, LinkAttached, Received
from messaging.amqp.link import Delivery, Link, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import ClientSasl, ServerSasl

EventT = TypeVar("EventT", bound=Event)


class Pair:
    """Both ends. `piece_bytes` cuts what they write: 0 leaves it whole."""

    def __init__(
        self,
        client_sasl: ClientSasl | None = None,
        *,
        piece_bytes: int = 0,
        idle_timeout_s: float = 240.0,
        max_frame_bytes: int = 65_536,
    ) -> None:
        self.client = Connection(
            container_id="client",
            hostname="hub",
            sasl=client_sasl,
            idle_timeout_s=idle_timeout_s,
            max_frame_bytes=max_frame_bytes,
        )
        self.server = Connection(container_id="server", sasl=ServerSasl(), max_frame_bytes=max_frame_bytes)
        self._piece_bytes = piece_bytes
        self.at_client: list[Event] = []
        self.at_server: list[Event] = []

    def exchange(self) -> None:
        """Carry bytes both ways until nobody has any."""
        while True:
            to_server, to_client = self.client.data_to_send(), self.server.data_to_send()
            if not to_server and not to_client:
                return
            for piece in self._cut(to_server):
                self.at_server += self.server.receive_data(piece)
            for piece in self._cut(to_client):
                self.at_client += self.client.receive_data(piece)

    def _cut(self, data: bytes) -> list[bytes]:
        size = self._piece_bytes or len(data) or 1
        return [data[start : start + size] for start in range(0, len(data), size)]

    def seen_by_client(self, kind: type[EventT]) -> list[EventT]:
        """Exchange, and return the client's events of this kind since the last time."""
        self.exchange()
        seen = [event for event in self.at_client if isinstance(event, kind)]
        self.at_client.clear()
        return seen

    def seen_by_server(self, kind: type[EventT]) -> list[EventT]:
        """Exchange, and return the server's events of this kind since the last time."""
        self.exchange()
        seen = [event for event in self.at_server if isinstance(event, kind)]
        self.at_server.clear()
        return seen

    def opened(self) -> Pair:
        """Both ends are open."""
        self.client.open()
        self.exchange()
        self.server.open()
        self.exchange()
        return self

    def client_sends(
        self,
        credit: int = 100,
        *,
        name: str = "up",
        properties: Mapping[str, object] | None = None,
        rcv_settle_mode: RcvSettleMode = RcvSettleMode.FIRST,
        max_message_bytes: int = 1_048_576,
    ) -> tuple[Link, Link]:
        """Return both ends of a link on which the client sends: the client's and the server's."""
        ours = self.client.attach_sender(
            name, "/events", properties=properties, rcv_settle_mode=rcv_settle_mode
        )
        theirs = self.seen_by_server(LinkAttached)[-1].link
        theirs.accept(max_message_bytes=max_message_bytes)
        theirs.grant(credit)
        self.exchange()
        return ours, theirs

    def server_sends(
        self,
        credit: int = 100,
        *,
        name: str = "down",
        snd_settle_mode: SndSettleMode = SndSettleMode.MIXED,
        rcv_settle_mode: RcvSettleMode = RcvSettleMode.FIRST,
        max_message_bytes: int = 1_048_576,
    ) -> tuple[Link, Link]:
        """Return both ends of a link on which the server sends: the client's and the server's."""
        ours = self.client.attach_receiver(
            name,
            "/devicebound",
            snd_settle_mode=snd_settle_mode,
            rcv_settle_mode=rcv_settle_mode,
            max_message_bytes=max_message_bytes,
        )
        ours.grant(credit)
        theirs = self.seen_by_server(LinkAttached)[-1].link
        theirs.accept()
        self.exchange()
        return ours, theirs

    def received_by_server(self) -> list[Delivery]:
        return [event.delivery for event in self.seen_by_server(Received)]

    def received_by_client(self) -> list[Delivery]:
        return [event.delivery for event in self.seen_by_client(Received)]
