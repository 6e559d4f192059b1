"""Decides where each message goes, and hands it to the store in the name of whoever brought it.

Understands: Publish, C2dReceived, SetRoutes, ListRoutes, ListEndpoints, TraceRouting; ActorRestarted of
             the store
Tells:       hub/store (Append, KeepQueues), heads (Endpoints)
Started by:  HubRootActor with the routes of the hub's configuration, or those that were set since
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from actors.agent_hub_messages import Routes, SetRoutes, set_routes
from actors.hub.c2d_queues import queue_of, time_to_live_s
from actors.hub.config import RouteText
from actors.hub.trail import RoutingTrail, TraceRouting, Way, has_message_id
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.store.messages import Append, KeepQueues
from actors.upstream.messages import C2dReceived
from messaging.errors import RouteError
from messaging.identity import Identity
from messaging.kinds import data_message, message
from messaging.lifecycle import ActorRestarted, Watch
from messaging.message import Message, decode_header, sender_of
from messaging.routing.route import (
    DEFAULT_PRIORITY,
    CompiledRoute,
    CompiledRoutes,
    EndpointMatch,
    compile_route,
)
from messaging.text import quoted
from messaging.upstream_queues import UPSTREAM, upstream_queue

log = logging.getLogger(__name__)

# Senders choose headers (message ids!), so what is remembered is bounded.
REMEMBERED_HEADERS: Final = 4096
REMEMBERED_ASKS: Final = 256
LONGEST_REMEMBERED_BYTES: Final = 2048

# What stands for sender and route in the trail of a message from the cloud.
C2D_SENDER: Final = "$upstream"
C2D_ROUTE: Final = "(cloud-to-device)"

NOWHERE: Final = Way((), (), has_id=False)


@data_message
class Publish:
    """What one read of a connection brought, to be routed and stored. Answered by the store with Stored."""

    identity: str
    epoch: int  # of the connection; grows with each CONNECT
    index: int  # counts the batches of one connection from 0
    headers: tuple[bytes, ...]  # distinct; see messaging/message.py
    entries: tuple[tuple[int, bytes], ...]  # (index of its header, body)


@message
class ListEndpoints:
    """Tell which inputs of modules routes lead to. Answered with Endpoints, now and after changes."""


@message
class Endpoints:
    """The endpoints of modules that routes lead to, as (endpoint id, client id, input name)."""

    endpoints: tuple[tuple[str, str, str], ...]


@message
class ListRoutes:
    """Tell the routes. Answered with Routes."""


class KeptRoutes:
    """The routes that were set last. Outlives a restart of the router."""

    def __init__(self, routes: Iterable[RouteText], ttl_s: int | None) -> None:
        self.now = set_routes(routes, ttl_s)


class RouterActor(EdgeActor):
    """Applies the compiled routes. A route that does not compile is left out; the others work."""

    def __init__(
        self,
        device_id: str,
        store: str,
        kept: KeptRoutes,
        trail: RoutingTrail,
        metrics: HubMetrics = OFF,
    ) -> None:
        self._metrics = metrics
        self._device_id = device_id
        self._hub = str(Identity.edge_hub(device_id))
        self._store = store
        self._kept = kept
        self._compiled = CompiledRoutes(())
        self._bad: tuple[tuple[str, str, str, int, int], ...] = ()
        self._ttl_s: float | None = None
        self._known: dict[bytes, Way] = {}
        self._asks: dict[bytes, Callable[[bytes], Way]] = {}  # of headers whose messages go by their bodies
        self._trail = trail
        self._listeners: set[str] = set()
        self._epochs = itertools.count(1)

    def on_start(self) -> None:
        for name, text, _, _ in self._kept.now.routes:
            log.info("route '%s': %s", name, quoted(text))
        self._epochs = itertools.count(int(self.clock.monotonic_s() * 1e6))
        self.tell(self._store, Watch())
        self._compile()

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        self._tell_store()  # it may have forgotten which queues it was giving up

    def on_set_routes(self, message: SetRoutes) -> None:
        """Change the routes. The agent repeats them whenever it meets the hub, so mostly nothing changes."""
        before = self._kept.now
        if message != before:
            self._kept.now = message
            self._compile()
            log.info("routes changed: %s", _difference(before, message))
            for listener in self._listeners:
                self.tell(listener, self._endpoints())
        self.reply(self._routes())

    def _compile(self) -> None:
        good: list[CompiledRoute] = []
        bad: list[tuple[str, str, str, int, int]] = []
        for name, text, priority, ttl_s in self._kept.now.routes:
            try:
                good.append(
                    compile_route(name, text, edge_device_id=self._device_id, priority=priority, ttl_s=ttl_s)
                )
            except RouteError as exc:
                log.error("route '%s' is left out: %s; correct it in the deployment", name, exc)
                bad.append((name, text, str(exc), exc.line, exc.column))
        self._compiled = CompiledRoutes(good)
        self._bad = tuple(bad)
        self._ttl_s = self._kept.now.ttl_s
        self._known.clear()
        self._asks.clear()
        self._tell_store()

    def _tell_store(self) -> None:
        if not self._bad:  # one that is left out may have led to any of the others
            self.tell(self._store, KeepQueues(tuple(endpoint.id for endpoint in self._compiled.endpoints)))

    def on_list_endpoints(self, message: ListEndpoints) -> None:
        self._listeners.add(self.envelope.sender)
        self.reply(self._endpoints())

    def on_list_routes(self, message: ListRoutes) -> None:
        self.reply(self._routes())

    def on_publish(self, message: Publish) -> None:
        try:
            self._route(message)
        except Exception:
            log.exception("a batch of %s cannot be routed; each message is tried by itself", message.identity)
            self._route_around_poison(message)

    def on_c2d_received(self, message: C2dReceived) -> None:
        """Put a message from the cloud into the queue of its device, whose head takes it from there."""
        header = message.header
        ttl_s = time_to_live_s(header, self.clock.now_s())
        match = (queue_of(message.device_id), DEFAULT_PRIORITY, ttl_s)
        # An epoch of its own for each: one that is refused shall not keep the others out.
        alone = Publish(C2D_SENDER, next(self._epochs), 0, (header,), ((0, message.body),))
        way = Way((match,), (C2D_ROUTE,), has_message_id(header))
        self._append(alone, [(header, way)], alone.entries)

    def _route(self, message: Publish) -> None:
        known = self._known
        routed: list[tuple[bytes, Way]] = []
        for header in message.headers:
            way = known.get(header)
            if way is None:
                decoded = decode_header(header, b"")
                if self._compiled.needs_body(decoded.source):
                    self._publish_by_body(message)
                    return
                way = self._remember(header, self._way(header, decoded))
            routed.append((header, way))
        self._append(message, routed, message.entries)

    def _publish_by_body(self, message: Publish) -> None:
        """Route each message by itself: some condition looks at the body."""
        asks = [self._by_body(header) for header in message.headers]
        routed: list[tuple[bytes, Way]] = []
        places: dict[tuple[int, int], int] = {}  # the same way may be made twice, which costs a header more
        entries = []
        for index, body in message.entries:
            way = asks[index](body)
            place = places.setdefault((index, id(way)), len(routed))
            if place == len(routed):
                routed.append((message.headers[index], way))
            entries.append((place, body))
        self._append(message, routed, tuple(entries))

    def _by_body(self, header: bytes) -> Callable[[bytes], Way]:
        """Return what says where messages with this header go."""
        ask = self._asks.get(header)
        if ask is None:
            empty = decode_header(header, b"")
            self._metrics.saw(header, empty)
            ask = self._compiled.by_body(empty, partial(self._way_to, header, empty))
            if len(header) <= LONGEST_REMEMBERED_BYTES:
                if len(self._asks) >= REMEMBERED_ASKS:
                    self._asks.clear()
                self._asks[header] = ask
        return ask

    def _route_around_poison(self, message: Publish) -> None:
        """Route each message by itself; one for which that fails goes nowhere, and among the dead letters.

        The batch goes on, or its client would send it again and again.
        """
        routed: list[tuple[bytes, Way]] = []
        entries = []
        for index, body in message.entries:
            header = message.headers[index]
            way = NOWHERE
            try:
                way = self._way(header, decode_header(header, body))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this message alone
                alone = (message.identity, message.epoch, message.index, (header,), ((0, body),))
                self.context.dead_letter(self.envelope._replace(correlation_id=0, body=alone), exc)
            entries.append((len(routed), body))
            routed.append((header, way))
        self._append(message, routed, tuple(entries))

    def _append(
        self,
        message: Publish,
        routed: list[tuple[bytes, Way]],
        entries: tuple[tuple[int, bytes], ...],
    ) -> None:
        if message.identity not in (C2D_SENDER, self._hub):  # nobody's telemetry
            self._metrics.received(message.identity, routed, entries)
        headers = tuple([(header, way.matches) for header, way in routed])
        self.forward(self._store, Append(message.identity, message.epoch, message.index, headers, entries))
        traced = [pair for pair in routed if pair[1].has_id]
        if traced:
            self._trail.routed(self.envelope.sent_at_s, self.clock.now_s(), message.identity, traced)

    def on_trace_routing(self, message: TraceRouting) -> None:
        self.reply(self._trail.find(message.message_id))

    def describe(self) -> dict[str, Any]:
        return {"routes": len(self._compiled.routes), "bad_routes": len(self._bad)}

    def _way(self, header: bytes, message: Message) -> Way:
        self._metrics.saw(header, message)
        return self._way_to(header, message, self._compiled.endpoints_of(message))

    def _way_to(self, header: bytes, message: Message, found: tuple[EndpointMatch, ...]) -> Way:
        matches = tuple(
            (
                self._queue(match.endpoint.id, message),
                match.priority,
                float(match.ttl_s) if match.ttl_s else self._ttl_s,
            )
            for match in found
        )
        return Way(matches, tuple([match.route_name for match in found]), has_message_id(header))

    def _queue(self, endpoint_id: str, message: Message) -> str:
        """Return the queue of an endpoint for a message; one that names no sender is the hub's own."""
        if endpoint_id != UPSTREAM:
            return endpoint_id
        return upstream_queue(sender_of(message.system_properties) or self._hub)

    def _remember(self, header: bytes, way: Way) -> Way:
        if len(header) <= LONGEST_REMEMBERED_BYTES:
            if len(self._known) >= REMEMBERED_HEADERS:
                self._known.clear()
            self._known[header] = way
        return way

    def _routes(self) -> Routes:
        good = tuple((r.name, r.text, r.priority, r.ttl_s, r.endpoint.id) for r in self._compiled.routes)
        return Routes(good, self._bad)

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            tuple(
                (endpoint.id, endpoint.client_id, endpoint.input_name)
                for endpoint in self._compiled.endpoints
                if endpoint.client_id is not None and endpoint.input_name is not None
            )
        )


def _difference(before: SetRoutes, after: SetRoutes) -> str:
    """Say which routes are new, changed or gone, by name."""
    old, new = ({route[0]: route[1:] for route in routes.routes} for routes in (before, after))
    kinds = {
        "added": new.keys() - old.keys(),
        "changed": {name for name in old.keys() & new.keys() if old[name] != new[name]},
        "removed": old.keys() - new.keys(),
    }
    parts = [f"{kind} {', '.join(sorted(names))}" for kind, names in kinds.items() if names]
    if before.ttl_s != after.ttl_s:
        parts.append(f"time to live {'none' if after.ttl_s is None else f'{after.ttl_s} s'}")
    return "; ".join(parts) or "their order"
