"""One physical AMQP connection to the cloud, for all identities that go over it.

Opens when the first identity joins and closes when the last one has left. Keeps what belongs to the
connection as a whole: the socket, the engine, tokens, heart-beats, and whose turn it is to send telemetry.
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from actors.upstream.connection import CloudFault, Fault
from messaging.errors import EdgeError
from runtime.upstream import faults
from runtime.upstream.shared import SLOWEST_BYTES_PER_S, Shared, Way
from runtime.upstream.socket import CloudSocket, Opening, open_socket

if TYPE_CHECKING:
    from messaging.amqp.connection import Connection
    from messaging.amqp.events import Event, Outcome
    from messaging.amqp.link import Delivery, Link
    from runtime.upstream.amqp_tokens import LineTokens

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
GIVEN_UP_S: Final = 2.0  # of silence, when somebody leaves for want of an answer
LEAST_IDLE_S: Final = 5.0  # who asks to be told of itself more often is refused
_TURN_BYTES: Final = 64 * 1024  # of telemetry handed to the engine before all of that is with the kernel
_IMPATIENT_S: Final = 10.0  # for one of several ways


class LinkOwner(Protocol):
    """Whose link it is: `context` of a link."""

    def attached(self, link: Link) -> None: ...
    def detached(self, link: Link, condition: str, description: str) -> None: ...
    def received(self, delivery: Delivery) -> None: ...
    def settled(self, delivery: Delivery, outcome: Outcome, condition: str, description: str) -> None: ...
    def credit_granted(self, link: Link) -> None: ...


class Member(LinkOwner, Protocol):
    """An identity on the line."""

    def line_is_up(self) -> None:
        """Show a token, then attach links."""
        ...

    def line_is_lost(self, fault: CloudFault) -> None:
        """The line is gone, or did not come about; links and deliveries are gone with it."""
        ...

    def send_batch(self, now_s: float) -> int:
        """Send telemetry that is due, one delivery; return its bytes, 0 when there is none now."""
        ...

    def tick(self, now_s: float) -> None:
        """See what is overdue. Called each second while the line is up."""
        ...

    def waits_since(self) -> tuple[float, int] | None:
        """Return since when the cloud owes an answer, and how many bytes it was asked with."""
        ...


class Line:
    """All methods are for the loop, but for those that are said to block."""

    def __init__(self, host_name: str, ca_pem: str, shared: Shared, ways: tuple[Way, ...]) -> None:
        """Take where to, and the ways there, the best one first."""
        self.host_name = host_name
        self.members: dict[Member, None] = {}  # in the order of joining
        self.shared = shared
        self.tokens: LineTokens | None = None  # while the line is up
        self.engine: Connection | None = None
        self._ca_pem = ca_pem
        self._ways = ways
        self._way = 0  # index of the one that worked last
        self._attempt = 0
        self._is_up = False
        self._opening: Opening | None = None
        self._socket: CloudSocket | None = None
        self._since_s = 0.0
        self._heard_s = 0.0
        self._is_ticking = False
        self._ring: deque[Member] = deque()  # those that may have telemetry to send …
        self._in_ring: set[Member] = set()  # … and again, to be found
        self._link_names = itertools.count(1)

    # members

    def join(self, member: Member) -> None:
        """Be told when the line is up, now or later, or that it is lost."""
        self.members[member] = None
        if self._is_up:
            member.line_is_up()
        elif self._opening is None and self.engine is None:
            self._open()

    def leave(self, member: Member) -> None:
        """Have nothing to do with the line any more. Its links are detached."""
        self.members.pop(member, None)
        if member in self._in_ring:
            self._in_ring.discard(member)
            self._ring.remove(member)
        if not self.members:
            self._close()
        else:
            self.has_more()

    def given_up(self, since_s: float) -> None:
        """A member left because what it asked at that time was not answered.

        When the cloud has said nothing at all since then, it is the line that is dead: who comes back would
        find it so again, and all others have yet to notice.
        """
        limit_s = GIVEN_UP_S + sum(size for _, size in self._owed()) / SLOWEST_BYTES_PER_S
        silent_s = time.monotonic() - max(since_s, self._heard_s)
        if self._is_up and self._heard_s < since_s and silent_s > limit_s:
            self.silent(silent_s)

    def has_telemetry(self, member: Member) -> None:
        """Give a member its turn."""
        if member not in self._in_ring:
            self._in_ring.add(member)
            self._ring.append(member)
            self.has_more()

    def has_more(self) -> None:
        """The engine may have something to send."""
        if self._socket is not None:
            self._socket.has_more()

    def attach_sender(
        self, owner: LinkOwner, address: str, properties: Mapping[str, object] | None = None, *, settled: bool
    ) -> Link:
        """Ask for a link on which we send."""
        from messaging.amqp.link import SndSettleMode

        assert self.engine is not None
        mode = SndSettleMode.SETTLED if settled else SndSettleMode.UNSETTLED
        link = self.engine.attach_sender(
            self._link_name(), address, source=self._link_name(), properties=properties, snd_settle_mode=mode
        )
        link.context = owner
        self.has_more()
        return link

    def attach_receiver(
        self,
        owner: LinkOwner,
        address: str,
        properties: Mapping[str, object] | None = None,
        *,
        credit: int,
        settled: bool,
        twice: bool = False,
    ) -> Link:
        """Ask for a link on which we receive; `twice`: both ends settle, the sender last."""
        from messaging.amqp.link import RcvSettleMode, SndSettleMode

        assert self.engine is not None
        link = self.engine.attach_receiver(
            self._link_name(),
            address,
            target=self._link_name(),
            properties=properties,
            snd_settle_mode=SndSettleMode.SETTLED if settled else SndSettleMode.UNSETTLED,
            rcv_settle_mode=RcvSettleMode.SECOND if twice else RcvSettleMode.FIRST,
        )
        link.context = owner
        link.grant(credit)
        self.has_more()
        return link

    def _link_name(self) -> str:
        return f"link-{next(self._link_names)}"

    # opening

    def _open(self) -> None:
        self._attempt += 1
        self._since_s = time.monotonic()
        self._opening = Opening()
        self.shared.openers.run(partial(self._connect, self._attempt, self._opening))

    def _connect(self, attempt: int, opening: Opening) -> None:
        """Find a way. Runs in a thread of its own, because it blocks."""
        # The engine is loaded here as well: it takes a while, and the loop must not wait.
        from messaging.amqp.connection import Connection

        first: CloudFault | None = None
        order = [*range(self._way, len(self._ways)), *range(self._way)]
        limit_s = self.shared.times.open_s
        if len(order) > 1:
            limit_s = min(limit_s, _IMPATIENT_S)
        for index in order:
            way = self._ways[index]
            try:
                trust = self.shared.trust.context(self._ca_pem)
                secured, upgraded = open_socket(self.host_name, way, trust, limit_s, opening)
            except (OSError, EdgeError) as exc:
                if isinstance(exc, TimeoutError) and opening.has_begun:
                    fault = faults.silent(self.host_name, limit_s)
                else:
                    fault = faults.of_connecting(exc, self.host_name, way.port)
                if first is None or index == 0:
                    first = fault
                if fault.kind is not Fault.UNREACHABLE:
                    break
                continue
            engine = Connection(
                container_id=f"edge-actors-{uuid.uuid4()}",
                hostname=self.host_name,
                idle_timeout_s=max(LEAST_IDLE_S, self.shared.times.keep_alive_s),
            )
            made = CloudSocket(
                secured,
                upgraded,
                self.shared.loop,
                partial(self._received, attempt),
                partial(self._broken, attempt),
                self._room,
            )
            self.shared.loop.call(self._adopt, attempt, index, made, engine)
            return
        assert first is not None
        self.shared.loop.call(self._lose_if, attempt, first)

    def _adopt(self, attempt: int, way: int, made: CloudSocket, engine: Connection) -> None:
        if attempt != self._attempt:
            made.end()
            return
        from runtime.upstream.amqp_tokens import LineTokens

        self._way = way
        self._opening = None
        self._socket, self.engine = made, engine
        self._heard_s = self._since_s = time.monotonic()
        engine.tick(self._heard_s)
        engine.open()
        self.tokens = LineTokens(self)
        made.open()
        self.has_more()
        if not self._is_ticking:
            self._is_ticking = True
            self.shared.loop.later(TICK_S, self._tick)

    # what comes

    def _received(self, attempt: int, data: bytes) -> None:
        if attempt == self._attempt and self.engine is not None:
            self._heard_s = time.monotonic()
            self._take(self.engine.receive_data(data))

    def _take(self, events: list[Event]) -> None:
        attempt = self._attempt
        for event in events:
            if attempt != self._attempt:
                return  # lost by the event before
            try:
                self._handle(event)
            except Exception:
                # One identity's mistake must not stop the others.
                log.exception(
                    "the link to '%s': %s could not be handled", self.host_name, type(event).__name__
                )
        self.has_more()

    def _handle(self, event: Event) -> None:
        from messaging.amqp import events

        if isinstance(event, events.Settled):
            delivery = event.delivery
            delivery.link.context.settled(delivery, event.outcome, event.condition, event.description)
        elif isinstance(event, events.Received):
            event.delivery.link.context.received(event.delivery)
        elif isinstance(event, events.CreditGranted):
            event.link.context.credit_granted(event.link)
        elif isinstance(event, events.LinkAttached):
            if event.link.context is not None:
                event.link.context.attached(event.link)
        elif isinstance(event, events.LinkDetached):
            if event.link.context is not None:
                event.link.context.detached(event.link, event.condition, event.description)
        elif isinstance(event, events.Opened):
            self._is_up = True
            for member in list(self.members):
                member.line_is_up()
        elif isinstance(event, events.Ended):
            self.lose(faults.of_close(self.host_name, event.condition, event.description))

    # what goes

    def _room(self) -> bytes:
        """Return what is to be sent now: first what the engine has, then telemetry, one batch a turn."""
        engine = self.engine
        if engine is None:
            return b""
        data = engine.data_to_send()
        if data or not self._ring:
            return data
        now_s = time.monotonic()
        room_bytes = _TURN_BYTES
        idle = 0  # in a row
        while room_bytes > 0 and idle < len(self._ring):
            member = self._ring[0]
            self._ring.rotate(-1)
            sent_bytes = member.send_batch(now_s)
            if sent_bytes:
                idle = 0
                room_bytes -= sent_bytes
            else:
                idle += 1
        if room_bytes > 0:
            self._forget_turns()  # they say so when they have more
        return engine.data_to_send()

    def _forget_turns(self) -> None:
        self._ring.clear()
        self._in_ring.clear()

    # ending

    def silent(self, limit_s: float) -> None:
        """The cloud did not answer what the line as a whole needs."""
        self.lose(faults.silent(self.host_name, limit_s))

    def _broken(self, attempt: int, cause: BaseException | None) -> None:
        if attempt == self._attempt:
            self.lose(faults.dropped(self.host_name, cause))

    def _lose_if(self, attempt: int, fault: CloudFault) -> None:
        if attempt == self._attempt:
            self.lose(fault)

    def lose(self, fault: CloudFault) -> None:
        """Tell all members; who of them wants to go on joins again."""
        members, self.members = self.members, {}
        self._close()
        for member in members:
            member.line_is_lost(fault)

    def _close(self) -> None:
        self._attempt += 1
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.break_off()
        engine, self.engine = self.engine, None
        made, self._socket = self._socket, None
        self.tokens = None
        self._is_up = False
        self._forget_turns()
        if made is not None and engine is not None:
            engine.close()
            made.end(engine.data_to_send())

    # looked after each second

    def _tick(self) -> None:
        engine = self.engine
        if engine is None or self.tokens is None:
            self._is_ticking = False
            return
        self.shared.loop.later(TICK_S, self._tick)
        now_s = time.monotonic()
        if not self._is_up:
            if now_s - self._since_s > self.shared.times.open_s:
                self.silent(self.shared.times.open_s)
            return
        attempt = self._attempt
        self._take(engine.tick(now_s)[0])
        looks = (self._look_at_members, self.tokens.tick, self._look_for_silence)
        for look in looks:
            if attempt == self._attempt:  # not lost by what was seen before
                look(now_s)

    def _look_at_members(self, now_s: float) -> None:
        for member in list(self.members):
            if member in self.members:
                member.tick(now_s)

    def _owed(self) -> list[tuple[float, int]]:
        """Return since when the cloud owes answers, and for how many bytes, by member."""
        return [owed for member in self.members if (owed := member.waits_since()) is not None]

    def _look_for_silence(self, now_s: float) -> None:
        waiting = self._owed()
        if not waiting:
            return
        since_s = min(since for since, _ in waiting)
        limit_s = self.shared.times.silence_s + max(size for _, size in waiting) / SLOWEST_BYTES_PER_S
        if now_s - max(since_s, self._heard_s) > limit_s:
            self.silent(limit_s)
