"""One AMQP connection of the stand-in: SASL, and which link is whose.

A connection belongs to nobody: each link of it is a device's or module's (devices.py) or a service's, by its
address, and is served when the tokens of the connection allow it. Tokens and attaches are handled in the
order in which they came, so that a client need not wait for the answer to one before the other.

Source: spec sheet hub-protocols.md sections 3.1 to 3.5
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from actors.ports.connections import Transport
from messaging.amqp import cbs
from messaging.amqp.addresses import ServiceLink, is_cbs, parse_address, parse_service_address
from messaging.amqp.cbs import PutToken
from messaging.amqp.conditions import (
    CONNECTION_FORCED,
    INTERNAL_ERROR,
    UNAUTHORIZED_ACCESS,
    Refusal,
    refusal_of,
)
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
    SaslDone,
    Settled,
)
from messaging.amqp.link import Delivery, Link
from messaging.amqp.sasl import ServerSasl
from messaging.clock import Clock
from messaging.errors import EdgeError
from messaging.sas import parse_token
from runtime.iothub.amqp.cbs import CbsNode
from runtime.iothub.amqp.devices import DeviceLinks
from runtime.iothub.amqp.tokens import ShownTokens
from runtime.iothub.credit import Credit
from runtime.iothub.hub import IotHub

log = logging.getLogger(__name__)

STRANGER_LIMIT_S: Final = 30.0  # from the TLS handshake, or the end of the last token, to one that counts
UNREAD_LIMIT_S: Final = 240.0  # a client that reads nothing for so long is gone
MOST_WAITING: Final = 100  # tokens and attaches; beyond, the client is not read
MOST_UNSENT_BYTES: Final = 16 * 1024 * 1024  # for a client that does not read; beyond, it is cut off

# Why a socket is not read, besides credit.
_UNREAD: Final = "unread"
_WAITING: Final = "waiting"


class LinkOwner(Protocol):
    """Who serves a link that was accepted; it is the `context` of the link. Nothing here may raise."""

    def received(self, delivery: Delivery) -> None:
        """A message came. What is done with all of one read: `AmqpConnection.after_read`."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """What was sent unsettled has its outcome; see the event `Settled`."""

    def credited(self, link: Link) -> None:
        """There is credit, and room: see `link.credit`, `link.drain` and `AmqpConnection.is_writable`."""

    def detached(self, link: Link) -> None:
        """The client ended the link, or the connection has ended."""


class ServiceLinks(Protocol):
    """The links of services on one connection."""

    async def attach(self, link: Link, asked: ServiceLink) -> Refusal | None:
        """Accept a link, and make somebody the owner of it (`AmqpConnection.accepted`); or say why not."""

    def look(self) -> None:
        """Do what is due by the clock: called each second."""


MakeServiceLinks = Callable[["AmqpConnection"], ServiceLinks]


class AmqpConnection:
    """One connection, from accept to its end."""

    def __init__(
        self,
        hub: IotHub,
        clock: Clock,
        credit: Credit,
        transport: Transport,
        services: MakeServiceLinks,
        ended: Callable[[AmqpConnection], None],
    ) -> None:
        self.hub = hub
        self.clock = clock
        self.tokens = ShownTokens(hub)
        self.unanswered_bytes = 0
        self._credit = credit
        self._transport = transport
        self._ended = ended
        self._engine = Connection(
            container_id=f"DeviceGateway_{uuid.uuid4()}", sasl=ServerSasl(), all_fields=True
        )
        self._proven_at_s = clock.monotonic_s()
        self._closed = False
        self._links: set[Link] = set()  # those that were accepted
        self._cbs = CbsNode(self)
        self._devices = DeviceLinks(self)
        self._services = services(self)
        self._waiting: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()  # the first is being served
        self._after_read: list[Callable[[], None]] = []
        self._holds: set[str] = set()  # why its socket is not read
        self._write_paused_at_s = 0.0
        self._flushes = False  # a flush is due
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine.tick(clock.monotonic_s())

    # what the listener says

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._closed:
            return
        self._handle(self._engine.receive_data(data))
        self._flush()

    def writing_paused(self) -> None:
        """The client does not read. Nor is it read then: it might be answered."""
        self._write_paused_at_s = self.clock.monotonic_s()
        self.hold(_UNREAD)

    def writing_resumed(self) -> None:
        """The client reads again."""
        self.release(_UNREAD)
        for link in [link for link in self._links if link.is_sender and link.credit > 0]:
            link.context.credited(link)
        self._flush()

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._finish(reason, logging.INFO)

    # time

    def look(self) -> None:
        """Do what is due by the clock: heart-beats, tokens that expired, clients that are late or stuck."""
        events, _ = self._engine.tick(self.clock.monotonic_s())
        self._handle(events)
        if self._closed:
            return
        self._devices.look()
        self._services.look()
        now_s = self.clock.monotonic_s()
        if self._devices.any or self.tokens.any_valid(self.clock.now_s()):
            self._proven_at_s = now_s
        if now_s - self._proven_at_s > STRANGER_LIMIT_S:
            self.end(UNAUTHORIZED_ACCESS, f"nobody has proven who they are for {STRANGER_LIMIT_S:.0f} s")
        elif _UNREAD in self._holds and now_s - self._write_paused_at_s > UNREAD_LIMIT_S:
            self._finish(f"reads too slowly: {self._transport.unsent_bytes} bytes wait", logging.WARNING)
        self._flush()

    # for who serves links

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """What the client showed in the TLS handshake, its own certificate first, as DER."""
        return self._transport.certificates

    @property
    def peer(self) -> str:
        """Address and port, for logs."""
        return self._transport.peer

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return not self._closed

    @property
    def is_writable(self) -> bool:
        """Whether the client reads what it is sent; what is not owed to it has to wait otherwise."""
        return not self._closed and _UNREAD not in self._holds

    def accepted(self, link: Link, owner: LinkOwner) -> None:
        """Say who serves a link that was accepted just now."""
        link.context = owner
        self._links.add(link)

    def authenticated(self) -> None:
        """The client has proven something: it is no stranger any more."""
        self._transport.authenticated()

    def proven(self, holder: str) -> None:
        """A token of a holder is genuine: what it let in before may stay as long as it counts."""
        self.authenticated()
        self._devices.renewed(holder)

    def detach(self, link: Link, refusal: Refusal) -> None:
        """End a link with an error; its owner knows."""
        link.detach(refusal.condition, refusal.description)
        self._links.discard(link)
        self.flush_soon()

    def flush_soon(self) -> None:
        """Write what the engine has to send, once for all that is done in this turn of the loop."""
        if not self._flushes and not self._closed:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush)

    def after_read(self, action: Callable[[], None]) -> None:
        """Do something when all events of this read were handled."""
        self._after_read.append(action)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; when that fails, the connection ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def take(self, size_bytes: int) -> None:
        """So much more of this client is on its way to the disk."""
        if not self._closed:
            self.unanswered_bytes += size_bytes
            self._credit.take(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """So much of it has arrived there."""
        if not self._closed:  # else it was given back with all that was under way
            self.unanswered_bytes -= size_bytes
            self._credit.give_back(size_bytes)

    def hold(self, reason: str) -> None:
        """Stop reading the socket, for this reason too."""
        if not self._holds and not self._closed:
            self._transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        """Read the socket again, when this was the last reason not to."""
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds and not self._closed:
                self._transport.resume_reading()

    # its end

    def end(self, condition: str, reason: str, level: int = logging.WARNING) -> None:
        """End the connection, with a condition."""
        if not self._closed:
            self._engine.close(condition, Refusal(condition, reason).description)
            self._flush()
            self._finish(reason, level)

    def stop(self) -> None:
        """The hub stops: end the connection, begin nothing more for it."""
        while len(self._waiting) > 1:
            self._waiting.pop()
        self.end(CONNECTION_FORCED, "the hub stops", logging.INFO)

    def _finish(self, reason: str, level: int) -> None:
        if self._closed:
            return
        self._closed = True
        self._transport.close()
        log.log(level, "%s: %s", self.peer, reason)
        unanswered, self.unanswered_bytes = self.unanswered_bytes, 0
        self._credit.give_back(unanswered)
        links, self._links = self._links, set()
        for link in links:
            link.context.detached(link)
        self._ended(self)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, EdgeError):
                log.error("%s: internal error", self.peer, exc_info=error)
            self.end(INTERNAL_ERROR, f"a request could not be served: {error}", logging.ERROR)

    def _flush(self) -> None:
        self._flushes = False
        if self._closed:
            return
        data = self._engine.data_to_send()
        if data:
            self._transport.write(data)
            unsent_bytes = self._transport.unsent_bytes
            if unsent_bytes > MOST_UNSENT_BYTES:
                self._finish(f"does not read: {unsent_bytes} bytes wait for it", logging.WARNING)

    # what the client sends

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is Received:
                delivery = event.delivery
                if delivery.link in self._links:
                    delivery.link.context.received(delivery)
            elif type(event) is Settled:
                if event.delivery.link in self._links:
                    event.delivery.link.context.settled(event.delivery, event.outcome)
            elif type(event) is CreditGranted:
                if event.link in self._links:
                    event.link.context.credited(event.link)
            else:
                self._handle_rare(event)
            if self._closed:
                break
        actions, self._after_read = self._after_read, []  # also what came in front of its end counts
        for action in actions:
            action()

    def _handle_rare(self, event: Event) -> None:
        if isinstance(event, LinkAttached):
            link = event.link
            if is_cbs(link.address):
                self._cbs.attach(link)
            else:
                self.in_order(lambda: self._attach(link))
        elif isinstance(event, LinkDetached):
            if event.link in self._links:
                self._links.discard(event.link)
                event.link.context.detached(event.link)
        elif isinstance(event, Opened):
            self._engine.open()
        elif isinstance(event, SaslDone):
            self.in_order(lambda: self._log_in(event))
        elif isinstance(event, Ended):
            self._flush()
            if event.offence:
                reason = f"broke the protocol: {event.condition} {event.description}"
                self._finish(reason, logging.WARNING)
            else:
                told = f": {event.condition} {event.description}" if event.condition else ""
                self._finish(f"closed{told}", logging.INFO)

    def in_order(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something when what came before it is done."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self.spawn(self._work())
        elif len(self._waiting) > MOST_WAITING:
            self.hold(_WAITING)

    async def _work(self) -> None:
        while self._waiting and not self._closed:
            await self._waiting[0]()
            self._waiting.popleft()
            self.flush_soon()
            if len(self._waiting) <= MOST_WAITING // 2:
                self.release(_WAITING)

    async def _log_in(self, asked: SaslDone) -> None:
        ok = True
        if asked.mechanism == "PLAIN":
            refusal = await self._check_plain(asked)
            if refusal is not None:
                ok = False
                log.warning("%s: SASL PLAIN is refused: %s", self.peer, refusal.reason)
        if not self._closed:
            self._handle(self._engine.sasl_outcome(ok))
            self._flush()

    async def _check_plain(self, asked: SaslDone) -> Refusal | None:
        user = cbs.parse_plain_user(asked.user)
        if isinstance(user, Refusal):
            return user
        assert asked.password is not None
        try:
            token = parse_token(asked.password.reveal().decode())
            if user.identity is None and token.key_name != user.policy:
                return Refusal(UNAUTHORIZED_ACCESS, "the token is of another account than the user name")
            holder = "" if user.identity is None else cbs.holder_of(user.identity)
            shown = PutToken(holder, asked.password, token.expires_s, token.key_name)
            refusal = await self.tokens.show(shown, user.identity)
            if refusal is None:
                self.proven(holder)
            return refusal
        except UnicodeDecodeError:
            return Refusal(UNAUTHORIZED_ACCESS, "the password is no shared access signature: not UTF-8")
        except EdgeError as exc:
            return refusal_of(exc)

    async def _attach(self, link: Link) -> None:
        client_sends = not link.is_sender
        asked = parse_address(link.address, client_sends=client_sends)
        refusal: Refusal | None
        try:
            if not isinstance(asked, Refusal):
                refusal = await self._devices.attach(link, asked)
            else:
                service = parse_service_address(link.address, client_sends=client_sends)
                if isinstance(service, Refusal):
                    refusal = service
                else:
                    refusal = await self._services.attach(link, service)
        except EdgeError as exc:
            refusal = refusal_of(exc)
        if refusal is not None:
            log.warning("%s: a link is refused: %s %s", self.peer, refusal.condition, refusal.reason)
            link.refuse(refusal.condition, refusal.description)
