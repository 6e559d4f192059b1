"""The hub's link to the cloud: a connection for each identity that has something to send or to receive.

Understands: QueuesWaiting, Ready (from the store); FetchTwin, SendReported, WatchLink (from the twins);
             HeadStarted, ClientChanged, ClientGone (from heads); Access, AccessChanged; MethodResult,
             MethodFailed; Stored; SwitchLink, GetLinkState; its own CloudTold, RetryDue, SettleDue, RateDue,
             LookDue
Tells:       hub/store (WatchQueues, Attach, Detach, Delivered, Undeliverable), hub/identities (GetAccess),
             hub/router (C2dReceived), hub/twins (CloudTwin, ReportedSent, CloudRefused, DesiredChanged),
             hub/methods (InvokeMethod), whoever watches the link (LinkChanged)
Started by:  HubRootActor, on a thread of its own; a restart closes all connections and begins anew

Whether there is a link is known from the connections themselves, above all from that of `$edgeHub`, which is
always wanted. What was not reached is probed; what was answered with a refusal is tried again later, by its
identity alone.

Source: routing.md section 6; hub-protocols.md sections 7.4, 7.5, 7.8
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from actors.base import EdgeActor
from actors.client_services import ClientChanged, ClientGone, HeadStarted, MethodFailed, MethodResult
from actors.cloud import CloudRefused, FetchTwin, LinkChanged, SendReported, WatchLink
from actors.cloud_connection import CloudAccess, CloudConnections, CloudFault, Fault
from actors.identities import Access, AccessChanged, GetAccess
from actors.link_state import GetLinkState, LinkState, SwitchLink
from actors.ports import LinkSwitch
from actors.registry import REGISTRY, RefreshScope
from actors.store_messages import QueuesWaiting, Ready, Stored, WatchQueues
from actors.upstream_c2d import C2dIntake
from actors.upstream_events import (
    C2dCame,
    Connected,
    DesiredPatched,
    Done,
    Event,
    Events,
    Failed,
    Lost,
    MethodCalled,
    Observer,
)
from actors.upstream_places import Places
from actors.upstream_rate import is_final, is_probed, patience_s, retry_s
from actors.upstream_sender import Sender
from actors.upstream_services import UpstreamServices
from actors.upstream_source import WANTED, Phase, Source
from messaging.errors import EnvironmentFault
from messaging.identity import Identity
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, DeadlinePassed, RequestFailed, Watch
from messaging.topics import Feature
from messaging.upstream_queues import UPSTREAM_QUEUES, source_of

log = logging.getLogger(__name__)

ACCESS_LIMIT_S: Final = 30.0  # the identities ask the agent first, who may not be there
LOOK_S: Final = 1.0
STEADY_S: Final = 10.0  # a connection that stood so long was well; losing it is the first failure in a row
OWN_RETRY_S: Final = 0.5  # at most, for the hub's own connection, whose return tells all others
SETTLE_S: Final = 0.1  # without a request for a twin, after the link came back: then messages follow …
LONGEST_SETTLE_S: Final = 2.0  # … and then in any case
SETTLE_STEP_S: Final = 0.05
LINGER_S: Final = 10.0  # a client that renews its token is back by then
REST_S: Final = 30.0  # after which the store need not keep a window for a source that sends nothing
CONNECT_LIMIT_S: Final = 60.0  # a connection that says neither yes nor no in this time is begun anew


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What the link is allowed."""

    most_connections: int = 100  # at the same time, besides the hub's own
    messages_per_s: float | None = None  # of all sources together; None: as fast as they go
    idle_s: float | None = 3600.0  # then a connection without use is closed; None: never
    closes_with_client: bool = True  # … or soon after its client has gone
    operation_s: float = 20.0  # a connection on which nothing moves for so long is built anew


@message
class CloudTold:
    """Connections have told something; it waits in memory."""


@message
class RetryDue:
    """Timer: try an identity again, unless it was tried meanwhile."""

    identity: str
    failures: int


@message
class SettleDue:
    """Timer: see whose messages may follow its twin."""


@message
class RateDue:
    """Timer: the rate allows more messages."""


