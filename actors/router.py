"""Decides where each message goes, and hands it to the store in the name of the head.

Understands: Publish, SetRoutes, ListRoutes, ListEndpoints
Tells:       hub/store (Append), heads (Endpoints)
Started by:  HubRootActor with the routes of the hub's configuration
"""

from __future__ import annotations

import logging
from typing import Any, Final

from actors.base import EdgeActor
from actors.hub_config import RouteText
from actors.store import Append
from messaging.errors import RouteError
from messaging.kinds import data_message, message
from messaging.message import decode_header
from messaging.routing.route import CompiledRoute, CompiledRoutes, compile_route

log = logging.getLogger(__name__)

# Senders choose headers (message ids!), so what is remembered is bounded.
REMEMBERED_HEADERS: Final = 4096
LONGEST_REMEMBERED_BYTES: Final = 2048

Matches = tuple[tuple[str, int, float | None], ...]


@data_message
class Publish:
    """What one read of a connection brought, to be routed and stored. Answered by the store with Stored."""

    identity: str
    epoch: int  # of the connection; grows with each CONNECT
    index: int  # counts the batches of one connection from 0
    headers: tuple[bytes, ...]  # distinct; see messaging/message.py
    entries: tuple[tuple[int, bytes], ...]  # (index of its header, body)


@message
class SetRoutes:
    """Use these routes from now on, as (name, text, priority, time to live in s or 0). Queues stay."""

    routes: tuple[tuple[str, str, int, int], ...]
    ttl_s: int | None  # of routes without one of their own; None: for ever


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


@message
class Routes:
    """The routes in force, as (name, text), and those left out, as (name, text, problem with position)."""

    good: tuple[tuple[str, str], ...]
    bad: tuple[tuple[str, str, str], ...]


class RouterActor(EdgeActor):
    """Applies the compiled routes. A route that does not compile is left out; the others work."""

    def __init__(self, device_id: str, store: str, routes: tuple[RouteText, ...], ttl_s: int | None) -> None:
        self._device_id = device_id
        self._store = store
        self._first = (tuple((r.name, r.text, r.priority, r.ttl_s) for r in routes), ttl_s)
        self._compiled = CompiledRoutes(())
        self._bad: tuple[tuple[str, str, str], ...] = ()
        self._ttl_s: float | None = None
        self._known: dict[bytes, Matches] = {}
        self._listeners: set[str] = set()

    def on_start(self) -> None:
        self.on_set_routes(SetRoutes(*self._first))

    def on_set_routes(self, message: SetRoutes) -> None:
        good: list[CompiledRoute] = []
        bad: list[tuple[str, str, str]] = []
        for name, text, priority, ttl_s in message.routes:
            try:
                good.append(
                    compile_route(name, text, edge_device_id=self._device_id, priority=priority, ttl_s=ttl_s)
                )
            except RouteError as exc:
                log.error("route '%s' is left out: %s", name, exc)
                bad.append((name, text, str(exc)))
        self._compiled = CompiledRoutes(good)
        self._bad = tuple(bad)
        self._ttl_s = message.ttl_s
        self._known.clear()
        for listener in self._listeners:
            self.tell(listener, self._endpoints())

    def on_list_endpoints(self, message: ListEndpoints) -> None:
        self._listeners.add(self.envelope.sender)
        self.reply(self._endpoints())

    def on_list_routes(self, message: ListRoutes) -> None:
        self.reply(Routes(tuple((r.name, r.text) for r in self._compiled.routes), self._bad))

    def on_publish(self, message: Publish) -> None:
        try:
            self._route(message)
        except Exception:
            log.exception("a batch of %s cannot be routed; each message is tried by itself", message.identity)
            self._route_around_poison(message)

    def _route(self, message: Publish) -> None:
        known = self._known
        routed: list[tuple[bytes, Matches]] = []
        for header in message.headers:
            matches = known.get(header)
            if matches is None:
                if self._compiled.needs_body(decode_header(header, b"").source):
                    self._publish_by_body(message)
                    return
                matches = self._remember(header, self._matches(header, b""))
            routed.append((header, matches))
        self._append(message, tuple(routed), message.entries)

    def _publish_by_body(self, message: Publish) -> None:
        """Route each message by itself: some condition looks at the body."""
        routed: dict[tuple[bytes, Matches], int] = {}
        entries = []
        for index, body in message.entries:
            header = message.headers[index]
            to = routed.setdefault((header, self._matches(header, body)), len(routed))
            entries.append((to, body))
        self._append(message, tuple(routed), tuple(entries))

    def _route_around_poison(self, message: Publish) -> None:
        """Route each message by itself; one for which that fails goes nowhere, and among the dead letters.

        The batch goes on, or its client would send it again and again.
        """
        routed: list[tuple[bytes, Matches]] = []
        entries = []
        for index, body in message.entries:
            header = message.headers[index]
            matches: Matches = ()
            try:
                matches = self._matches(header, body)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this message alone
                alone = (message.identity, message.epoch, message.index, (header,), ((0, body),))
                self.context.dead_letter(self.envelope._replace(correlation_id=0, body=alone), exc)
            entries.append((len(routed), body))
            routed.append((header, matches))
        self._append(message, tuple(routed), tuple(entries))

    def _append(
        self,
        message: Publish,
        routed: tuple[tuple[bytes, Matches], ...],
        entries: tuple[tuple[int, bytes], ...],
    ) -> None:
        append = Append(message.identity, message.epoch, message.index, routed, entries)
        self.forward(self._store, append)

    def describe(self) -> dict[str, Any]:
        return {"routes": len(self._compiled.routes), "bad_routes": len(self._bad)}

    def _matches(self, header: bytes, body: bytes) -> Matches:
        found = self._compiled.endpoints_of(decode_header(header, body))
        return tuple(
            (match.endpoint.id, match.priority, float(match.ttl_s) if match.ttl_s else self._ttl_s)
            for match in found
        )

    def _remember(self, header: bytes, matches: Matches) -> Matches:
        if len(header) <= LONGEST_REMEMBERED_BYTES:
            if len(self._known) >= REMEMBERED_HEADERS:
                self._known.clear()
            self._known[header] = matches
        return matches

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            tuple(
                (endpoint.id, endpoint.client_id, endpoint.input_name)
                for endpoint in self._compiled.endpoints
                if endpoint.client_id is not None and endpoint.input_name is not None
            )
        )
