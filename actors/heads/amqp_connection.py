"""One AMQP connection of the hub, and the clients on it: several identities may share one.

Plain state around the engine; the head and its parts decide.
"""

from __future__ import annotations

import uuid
from collections import deque
from typing import Final

from actors.heads.amqp_links import ClientLink, EventsLink, MessageLink
from actors.ports.connections import Transport
from messaging.amqp.addresses import DeviceLink, LinkKind, LinkProperties
from messaging.amqp.cbs import Tokens
from messaging.amqp.codec import AmqpMessage, encode
from messaging.amqp.connection import Connection
from messaging.amqp.events import Event, Settled
from messaging.amqp.link import Delivery, Link
from messaging.amqp.sasl import ServerSasl
from messaging.errors import LocalProtocolError
from messaging.identity import Identity

UNREAD: Final = "unread"  # why a socket is not read: the client does not read what it is sent
IDLE_TIMEOUT_S: Final = 240.0
LONGEST_TICK_S: Final = 30.0
MOST_CBS_ANSWERS: Final = 100  # without credit for them
CBS_CREDIT: Final = 100


class AmqpConnection:
    """From the accepted socket to its end."""

    def __init__(self, number: int, transport: Transport, now_s: float) -> None:
        self.number = number
        self.transport = transport
        self.engine = Connection(
            container_id=f"DeviceGateway_{uuid.uuid4()}", sasl=ServerSasl(), idle_timeout_s=IDLE_TIMEOUT_S
        )
        self.opened_at_s = now_s
        self.seen_at_s = now_s
        self.tick_due_s = now_s  # monotonic
        self.closed = False  # nothing is handled any more
        self.closes_at_s = 0.0  # monotonic: we have said Close, and wait no longer for the client's
        self.is_known = False  # somebody has proved on it who he is
        self.linkless_since_s: float | None = None  # when its last client has ended its last link (monotonic)
        self.stranger_bytes = 0  # that came before
        self.stranger_since_s = now_s  # since when nobody looks into who it is
        self.questions = 0  # to the identities that are open
        self.tokens = Tokens()
        self.clients: dict[str, AmqpClient] = {}
        self.write_paused_at_s = 0.0
        self.events_links: set[EventsLink] = set()  # that have brought something in this read
        self.outcomes: dict[MessageLink, list[Settled]] = {}  # of messages of ours, in this read
        self._holds: set[str] = set()  # why its socket is not read
        self._cbs_receiver: Link | None = None  # on which it sends tokens
        self._cbs_sender: Link | None = None  # on which it is answered
        self._cbs_answers: deque[bytes] = deque()
        self._cbs_tags = 0

    @property
    def is_unread(self) -> bool:
        """Whether the client does not read."""
        return UNREAD in self._holds

    def hold(self, reason: str) -> None:
        """Stop reading the socket, for this reason too."""
        if not self._holds and not self.closed:
            self.transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        """Read the socket again, when this was the last reason not to."""
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds and not self.closed:
                self.transport.resume_reading()

    def pause(self, now_s: float) -> None:
        """The client does not read."""
        self.write_paused_at_s = now_s
        self.hold(UNREAD)

    def go_on(self) -> None:
        """It reads again."""
        self.release(UNREAD)

    def known(self) -> None:
        """Somebody has proved who he is."""
        if not self.is_known:
            self.is_known = True
            self.transport.authenticated()

    def tick(self, now_s: float) -> list[Event]:
        """Let the engine do what the time asks for.

        It hears of silence by comparing with what it saw at the tick before, so these must not be far apart.
        """
        events, due_s = self.engine.tick(now_s)
        self.tick_due_s = now_s + LONGEST_TICK_S if due_s is None else min(due_s, now_s + LONGEST_TICK_S)
        return events

    def accept_first(self, delivery: Delivery) -> None:
        """Accept a request, and have that written before whatever answers it.

        The C engine of the SDKs takes an answer that comes before its request was accepted for a failure.
        """
        if not delivery.settled:
            delivery.accept()
            self.flush()

    def flush(self) -> None:
        """Write what the engine has to say."""
        data = self.engine.data_to_send()
        if data:
            self.transport.write(data)

    # tokens

    def attach_cbs(self, link: Link) -> None:
        """Accept a link of `$cbs`; a second one of the same direction takes the place of the first."""
        link.accept()
        if link.is_sender:
            if self._cbs_sender is not None:
                self._cbs_sender.detach()
            self._cbs_sender = link
            self.pump_cbs()
        else:
            if self._cbs_receiver is not None:
                self._cbs_receiver.detach()
            self._cbs_receiver = link
            link.grant(CBS_CREDIT)

    def is_cbs(self, link: Link) -> bool:
        """Say whether a link is one of `$cbs`."""
        return link is self._cbs_receiver or link is self._cbs_sender

    def detached_cbs(self, link: Link) -> None:
        """The client has ended one of them."""
        if link is self._cbs_receiver:
            self._cbs_receiver = None
        elif link is self._cbs_sender:
            self._cbs_sender = None

    def answer_cbs(self, answer: AmqpMessage) -> None:
        """Send the answer to a token as soon as there is a link and credit for it."""
        if len(self._cbs_answers) < MOST_CBS_ANSWERS:
            self._cbs_answers.append(encode(answer))
        self.pump_cbs()
        self.cbs_done()

    def cbs_done(self) -> None:
        """A token has its answer: another one may come."""
        if self._cbs_receiver is not None:
            self._cbs_receiver.grant(1)

    def pump_cbs(self) -> None:
        """Send the answers for which there is credit."""
        link = self._cbs_sender
        while link is not None and self._cbs_answers and link.credit > 0:
            self._cbs_tags += 1
            try:
                link.send(self._cbs_answers.popleft(), self._cbs_tags.to_bytes(4, "big"), settled=True)
            except LocalProtocolError:
                continue  # longer than the client takes


class AmqpClient:
    """One identity on a connection."""

    def __init__(self, connection: AmqpConnection, identity: Identity) -> None:
        self.connection = connection
        self.identity = identity
        self.client_id = identity.id
        self.model_id = ""
        self.features: tuple[str, ...] | None = None  # what the services were told that it wants
        self.is_connected = False
        self.is_gone = False
        self.ends_s: float | None = None  # when its proof expires, since 1970-01-01 UTC
        self.auth_chain: tuple[str, ...] = ()
        self.is_asked_about = False
        self.attaching: list[tuple[Link, DeviceLink, LinkProperties]] = []  # until it has proved itself
        self.links: dict[LinkKind, ClientLink] = {}
