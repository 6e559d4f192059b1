"""Who is connected to the cloud, who waits for that, and why: the life of the connections of the link.

Whether there is a link is known from the connections themselves, above all from that of `$edgeHub`, which is
always wanted. What was not reached is probed, by all together; what was answered with a refusal is tried
again later, by its identity alone.

Source: routing.md sections 6.3, 6.4
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from actors.addresses import IDENTITIES
from actors.hub.identity_messages import Access, GetAccess
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, RETRY_TO_CLOUD, HubMetrics
from actors.upstream.c2d import C2dIntake
from actors.upstream.connection import CloudAccess, CloudConnections, CloudFault, Fault
from actors.upstream.events import Events, Observer
from actors.upstream.link_state import LinkState
from actors.upstream.places import Places
from actors.upstream.rate import is_probed, retry_s, way_out
from actors.upstream.sender import Sender
from actors.upstream.services import UpstreamServices
from actors.upstream.source import Phase, Source
from actors.upstream.upkeep import LinkLimits, hanging_s, has_no_use, may_rest
from messaging.identity import Identity
from messaging.kinds import message
from messaging.topics import Feature

log = logging.getLogger(__name__)

ACCESS_LIMIT_S: Final = 30.0  # the identities ask the agent first, who may not be there
STEADY_S: Final = 2.0  # a connection that stood so long was well; losing it is the first failure in a row
OWN_RETRY_S: Final = 0.5  # at most, for the hub's own connection, whose return tells all others
SETTLE_S: Final = 0.1  # without a request for a twin, after the link came back: then messages follow …
LONGEST_SETTLE_S: Final = 2.0  # … and then in any case
SETTLE_STEP_S: Final = 0.05


@message
class RetryDue:
    """Timer: try an identity again, unless it was tried meanwhile."""

    identity: str
    loss: int  # which one of its connections' it follows


@message
class SettleDue:
    """Timer: see whose messages may follow its twin."""


class Where(Struct, frozen=True):
    """To which cloud, and as whom."""

    host_name: str  # of the IoT Hub
    device_id: str  # of this edge
    ca_pem: Callable[[], str]  # what to trust besides the system's authorities; read for each connection
    https_port: int = 443


class Switchboard:
    """A part of the actor of the link, which calls it; what travels over connections is for other parts."""

    def __init__(
        self,
        actor: EdgeActor,
        where: Where,
        limits: LinkLimits,
        draw: Callable[[], float],
        events: Events,
        sender: Sender,
        c2d: C2dIntake,
        services: UpstreamServices,
        changed: Callable[[bool], None],
        metrics: HubMetrics = OFF,
    ) -> None:
        """Keep what is needed; `changed` is called when the link is up, or is not any more."""
        self._actor = actor
        self._metrics = metrics
        self._where = where
        self._limits = limits
        self._draw = draw
        self._events = events
        self._sender = sender
        self._c2d = c2d
        self._services = services
        self._changed = changed
        self._own_id = Identity.edge_hub(where.device_id).id
        self._places = Places(limits.most_connections)
        self._connections: CloudConnections | None = None
        self._asked: dict[int, str] = {}  # correlation id → for whose key
        self._up_s = 0.0  # monotonic, since when the link is up, or is not
        self._changed_s = 0.0  # the same in seconds since 1970-01-01 UTC
        self._probing = False
        self._settle_timer = False
        self.sources: dict[str, Source] = {}
        self.is_on = False
        self.is_up = False

    def start(self, connections: CloudConnections, on: bool) -> None:
        """Begin; the hub's own connection is the first."""
        self._connections = connections
        self._changed_s = self._actor.clock.now_s()
        self.is_on = on
        self.consider(self.own)

    def stop(self) -> None:
        """Close everything."""
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def switch(self, on: bool) -> None:
        """Connect whoever wants to be connected, or nobody."""
        self.is_on = on
        if not on:
            for source in self.sources.values():
                self._drop_connection(source)
                self._enter(source, Phase.CLOSED)
                source.fault = None
                source.failures = 0
        self._judge()
        for source in [self.own, *self.others()]:
            self.consider(source)

    # who

    @property
    def own(self) -> Source:
        """What is known of the hub itself."""
        return self.source(self._own_id)

    def source(self, identity: str) -> Source:
        """Return what is known of an identity."""
        source = self.sources.get(identity)
        if source is None:
            source = Source(identity, self._now_s(), self._actor.clock.now_s())
            self.sources[identity] = source
        return source

    def others(self) -> list[Source]:
        """Return all but the hub itself."""
        return [source for source in self.sources.values() if source.identity != self._own_id]

    def consider(self, source: Source) -> None:
        """Open a connection for whoever has a use for one; on an open one, do what is to be done."""
        if source.phase is Phase.OPEN:
            self.serve(source)
        elif self.is_on and source.phase is Phase.CLOSED and self._has_use(source):
            self._claim(source)

    def _has_use(self, source: Source) -> bool:
        return source.wants_connection or source.identity == self._own_id

    # from closed to connected

    def _claim(self, source: Source) -> None:
        """Begin to connect, or stand in line for that."""
        if source.identity != self._own_id and self._places.free(self.others()) <= 0:
            self._stand_in_line(source)
            self._make_places()
            return
        self._enter(source, Phase.ASKING)
        asked = self._actor.request(
            IDENTITIES, GetAccess(source.identity, source.was_refused), ACCESS_LIMIT_S
        )
        self._asked[asked] = source.identity

    def _stand_in_line(self, source: Source) -> None:
        self._enter(source, Phase.QUEUED)
        self._places.wait(source)

    def access(self, correlation_id: int, message: Access) -> None:
        """Connect with this key."""
        source = self._asked_for(correlation_id)
        if source is None or self._connections is None:
            return
        observer = source.observer = Observer(source.identity, self._events)
        where = self._where
        access = CloudAccess(
            Identity.parse(source.identity),
            where.host_name,
            message.key,
            where.ca_pem(),
            source.model_id,
            Identity.parse(message.signer) if message.signer else None,
            where.https_port,
        )
        connection = source.connection = self._connections.make(access, observer)
        self._enter(source, Phase.OPENING)
        source.opened_s = source.moved_s = self._now_s()
        connection.want(source.features)
        connection.open()

    def no_access(self, correlation_id: int, reason: str) -> None:
        """There is no key."""
        source = self._asked_for(correlation_id)
        if source is not None:
            self.lost(source, CloudFault(Fault.UNAUTHORIZED, reason))

    def access_changed(self, identity: str) -> None:
        """Its key is another one, or it is gone, disabled or back: what is open was opened with the old."""
        source = self.sources.get(identity)
        if source is None:
            return
        if source.connection is not None:
            self._close(source)
        elif source.phase is Phase.WAITING:
            self._enter(source, Phase.CLOSED)
            self.consider(source)

    def _asked_for(self, correlation_id: int) -> Source | None:
        source = self.sources.get(self._asked.pop(correlation_id, ""))
        return source if source is not None and source.phase is Phase.ASKING else None

    def connected(self, source: Source) -> None:
        """A connection stands. That of the hub itself brings back all that were not reached."""
        log.log(
            logging.INFO if source.fault is not None or source is self.own else logging.DEBUG,
            "upstream: '%s' is connected to %s",
            source.identity,
            self._where.host_name,
        )
        source.fault = None
        source.was_refused = False
        source.opened_s = source.used_s = self._now_s()
        self._enter(source, Phase.OPEN)
        self._judge()
        if source is self.own:
            for other in self.others():
                if other.phase is Phase.WAITING and other.fault is not None and is_probed(other.fault.kind):
                    self._enter(other, Phase.CLOSED)
                    self.consider(other)
        if Feature.DESIRED_PROPERTIES in source.features:
            self._services.desired_followed(source)
        self.serve(source)

    def want(self, source: Source, features: frozenset[Feature]) -> None:
        """Have the cloud tell a source what its client wants."""
        is_news = Feature.DESIRED_PROPERTIES in features - source.features
        source.features = features
        if source.connection is not None:
            source.connection.want(features)
            if is_news and source.phase is Phase.OPEN:
                self._services.desired_followed(source)
        self.consider(source)

    def serve(self, source: Source) -> None:
        """Do on an open connection what is to be done: twins first, then messages."""
        if source.connection is None:
            return
        self._services.send(source)
        if source.waits and not source.attachment and not source.in_flight and not source.is_leaving:
            if self._settled(source):
                self._sender.attach(source)
            elif not self._settle_timer:
                self._settle_timer = True
                self._actor.set_timer(SETTLE_STEP_S, SettleDue())

    def _settled(self, source: Source) -> bool:
        """Say whether messages may go: once the link is up, twins and reported properties go before."""
        now_s, own = self._now_s(), self.own
        if own.phase is Phase.OPEN and not source.is_settled:
            quiet = not source.twins and now_s >= max(self._up_s, source.twin_done_s) + SETTLE_S
            source.is_settled = quiet or now_s >= max(self._up_s, source.opened_s) + LONGEST_SETTLE_S
        return (
            source.is_settled
            or self._own_refused()  # then nobody asks for twins
            or now_s >= source.opened_s + LONGEST_SETTLE_S
        )

    def settle(self) -> None:
        """See whose messages may follow its twin."""
        self._settle_timer = False
        for source in self.sources.values():
            if source.phase is Phase.OPEN and source.waits:
                self.serve(source)

    def quiet(self, source: Source) -> None:
        """Nothing is on its way any more."""
        if source.is_leaving:
            self._close(source)
        else:
            self.serve(source)

    # what goes wrong

    def lost(self, source: Source, fault: CloudFault) -> None:
        """The connection is gone, or never was; what was on its way goes again, in order."""
        now_s, was_open = self._now_s(), source.phase is Phase.OPEN
        probed = is_probed(fault.kind)
        if was_open and probed:
            self._judge_message(source, fault)
        self._drop_connection(source)
        if was_open and now_s - source.opened_s >= STEADY_S:
            source.failures = 0
        source.failures += 1
        source.losses += 1
        self._tell_fault(source, fault)
        source.fault = fault
        source.was_refused = fault.kind is Fault.UNAUTHORIZED
        wait_s = retry_s(fault.kind, source.failures, self._draw())
        if source.identity == self._own_id and probed:
            for other in self.others():
                other.line_was_broken()
            wait_s = wait_s if was_open else min(wait_s, OWN_RETRY_S)
        self._services.lost(source, None if probed else fault)
        if wait_s > 0.0:
            self._enter(source, Phase.WAITING)
            source.retry_utc_s = self._actor.clock.now_s() + wait_s
            self._actor.set_timer(wait_s, RetryDue(source.identity, source.losses))
        else:
            self._probe(source)
        self._judge()
        self._fill_places()

    def _judge_message(self, source: Source, fault: CloudFault) -> None:
        own = self.own
        stood = own is not source and own.phase is Phase.OPEN and own.opened_s <= source.opened_s
        position = source.suspect_after_loss(stood)
        if position is not None:
            reason = f"each connection was ended when it was sent, and nothing else was: {fault.reason}"
            self._sender.drop(source, position, reason)
            source.line_was_broken()

    def _tell_fault(self, source: Source, fault: CloudFault) -> None:
        """Tell the log when it has not heard this; that the line is down is told once, not for each."""
        known = source.fault
        if known is not None and (known.kind, known.reason) == (fault.kind, fault.reason):
            return
        everybody = is_probed(fault.kind) and source.identity != self._own_id
        level = logging.DEBUG if everybody else logging.WARNING
        reason = fault.reason + way_out(fault.kind)
        log.log(level, "upstream: '%s': %s: %s", source.identity, fault.kind.value, reason)

    def retry(self, message: RetryDue) -> None:
        """A wait is over."""
        source = self.sources[message.identity]
        if source.phase is not Phase.WAITING or source.losses != message.loss:
            return
        if source.fault is not None and is_probed(source.fault.kind):
            self._probe(source)
        else:
            self._enter(source, Phase.CLOSED)
            self.consider(source)

    def _probe(self, source: Source) -> None:
        """Wait until the cloud can be reached, all who wait for that together."""
        self._enter(source, Phase.PROBING)
        if not self._probing and self._connections is not None:
            self._probing = True
            self._connections.probe(self._where.host_name, self._events.reached)

    def reached(self) -> None:
        """The probe got through: the hub itself first, then all others."""
        self._probing = False
        waiting = [source for source in self.sources.values() if source.phase is Phase.PROBING]
        waiting.sort(key=lambda source: source.identity != self._own_id)
        for source in waiting:
            self._enter(source, Phase.CLOSED)
            self.consider(source)

    # from connected to closed

    def _close(self, source: Source) -> None:
        """Close in good order; whoever still has a use for a connection gets in line for it."""
        self._drop_connection(source)
        self._services.lost(source, None)
        self._enter(source, Phase.CLOSED)
        self._judge()
        if source.identity == self._own_id:
            self.consider(source)
        elif source.wants_connection:
            self._stand_in_line(source)
        self._fill_places()

    def _drop_connection(self, source: Source) -> None:
        self._sender.detach(source)
        if source.in_flight:
            self._metrics.repeated(source.identity, RETRY_TO_CLOUD)
        source.let_go()
        connection, observer = source.connection, source.observer
        source.connection = source.observer = None
        source.is_leaving = False
        if observer is not None:
            self._c2d.lost(observer)
        if connection is not None:
            connection.close()

    def _fill_places(self) -> None:
        while self.is_on and self._places.free(self.others()) > 0:
            source = self._places.next()
            if source is None:
                return
            self._enter(source, Phase.CLOSED)
            self.consider(source)

    def _make_places(self) -> None:
        for source in self._places.to_leave(self.others(), self._now_s()):
            self._sender.detach(source)
            if source.is_waited_for:
                source.is_leaving = True
            else:
                self._close(source)

    def look(self) -> None:
        """Look for what hangs, is idle, or waits for a place. To be called every second or so."""
        now_s = self._now_s()
        for source in list(self.sources.values()):
            limit_s = hanging_s(source, self._limits, now_s)
            if limit_s is not None:
                self._hangs(source, limit_s)
            elif source.phase is Phase.OPEN:
                if may_rest(source, now_s):
                    self._sender.detach(source)
                if source.identity != self._own_id and has_no_use(source, self._limits, now_s):
                    self._close(source)
        self._make_places()

    def _hangs(self, source: Source, limit_s: float) -> None:
        reason = f"nothing has moved for {limit_s:.0f} s; the connection is built anew"
        log.warning("upstream: '%s': %s", source.identity, reason)
        self.lost(source, CloudFault(Fault.TIMEOUT, reason))

    # the link

    def _judge(self) -> None:
        """Say whether the cloud can be asked, when that has changed."""
        is_up = self.own.phase is Phase.OPEN or (
            self._own_refused() and any(source.phase is Phase.OPEN for source in self.sources.values())
        )
        if is_up == self.is_up:
            return
        self.is_up = is_up
        self._up_s, self._changed_s = self._now_s(), self._actor.clock.now_s()
        if not is_up:
            self._services.forget(self.sources.values())
            for source in self.sources.values():
                source.is_settled = False
        log.info("upstream: the link is %s", "up" if is_up else f"down: {self.reason()}")
        self._changed(is_up)

    def _own_refused(self) -> bool:
        """Say whether the cloud is there but does not let this hub in; that is no trouble of others."""
        fault = self.own.fault
        return fault is not None and not is_probed(fault.kind)

    def reason(self) -> str:
        """Return why the link is not up, "" when it is."""
        if self.is_up:
            return ""
        if not self.is_on:
            return "switched off"
        return self.own.fault.reason if self.own.fault is not None else self.own.phase.value

    def state(self) -> LinkState:
        """Return how the link is."""
        shown = [
            source
            for source in self.sources.values()
            if source.phase is not Phase.CLOSED or source.sent or source.waits
        ]
        return LinkState(
            self.is_on,
            self._sender.sent,
            self.is_up,
            self._changed_s,
            self.reason(),
            self._where.host_name,
            tuple(source.row() for source in shown),
        )

    # helpers

    def _enter(self, source: Source, phase: Phase) -> None:
        source.enter(phase, self._actor.clock.now_s())

    def _now_s(self) -> float:
        return self._actor.clock.monotonic_s()
