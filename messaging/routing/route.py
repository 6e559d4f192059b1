"""Compiled routes: which endpoints a message goes to.

A route's source is a prefix of the paths that messages come from; its sink is an endpoint, which has a queue
of its own. A message goes to an endpoint once, however many routes name it.

Source: spec sheet routing.md sections 1.2, 1.3 and 4
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import Struct

from messaging.errors import RouteError
from messaging.message import Message
from messaging.routing.compile import Condition, View, compile_condition
from messaging.routing.grammar import Sink, parse_route
from messaging.text import quoted
from messaging.upstream_queues import UPSTREAM

DEFAULT_PRIORITY = 2_000_000_000  # of a route that names none: behind 0 to 9

# Output names come from clients, so the sources remembered have to be bounded.
_MOST_SOURCES_REMEMBERED = 1024
_MOST_ANSWERS_REMEMBERED = 64  # of one header; bodies decide which there are

Answer = TypeVar("Answer")


class Endpoint(Struct, frozen=True):
    """Where messages go: the cloud, or one input of a module of this edge device.

    `id` is `iothub`, which has a queue for each sender (messaging/upstream_queues.py), or
    `{edge device}/{module}/{input}`, case-sensitive, which names its queue.
    """

    id: str
    client_id: str | None = None  # the MQTT client id of the module
    input_name: str | None = None


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """One route, ready to be asked."""

    name: str
    text: str
    prefix: str  # of the source path, in lower case, ends in a slash
    endpoint: Endpoint
    priority: int  # the lowest number goes first
    ttl_s: int  # 0: the hub's
    condition: Condition | None = field(repr=False)  # None: every message


class EndpointMatch(Struct, frozen=True):
    """That a message goes to an endpoint, and by which route."""

    endpoint: Endpoint
    priority: int
    ttl_s: int
    route_name: str


def compile_route(
    name: str, text: str, *, edge_device_id: str, priority: int = DEFAULT_PRIORITY, ttl_s: int = 0
) -> CompiledRoute:
    """Compile one route of the deployment.

    The endpoint of a module's input has an id that begins with `edge_device_id`.

    Raises:
        RouteError: `text` is not a route, names a sink that does not exist, or has a condition whose types do
            not go together. No other error comes out.
    """
    syntax = parse_route(text)
    endpoint = _endpoint(syntax.sink, edge_device_id)
    condition = None if syntax.condition is None else compile_condition(syntax.condition)
    return CompiledRoute(name, text, _prefix(syntax.source), endpoint, priority, ttl_s, condition)


def is_under(source: str, prefix: str) -> bool:
    """Say whether a source path is one of those that a route with this prefix takes messages from."""
    return source.lower().startswith(prefix)


class _Candidates(Struct, frozen=True):
    """What the source of a message decides."""

    routes: tuple[CompiledRoute, ...]  # whose prefix fits
    always: tuple[EndpointMatch, ...] | None  # the answer, if none of them has a condition
    needs_body: bool


class CompiledRoutes:
    """All routes of a deployment. To be used by one thread."""

    def __init__(self, routes: Iterable[CompiledRoute]) -> None:
        self.routes = tuple(routes)
        self.endpoints = tuple({route.endpoint.id: route.endpoint for route in self.routes}.values())
        self._by_source: dict[str, _Candidates] = {}

    def needs_body(self, source: str) -> bool:
        """Say whether some condition may look at the body of messages from this source path.

        If not, messages with equal headers go to equal endpoints.
        """
        return self._candidates(source).needs_body

    def endpoints_of(self, message: Message) -> tuple[EndpointMatch, ...]:
        """Return where a message goes, an endpoint once; no endpoint means that it is dropped.

        Of several routes to one endpoint the one with the lowest priority number counts, with its time to
        live; of equal ones the one that stands first.
        """
        candidates = self._candidates(message.source)
        if candidates.always is not None:
            return candidates.always
        view = View(message)
        return _best(
            route for route in candidates.routes if route.condition is None or route.condition.evaluate(view)
        )

    def by_body(
        self, message: Message, of: Callable[[tuple[EndpointMatch, ...]], Answer]
    ) -> Callable[[bytes], Answer]:
        """Return what `endpoints_of` does for messages that differ from this one in their bodies alone.

        Conditions that look at no body are asked here, once. `of` makes the answer of what was found; for
        bodies that go the same ways it is asked once, as long as it is remembered.
        """
        view = View(message)
        routes: list[CompiledRoute] = []
        asks: list[tuple[int, Callable[[View], bool | None] | None]] = []
        for route in self._candidates(message.source).routes:
            condition = route.condition
            if condition is not None and not condition.reads_body and not condition.evaluate(view):
                continue
            needs_body = condition is not None and condition.reads_body
            asks.append((len(routes), condition.evaluate if condition and needs_body else None))
            routes.append(route)
        answers: dict[tuple[int, ...], Answer] = {}

        def answer(body: bytes) -> Answer:
            one = view.with_body(body)
            which = tuple([number for number, ask in asks if ask is None or ask(one)])
            known = answers.get(which)
            if known is None:
                if len(answers) >= _MOST_ANSWERS_REMEMBERED:
                    answers.clear()
                known = answers[which] = of(_best(routes[number] for number in which))
            return known

        return answer

    def _candidates(self, source: str) -> _Candidates:
        known = self._by_source.get(source)
        if known is None:
            routes = tuple(route for route in self.routes if is_under(source, route.prefix))
            conditions = [route.condition for route in routes if route.condition is not None]
            always = None if conditions else _best(routes)
            known = _Candidates(routes, always, any(condition.reads_body for condition in conditions))
            if len(self._by_source) >= _MOST_SOURCES_REMEMBERED:
                self._by_source.clear()
            self._by_source[source] = known
        return known


def _best(routes: Iterable[CompiledRoute]) -> tuple[EndpointMatch, ...]:
    best: dict[str, CompiledRoute] = {}
    for route in routes:
        known = best.get(route.endpoint.id)
        if known is None or route.priority < known.priority:
            best[route.endpoint.id] = route
    return tuple(EndpointMatch(r.endpoint, r.priority, r.ttl_s, r.name) for r in best.values())


def _prefix(source: str) -> str:
    """A star counts at the end only; path and prefix end in exactly one slash."""
    return source.rstrip("*").removesuffix("/").lower() + "/"


def _endpoint(sink: Sink, edge_device_id: str) -> Endpoint:
    name, address = sink.name, sink.address
    if address is None:
        if name.text.lower() != "$upstream":
            raise RouteError(
                f"System endpoint type '{name.text}' not supported.",
                name.line,
                name.column,
                hint="use $upstream",
            )
        return Endpoint(UPSTREAM)
    if name.text.lower() != "brokeredendpoint":
        reason = f"Function endpoint type '{name.text}' not supported."
        raise RouteError(reason, name.line, name.column, hint="use BrokeredEndpoint")
    # The words at the first and third place are not compared with anything, as in the reference hub.
    parts = address.text[1:-1].strip().removeprefix("/").removesuffix("/").split("/")
    if len(parts) != 4 or not parts[1] or not parts[3]:
        reason = f"Invalid address {quoted(address.text[1:-1])} of a BrokeredEndpoint."
        hint = "use /modules/{module}/inputs/{input}"
        raise RouteError(reason, address.line, address.column, hint=hint)
    client_id = f"{edge_device_id}/{parts[1]}"
    return Endpoint(f"{client_id}/{parts[3]}", client_id, parts[3])