@message
class LookDue:
    """Timer: look for what hangs, is idle, or waits for a place."""


class UpstreamActor(EdgeActor):
    """Opens and closes connections; what travels over them is the business of its parts."""

    def __init__(
        self,
        make_connections: Callable[[], CloudConnections],
        switch: LinkSwitch,
        *,
        device_id: str,
        host_name: str,
        ca_pem: Callable[[], str],
        store: str,
        router: str,
        twins: str,
        methods: str,
        identities: str,
        limits: LinkLimits,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Keep what is needed; `ca_pem` is what to trust besides the system's authorities, read anew."""
        self._make_connections = make_connections
        self._switch = switch
        self._host_name = host_name
        self._ca_pem = ca_pem
        self._store = store
        self._identities = identities
        self._limits = limits
        self._draw = draw
        self._own_id = Identity.edge_hub(device_id).id
        self._sources: dict[str, Source] = {}
        self._heads: dict[str, str] = {}  # client that is connected → its head
        self._places = Places(limits.most_connections)
        self._sender = Sender(self, store, limits.messages_per_s)
        self._c2d = C2dIntake(self, router)
        self._services = UpstreamServices(self, twins, methods)
        self._events = Events(self._wake)
        self._connections: CloudConnections | None = None
        self._asked: dict[int, str] = {}  # correlation id → for whose key
        self._on = False
        self._is_up = False
        self._up_s = 0.0  # monotonic, since when
        self._changed_s = 0.0  # since when it is up or not; seconds since 1970-01-01 UTC
        self._probing = False
        self._watchers: set[str] = set()
        self._settle_timer = False
        self._rate_timer = False

    # life

    def on_start(self) -> None:
        self._sender.start()
        self._c2d.start()
        self._connections = self._make_connections()
        self._on = self._switch.is_on()
        self._changed_s = self.clock.now_s()
        self.tell(self._store, Watch())
        self.tell(self._store, WatchQueues(UPSTREAM_QUEUES))
        self._consider(self._own)
        self.set_timer(LOOK_S, LookDue())

    def on_stop(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def on_turn_end(self) -> None:
        wait_s = self._sender.pump(self.clock.monotonic_s())
        if wait_s is not None and not self._rate_timer:
            self._rate_timer = True
            self.set_timer(wait_s, RateDue())
        self._sender.flush()

    def on_rate_due(self, message: RateDue) -> None:
        self._rate_timer = False  # the end of this turn sends

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self._sender.forget_attachments(list(self._sources.values()))
        self.tell(self._store, WatchQueues(UPSTREAM_QUEUES))

    def _wake(self) -> None:
        self.context.tell_self(CloudTold())

    @property
    def _own(self) -> Source:
        return self._source(self._own_id)

    def _source(self, identity: str) -> Source:
        source = self._sources.get(identity)
        if source is None:
            source = Source(identity, self.clock.monotonic_s(), self.clock.now_s())
            self._sources[identity] = source
        return source

    def _others(self) -> list[Source]:
        return [source for source in self._sources.values() if source.identity != self._own_id]

    # what there is to do

    def on_queues_waiting(self, message: QueuesWaiting) -> None:
        for queue in message.endpoint_ids:
            source = self._source(source_of(queue))
            source.waits = True
            self._consider(source)

    def on_ready(self, message: Ready) -> None:
        source = self._sources.get(source_of(message.endpoint_id))
        if source is not None:
            self._sender.ready(source, message)

    def on_head_started(self, message: HeadStarted) -> None:
        head = self.envelope.sender
        for identity in [who for who, its in self._heads.items() if its == head]:
            self._gone(identity)

    def on_client_changed(self, message: ClientChanged) -> None:
        self._heads[message.identity] = self.envelope.sender
        self._want(message.identity, frozenset(Feature[name] for name in message.features) & WANTED)

    def on_client_gone(self, message: ClientGone) -> None:
        if self._heads.get(message.identity) == self.envelope.sender:
            self._gone(message.identity)

    def _gone(self, identity: str) -> None:
        del self._heads[identity]
        self._want(identity, frozenset())

    def _want(self, identity: str, features: frozenset[Feature]) -> None:
        """Note which features a client wants. A module gets no cloud-to-device messages."""
        if "/" in identity:
            features -= {Feature.C2D}
        source = self._source(identity)
        source.used_s = self.clock.monotonic_s()
        if features == source.features:
            return
        if Feature.C2D not in features:
            self._c2d.unwanted(identity)
        source.features = features
        if source.connection is not None:
            source.connection.want(features)
        self._consider(source)

    def on_fetch_twin(self, message: FetchTwin) -> None:
        self._ask_twin(message.identity, None)

    def on_send_reported(self, message: SendReported) -> None:
        self._ask_twin(message.identity, message.patch)

    def _ask_twin(self, identity: str, patch: bytes | None) -> None:
        source = self._source(identity)
        if not self._is_up:
            self.reply(CloudRefused(identity, 0, self._reason()))
        elif source.phase is Phase.WAITING and source.fault is not None and not is_probed(source.fault.kind):
            self.reply(CloudRefused(identity, source.fault.status, source.fault.reason))
        else:
            self._services.ask(source, self.envelope, patch)
            self._consider(source)

    def _consider(self, source: Source) -> None:
        """Open a connection for whoever has a use for one; on an open one, do what is to be done."""
        if source.phase is Phase.OPEN:
            self._serve(source)
        elif self._on and source.phase is Phase.CLOSED and self._has_use(source):
            self._claim(source)

    def _has_use(self, source: Source) -> bool:
        return source.wants_connection or source.identity == self._own_id

    # from closed to connected

    def _claim(self, source: Source) -> None:
        """Begin to connect, or stand in line for that."""
        if source.identity != self._own_id and self._places.free(self._others()) <= 0:
            self._stand_in_line(source)
            self._make_places()
            return
        source.enter(Phase.ASKING, self.clock.now_s())
        asked = self.request(self._identities, GetAccess(source.identity, source.was_refused), ACCESS_LIMIT_S)
        self._asked[asked] = source.identity

    def _stand_in_line(self, source: Source) -> None:
        source.enter(Phase.QUEUED, self.clock.now_s())
        self._places.wait(source)

    def on_access(self, message: Access) -> None:
        source = self._asked_for(self.envelope.correlation_id)
        if source is None or self._connections is None:
            return
        observer = source.observer = Observer(source.identity, self._events)
        access = CloudAccess(Identity.parse(source.identity), self._host_name, message.key, self._ca_pem())
        connection = source.connection = self._connections.make(access, observer)
        source.enter(Phase.OPENING, self.clock.now_s())
        source.opened_s = source.moved_s = self.clock.monotonic_s()
        connection.want(source.features)
        connection.open()

    def on_access_changed(self, message: AccessChanged) -> None:
        """Its key is another one, or it is gone, disabled or back: what is open was opened with the old."""
        source = self._sources.get(message.identity)
        if source is None:
            return
        if source.connection is not None:
            self._close(source)
        elif source.phase is Phase.WAITING:
            source.enter(Phase.CLOSED, self.clock.now_s())
            self._consider(source)

    def _asked_for(self, correlation_id: int) -> Source | None:
        source = self._sources.get(self._asked.pop(correlation_id, ""))
        return source if source is not None and source.phase is Phase.ASKING else None

    def _connected(self, source: Source) -> None:
        log.log(
            logging.INFO if source.fault is not None or source is self._own else logging.DEBUG,
            "upstream: '%s' is connected to %s",
            source.identity,
            self._host_name,
        )
        source.fault = None
        source.was_refused = False
        source.opened_s = source.used_s = self.clock.monotonic_s()
        source.enter(Phase.OPEN, self.clock.now_s())
        self._judge()
        if source is self._own:
            for other in self._others():
                if other.phase is Phase.WAITING and other.fault is not None and is_probed(other.fault.kind):
                    other.enter(Phase.CLOSED, self.clock.now_s())
                    self._consider(other)
        self._serve(source)

    def _serve(self, source: Source) -> None:
        """Do on an open connection what is to be done: twins first, then messages."""
        if source.connection is None:
            return
        self._services.send(source)
        if source.waits and not source.attachment and not source.in_flight and not source.is_leaving:
            if self._settled(source):
                self._sender.attach(source)
            elif not self._settle_timer:
                self._settle_timer = True
                self.set_timer(SETTLE_STEP_S, SettleDue())

    def _settled(self, source: Source) -> bool:
        """Say whether messages may go: once the link is up, twins and reported properties go before."""
        now_s, own = self.clock.monotonic_s(), self._own
        if own.phase is Phase.OPEN and not source.is_settled:
            quiet = not source.twins and now_s >= max(self._up_s, source.twin_done_s) + SETTLE_S
            source.is_settled = quiet or now_s >= max(self._up_s, source.opened_s) + LONGEST_SETTLE_S
        return (
            source.is_settled
            or self._own_refused()  # then nobody asks for twins
            or now_s >= source.opened_s + LONGEST_SETTLE_S
        )

    def on_settle_due(self, message: SettleDue) -> None:
        self._settle_timer = False
        for source in self._sources.values():
            if source.phase is Phase.OPEN and source.waits:
                self._serve(source)

    # what connections tell

    def on_cloud_told(self, message: CloudTold) -> None:
        failed: dict[Observer, CloudFault] = {}
        for observer, event in self._events.take():
            if observer is None or event is None:
                self._reached()
                continue
            source = self._sources[observer.identity]
            if source.observer is observer:
                self._handle(source, observer, event, failed)
        for observer, fault in failed.items():
            source = self._sources[observer.identity]
            if source.observer is observer:  # no word that the connection was lost
                self._lost(source, fault)
            self._consider(source)

    def _handle(
        self, source: Source, observer: Observer, event: Event, failed: dict[Observer, CloudFault]
    ) -> None:
        source.moved_s = now_s = self.clock.monotonic_s()
        if isinstance(event, Done):
            source.used_s = now_s
            if event.number > 0:
                self._sender.arrived(source, event.number, now_s)
            else:
                self._services.answered(source, event.number, event.answer)
            if not source.is_waited_for and (source.is_leaving or source.waits):
                self._quiet(source)
        elif isinstance(event, Failed):
            if event.number < 0:
                self._services.failed(source, event.number, event.fault)
            elif is_final(event.fault.kind):
                self._sender.refused(source, event.number, event.fault)
            else:
                failed.setdefault(observer, event.fault)
        elif isinstance(event, Connected):
            self._connected(source)
        elif isinstance(event, Lost):
            self._lost(source, event.fault)
        elif isinstance(event, C2dCame):
            source.used_s = now_s
            self._c2d.came(observer, event.message, event.taken)
        elif isinstance(event, MethodCalled):
            source.used_s = now_s
            assert source.connection is not None
            self._services.called(source, source.connection, event)
        elif isinstance(event, DesiredPatched):
            source.used_s = now_s
            self._services.desired_patched(source, event.patch)

    def _quiet(self, source: Source) -> None:
        """Nothing is on its way any more."""
        if source.is_leaving:
            self._close(source)
        else:
            self._serve(source)

    def _lost(self, source: Source, fault: CloudFault) -> None:
        """The connection is gone, or never was; what was on its way goes again, in order."""
        now_s, was_open = self.clock.monotonic_s(), source.phase is Phase.OPEN
        probed = is_probed(fault.kind)
        if was_open and probed:
            self._judge_message(source, fault)
        self._drop_connection(source)
        if was_open and now_s - source.opened_s >= STEADY_S:
            source.failures = 0
        source.failures += 1
        self._tell_fault(source, fault)
        source.fault = fault
        source.was_refused = fault.kind is Fault.UNAUTHORIZED
        wait_s = retry_s(fault.kind, source.failures, self._draw())
        if source.identity == self._own_id and probed:
            for other in self._others():
                other.clear_suspicion()
            wait_s = wait_s if was_open else min(wait_s, OWN_RETRY_S)
        self._services.lost(source, None if probed else fault)
        if wait_s > 0.0:
            source.enter(Phase.WAITING, self.clock.now_s())
            self.set_timer(wait_s, RetryDue(source.identity, source.failures))
        else:
            self._probe(source)
        self._judge()
        self._fill_places()

    def _judge_message(self, source: Source, fault: CloudFault) -> None:
        own = self._own
        stood = own is not source and own.phase is Phase.OPEN and own.opened_s <= source.opened_s
        position = source.suspect_after_loss(stood)
        if position is not None:
            reason = f"each connection was ended when it was sent, and nothing else was: {fault.reason}"
            self._sender.drop(source, position, reason)
            source.clear_suspicion()

    def _tell_fault(self, source: Source, fault: CloudFault) -> None:
        """Tell the log when it has not heard this; that the line is down is told once, not for each."""
        known = source.fault
        if known is not None and (known.kind, known.reason) == (fault.kind, fault.reason):
            return
        everybody = is_probed(fault.kind) and source.identity != self._own_id
        level = logging.DEBUG if everybody else logging.WARNING
        log.log(level, "upstream: '%s': %s: %s", source.identity, fault.kind.value, fault.reason)

    def on_retry_due(self, message: RetryDue) -> None:
        source = self._sources[message.identity]
        if source.phase is not Phase.WAITING or source.failures != message.failures:
            return
        if source.fault is not None and is_probed(source.fault.kind):
            self._probe(source)
        else:
            source.enter(Phase.CLOSED, self.clock.now_s())
            self._consider(source)

    def _probe(self, source: Source) -> None:
        """Wait until the cloud can be reached, all who wait for that together."""
        source.enter(Phase.PROBING, self.clock.now_s())
        if not self._probing and self._connections is not None:
            self._probing = True
            self._connections.probe(self._host_name, self._events.reached)

    def _reached(self) -> None:
        self._probing = False
        waiting = [source for source in self._sources.values() if source.phase is Phase.PROBING]
        waiting.sort(key=lambda source: source.identity != self._own_id)
        for source in waiting:
            source.enter(Phase.CLOSED, self.clock.now_s())
            self._consider(source)

    # from connected to closed

    def _close(self, source: Source) -> None:
        """Close in good order; whoever still has a use for a connection gets in line for it."""
        self._drop_connection(source)
        self._services.lost(source, None)
        source.enter(Phase.CLOSED, self.clock.now_s())
        self._judge()
        if source.identity == self._own_id:
            self._consider(source)
        elif source.wants_connection:
            self._stand_in_line(source)
        self._fill_places()

    def _drop_connection(self, source: Source) -> None:
        self._sender.detach(source)
        source.let_go()
        connection, observer = source.connection, source.observer
        source.connection = source.observer = None
        source.is_leaving = False
        if observer is not None:
            self._c2d.lost(observer)
        if connection is not None:
            connection.close()

    def _fill_places(self) -> None:
        while self._on and self._places.free(self._others()) > 0:
            source = self._places.next()
            if source is None:
                return
            source.enter(Phase.CLOSED, self.clock.now_s())
            self._consider(source)

    def _make_places(self) -> None:
        for source in self._places.to_leave(self._others(), self.clock.monotonic_s()):
            self._sender.detach(source)
            if source.is_waited_for:
                source.is_leaving = True
            else:
                self._close(source)

    def on_look_due(self, message: LookDue) -> None:
        self.set_timer(LOOK_S, LookDue())
        self._c2d.look()
        self._services.look(self._sources.values())
        now_s = self.clock.monotonic_s()
        for source in list(self._sources.values()):
            if source.phase is Phase.OPENING and now_s - source.opened_s > CONNECT_LIMIT_S:
                self._hangs(source, CONNECT_LIMIT_S)
            elif source.phase is Phase.OPEN:
                self._look(source, now_s)
        self._make_places()

    def _look(self, source: Source, now_s: float) -> None:
        """Look after one open connection."""
        limit_s = patience_s(self._limits.operation_s, source.in_flight_bytes)
        if source.is_waited_for:
            if now_s - source.moved_s > limit_s:
                self._hangs(source, limit_s)
            return
        rests_s = now_s - source.used_s
        if source.attachment and not source.held and rests_s >= REST_S:
            self._sender.detach(source)
        if source.wants_connection or source.attachment or source.identity == self._own_id:
            return
        with_client = self._limits.closes_with_client and source.identity not in self._heads
        idle_s = self._limits.idle_s
        if (with_client and rests_s >= LINGER_S) or (idle_s is not None and rests_s >= idle_s):
            self._close(source)

    def _hangs(self, source: Source, limit_s: float) -> None:
        reason = f"nothing has moved for {limit_s:.0f} s; the connection is built anew"
        log.warning("upstream: '%s': %s", source.identity, reason)
        self._lost(source, CloudFault(Fault.TIMEOUT, reason))

    # the link

    def _judge(self) -> None:
        """Say whether the cloud can be asked, when that has changed."""
        is_up = self._own.phase is Phase.OPEN or (
            self._own_refused() and any(source.phase is Phase.OPEN for source in self._sources.values())
        )
        if is_up == self._is_up:
            return
        self._is_up = is_up
        self._up_s, self._changed_s = self.clock.monotonic_s(), self.clock.now_s()
        if not is_up:
            self._services.forget(self._sources.values())
            for source in self._sources.values():
                source.is_settled = False
        log.info("upstream: the link is %s", "up" if is_up else f"down: {self._reason()}")
        for watcher in self._watchers:
            self.tell(watcher, LinkChanged(is_up))
        if is_up:
            self.tell(REGISTRY, RefreshScope())  # devices may have been made or disabled while it was away

    def _own_refused(self) -> bool:
        """Say whether the cloud is there but does not let this hub in; that is no trouble of others."""
        fault = self._own.fault
        return fault is not None and not is_probed(fault.kind)

    def _reason(self) -> str:
        if self._is_up:
            return ""
        if not self._on:
            return "switched off"
        return self._own.fault.reason if self._own.fault is not None else self._own.phase.value

    def on_watch_link(self, message: WatchLink) -> None:
        self._watchers.add(self.envelope.sender)
        self.reply(LinkChanged(self._is_up))

    def on_switch_link(self, message: SwitchLink) -> None:
        try:
            self._switch.switch(message.on)
        except EnvironmentFault as exc:
            self.reply(RequestFailed("SwitchLink", self.address, str(exc)))
            return
        log.info("upstream: switched %s", "on" if message.on else "off")
        self._on = message.on
        for source in list(self._sources.values()):
            if not self._on:
                self._drop_connection(source)
                source.enter(Phase.CLOSED, self.clock.now_s())
                source.fault = None
                source.failures = 0
        self._judge()
        for source in [self._own, *self._others()]:
            self._consider(source)
        self.reply(self._state())

    def on_get_link_state(self, message: GetLinkState) -> None:
        self.reply(self._state())

    def _state(self) -> LinkState:
        shown = [
            source for source in self._sources.values() if source.phase is not Phase.CLOSED or source.sent
        ]
        return LinkState(
            self._on,
            self._sender.sent,
            self._is_up,
            self._changed_s,
            self._reason(),
            self._host_name,
            tuple(source.row() for source in shown),
        )

    def describe(self) -> dict[str, Any]:
        return {
            "on": self._on,
            "up": self._is_up,
            "because": self._reason(),
            "sent": self._sender.sent,
            "connected": sum(source.phase is Phase.OPEN for source in self._sources.values()),
            "sources": len(self._sources),
        }

    # answers

    def on_stored(self, message: Stored) -> None:
        self._c2d.stored(message.batches)

    def on_method_result(self, message: MethodResult) -> None:
        self._services.method_result(self.envelope.correlation_id, message)

    def on_method_failed(self, message: MethodFailed) -> None:
        self._services.method_failed(self.envelope.correlation_id, message.status, message.reason)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._failed(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._failed(message.correlation_id, f"{message.address} does not answer")

    def _failed(self, correlation_id: int, reason: str) -> None:
        self._c2d.refused(correlation_id)
        self._services.method_failed(correlation_id, 504, reason)
        source = self._asked_for(correlation_id)
        if source is not None:
            self._lost(source, CloudFault(Fault.UNAUTHORIZED, reason))
