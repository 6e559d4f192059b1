"""The hub's link to the cloud: a connection for each identity that has something to send or to receive.

Understands: QueuesWaiting, Ready (from the store); FetchTwin, SendReported, WatchLink (from the twins);
             HeadStarted, ClientChanged, ClientGone (from heads); Access, AccessChanged; MethodResult,
             MethodFailed; Stored; PeerUp, PeerDown (of the agent); SwitchLink, GetLinkState; its own
             CloudTold, RetryDue, SettleDue, RateDue, LookDue
Tells:       hub/store (WatchQueues, Attach, Detach, Delivered, Undeliverable), hub/identities (GetAccess),
             hub/router (C2dReceived), hub/twins (CloudTwin, ReportedSent, CloudRefused, DesiredChanged,
             DesiredFollowed), hub/methods (InvokeMethod), whoever watches the link (LinkChanged),
             agent/registry (RefreshScope)
Started by:  HubRootActor, on a thread of its own; a restart closes all connections and begins anew

Source: routing.md section 6; hub-protocols.md sections 7.4, 7.5, 7.8
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Final

from actors.addresses import METHODS, ROUTER, STORE, TWINS
from actors.agent.registry import REGISTRY, RefreshScope
from actors.hub.client_services import ClientChanged, ClientGone, HeadStarted, MethodFailed, MethodResult
from actors.hub.identity_messages import Access, AccessChanged
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.connections import LinkSwitch
from actors.store.messages import QueuesWaiting, Ready, Stored, WatchQueues
from actors.upstream.c2d import C2dIntake
from actors.upstream.connection import CloudConnections, CloudFault
from actors.upstream.events import (
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
from actors.upstream.link_state import GetLinkState, SwitchLink
from actors.upstream.messages import CloudRefused, FetchTwin, LinkChanged, SendReported, WatchLink
from actors.upstream.rate import is_final, is_probed
from actors.upstream.sender import Sender
from actors.upstream.services import UpstreamServices
from actors.upstream.source import WANTED, Phase, Source
from actors.upstream.switchboard import RetryDue, SettleDue, Switchboard, Where
from actors.upstream.upkeep import LinkLimits
from messaging.address import process_of
from messaging.errors import EnvironmentFault
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, DeadlinePassed, PeerDown, PeerUp, RequestFailed, Watch
from messaging.topics import Feature
from messaging.upstream_queues import UPSTREAM_QUEUES, source_of

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0


@message
class CloudTold:
    """Connections have told something; it waits in memory."""


@message
class RateDue:
    """Timer: the rate allows more messages."""


@message
class LookDue:
    """Timer: look for what hangs, is idle, or waits for a place."""


class UpstreamActor(EdgeActor):
    """Passes on to its parts: connections (Switchboard), messages (Sender), C2D, twins and methods."""

    def __init__(
        self,
        make_connections: Callable[[], CloudConnections],
        switch: LinkSwitch,
        where: Where,
        *,
        limits: LinkLimits,
        draw: Callable[[], float] = random.random,
        metrics: HubMetrics = OFF,
    ) -> None:
        """Keep what is needed; `draw` spreads retries."""
        self._metrics = metrics
        self._device_id = where.device_id
        self._make_connections = make_connections
        self._switch = switch
        self._heads: dict[str, str] = {}  # client that is connected → its head
        self._events = Events(self._wake)
        self._sender = Sender(self, STORE, limits.messages_per_s)
        self._c2d = C2dIntake(self, ROUTER)
        self._services = UpstreamServices(self, TWINS, METHODS, metrics)
        self._board = Switchboard(
            self,
            where,
            limits,
            draw,
            self._events,
            self._sender,
            self._c2d,
            self._services,
            self._link_changed,
            metrics,
        )
        self._watchers: set[str] = set()
        self._agent_is_up = False
        self._rate_timer = False

    # life

    def on_start(self) -> None:
        self._sender.start()
        self._c2d.start()
        self.tell(STORE, Watch())
        self.tell(STORE, WatchQueues(UPSTREAM_QUEUES))
        self._board.start(self._make_connections(), self._switch.is_on())
        self.set_timer(LOOK_S, LookDue())
        self.context.watch_peer(process_of(REGISTRY))

    def on_stop(self) -> None:
        self._board.stop()

    def on_turn_end(self) -> None:
        wait_s = self._sender.pump(self.clock.monotonic_s())
        if wait_s is not None and not self._rate_timer:
            self._rate_timer = True
            self.set_timer(wait_s, RateDue())
        self._sender.flush()

    def on_rate_due(self, message: RateDue) -> None:
        self._rate_timer = False  # the end of this turn sends

    def on_look_due(self, message: LookDue) -> None:
        self.set_timer(LOOK_S, LookDue())
        self._c2d.look()
        self._services.look(self._board.sources.values())
        self._board.look()

    def on_retry_due(self, message: RetryDue) -> None:
        self._board.retry(message)

    def on_settle_due(self, message: SettleDue) -> None:
        self._board.settle()

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self._sender.forget_attachments(list(self._board.sources.values()))
        self.tell(STORE, WatchQueues(UPSTREAM_QUEUES))

    def _wake(self) -> None:
        self.context.tell_self(CloudTold())

    # what there is to do

    def on_queues_waiting(self, message: QueuesWaiting) -> None:
        for queue in message.endpoint_ids:
            source = self._board.source(source_of(queue))
            source.waits = True
            self._board.consider(source)

    def on_ready(self, message: Ready) -> None:
        source = self._board.sources.get(source_of(message.endpoint_id))
        if source is not None:
            self._sender.ready(source, message)

    def on_head_started(self, message: HeadStarted) -> None:
        head = self.envelope.sender
        for identity in [who for who, its in self._heads.items() if its == head]:
            self._gone(identity)

    def on_client_changed(self, message: ClientChanged) -> None:
        self._heads[message.identity] = self.envelope.sender
        source = self._board.source(message.identity)
        source.has_client = True
        if message.model_id not in ("", source.model_id):
            source.model_id = message.model_id
            self._board.access_changed(message.identity)  # the cloud is told when it connects
        self._want(message.identity, frozenset(Feature[name] for name in message.features) & WANTED)

    def on_client_gone(self, message: ClientGone) -> None:
        if self._heads.get(message.identity) == self.envelope.sender:
            self._gone(message.identity)

    def _gone(self, identity: str) -> None:
        del self._heads[identity]
        self._board.source(identity).has_client = False
        self._want(identity, frozenset())

    def _want(self, identity: str, features: frozenset[Feature]) -> None:
        """Note which features a client wants. A module gets no cloud-to-device messages."""
        if "/" in identity:
            features -= {Feature.C2D}
        source = self._board.source(identity)
        source.used_s = self.clock.monotonic_s()
        if features == source.features:
            return
        if Feature.C2D not in features:
            self._c2d.unwanted(identity)
        self._board.want(source, features)

    def on_fetch_twin(self, message: FetchTwin) -> None:
        self._ask_twin(message.identity, None)

    def on_send_reported(self, message: SendReported) -> None:
        self._ask_twin(message.identity, message.patch)

    def _ask_twin(self, identity: str, patch: bytes | None) -> None:
        source = self._board.source(identity)
        if not self._board.is_up:
            self.reply(CloudRefused(identity, 0, self._board.reason()))
        elif source.phase is Phase.WAITING and source.fault is not None and not is_probed(source.fault.kind):
            self.reply(CloudRefused(identity, source.fault.status, source.fault.reason))
        else:
            self._services.ask(source, self.envelope, patch)
            self._board.consider(source)

    # what connections tell

    def on_cloud_told(self, message: CloudTold) -> None:
        failed: dict[Observer, CloudFault] = {}
        for observer, event in self._events.take():
            if observer is None or event is None:
                self._board.reached()
                continue
            source = self._board.sources[observer.identity]
            if source.observer is not observer:
                continue  # of a connection that was given up
            self._handle(source, observer, event, failed)
            if not source.is_waited_for and (source.is_leaving or source.waits):
                self._board.quiet(source)
        for observer, fault in failed.items():
            source = self._board.sources[observer.identity]
            if source.observer is observer:  # no word that the connection was lost
                self._board.lost(source, fault)
            self._board.consider(source)

    def _handle(
        self, source: Source, observer: Observer, event: Event, failed: dict[Observer, CloudFault]
    ) -> None:
        source.moved_s = now_s = self.clock.monotonic_s()
        if isinstance(event, Done):
            source.used_s = now_s
            source.failures = 0
            if event.number > 0:
                self._sender.arrived(source, event.number, now_s)
            else:
                self._services.answered(source, event.number, event.answer)
        elif isinstance(event, Failed):
            if event.number < 0:
                self._services.failed(source, event.number, event.fault)
            elif is_final(event.fault.kind):
                self._sender.refused(source, event.number, event.fault)
            else:
                failed.setdefault(observer, event.fault)
        elif isinstance(event, Connected):
            self._board.connected(source)
        elif isinstance(event, Lost):
            self._board.lost(source, event.fault)
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

    # the link

    def _link_changed(self, is_up: bool) -> None:
        self._metrics.link_changed(self._device_id, is_up)
        for watcher in self._watchers:
            self.tell(watcher, LinkChanged(is_up))
        if is_up and self._agent_is_up:
            self.tell(REGISTRY, RefreshScope())  # devices may have been made or disabled while it was away

    def on_peer_up(self, message: PeerUp) -> None:
        self._agent_is_up = True

    def on_peer_down(self, message: PeerDown) -> None:
        self._agent_is_up = False

    def on_watch_link(self, message: WatchLink) -> None:
        self._watchers.add(self.envelope.sender)
        self.reply(LinkChanged(self._board.is_up))

    def on_switch_link(self, message: SwitchLink) -> None:
        try:
            self._switch.switch(message.on)
        except EnvironmentFault as exc:
            self.reply(RequestFailed("SwitchLink", self.address, str(exc)))
            return
        log.info("upstream: switched %s", "on" if message.on else "off")
        self._board.switch(message.on)
        self.reply(self._board.state())

    def on_get_link_state(self, message: GetLinkState) -> None:
        self.reply(self._board.state())

    def describe(self) -> dict[str, Any]:
        return {
            "on": self._board.is_on,
            "up": self._board.is_up,
            "because": self._board.reason(),
            "sent": self._sender.sent,
            "connected": sum(source.phase is Phase.OPEN for source in self._board.sources.values()),
            "sources": len(self._board.sources),
        }

    # answers

    def on_access(self, message: Access) -> None:
        self._board.access(self.envelope.correlation_id, message)

    def on_access_changed(self, message: AccessChanged) -> None:
        self._board.access_changed(message.identity)

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
        self._board.no_access(correlation_id, reason)
