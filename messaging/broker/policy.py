"""Who may do what at the broker: the compiled `mqttBroker.authorizations` of a deployment.

Source: spec sheet broker.md sections 3.2, 4.2 and 4.3
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from messaging.broker.variables import CLIENT_ID, DEVICE_ID, IDENTITY, MODULE_ID, THIS_DEVICE_ID, filled_in
from messaging.mqtt.filters import contains, matches, overlaps

# Clients choose topics, so what is remembered of decisions is bounded; beyond it, all is decided anew.
REMEMBERED_CLIENTS: Final = 1024
REMEMBERED_TOPICS: Final = 16_384
LONGEST_REMEMBERED: Final = 256  # characters of a topic


class Operation(StrEnum):
    """What a rule allows or denies. Case counts."""

    CONNECT = "mqtt:connect"
    PUBLISH = "mqtt:publish"
    SUBSCRIBE = "mqtt:subscribe"


class ClientOfBroker(NamedTuple):
    """Who asks: an authenticated identity, `device` or `device/module`, and the client id of its CONNECT."""

    identity: str
    client_id: str


class Rule(Struct, frozen=True):
    """One rule as written, variables included. Any of its identities may do any operation on any resource.

    An identity is `iothub-hostname/device` or `iothub-hostname/device/module`, as in the reference; without
    the host name, as in its first previews, it means the same.
    """

    allow: bool
    identities: tuple[str, ...]
    operations: tuple[Operation, ...]
    resources: tuple[str, ...] = ()  # topic filters; `mqtt:connect` takes no notice of them


class Policy:
    """The rules in the order in which they count: the first that fits decides; where none does, no.

    Decisions are remembered, so a client that publishes to the same topic again costs one look-up. Not
    thread-safe.
    """

    def __init__(self, rules: Iterable[Rule], *, iothub_hostname: str, edge_device_id: str) -> None:
        self._rules = tuple(rules)
        self._identities = {name for rule in self._rules for name in rule.identities}
        self._iothub_hostname = iothub_hostname
        self._edge_device_id = edge_device_id
        self._clients: dict[ClientOfBroker, _RulesOfClient] = {}
        self._publishes: dict[tuple[ClientOfBroker, str], bool] = {}

    def may(self, who: ClientOfBroker, operation: Operation, topic_or_filter: str = "") -> bool:
        """Say whether a client may do it.

        Own IoT Hub topics of a client need no rule; the caller has seen to them before it asks here.

        Args:
            who: The client.
            operation: What it wants.
            topic_or_filter: A valid topic to publish to, a will's included; a valid filter to subscribe to;
                nothing to connect.
        """
        if operation is not Operation.PUBLISH:
            return self._rules_of(who).decide(operation, topic_or_filter)
        key = who, topic_or_filter
        known = self._publishes.get(key)
        if known is None:
            known = self._rules_of(who).decide(operation, topic_or_filter)
            if len(topic_or_filter) <= LONGEST_REMEMBERED:
                if len(self._publishes) >= REMEMBERED_TOPICS:
                    self._publishes.clear()
                self._publishes[key] = known
        return known

    def _rules_of(self, who: ClientOfBroker) -> _RulesOfClient:
        found = self._clients.get(who)
        if found is None:
            if len(self._clients) >= REMEMBERED_CLIENTS:
                self._clients.clear()
            found = self._clients[who] = self._compile(who)
        return found

    def _compile(self, who: ClientOfBroker) -> _RulesOfClient:
        device_id, _, module_id = who.identity.partition("/")
        full_name = f"{self._iothub_hostname}/{who.identity}"
        values = {
            IDENTITY: full_name,
            DEVICE_ID: device_id,
            MODULE_ID: module_id,
            CLIENT_ID: who.client_id,
            THIS_DEVICE_ID: self._edge_device_id,
        }
        # A device may be called as the IoT Hub is: the full name of another must not be taken for its id.
        is_clear = not who.identity.startswith(f"{self._iothub_hostname}/")
        names = {full_name, who.identity} if is_clear else {full_name}
        is_meant = {name: filled_in(name, values) in names for name in self._identities}
        compiled = _RulesOfClient()
        for rule in self._rules:
            if any(is_meant[name] for name in rule.identities):
                resources = [filled_in(resource, values) for resource in rule.resources]
                compiled.add(rule, [resource for resource in resources if resource is not None])
        return compiled


class _RulesOfClient:
    """The rules that are about one client, variables filled in, by operation."""

    __slots__ = ("_connect", "_publish", "_subscribe")

    def __init__(self) -> None:
        self._connect: bool | None = None
        self._publish = _InOrder()
        self._subscribe = _InOrder()

    def add(self, rule: Rule, resources: list[str]) -> None:
        if Operation.CONNECT in rule.operations and self._connect is None:
            self._connect = rule.allow
        if Operation.PUBLISH in rule.operations:
            self._publish.add(rule.allow, resources)
        if Operation.SUBSCRIBE in rule.operations:
            self._subscribe.add(rule.allow, resources)

    def decide(self, operation: Operation, topic_or_filter: str) -> bool:
        if operation is Operation.CONNECT:
            return bool(self._connect)
        if operation is Operation.PUBLISH:
            for _, allow, resource in self._publish.about(topic_or_filter):
                if matches(resource, topic_or_filter):
                    return allow
            return False
        for _, allow, resource in self._subscribe.about(topic_or_filter):
            # Allowed has to be all that the filter brings, denied is what brings anything of what is denied.
            if contains(resource, topic_or_filter) if allow else overlaps(resource, topic_or_filter):
                return allow
        return False


class _InOrder:
    """Resources in the order in which they count, found by their first level."""

    __slots__ = ("_any", "_count", "_named")

    def __init__(self) -> None:
        self._count = 0
        self._named: dict[str, list[_Resource]] = {}
        self._any: list[_Resource] = []  # those that begin with a wildcard

    def add(self, allow: bool, resources: list[str]) -> None:
        for resource in resources:
            first = resource.partition("/")[0]
            same = self._any if first in ("+", "#") else self._named.setdefault(first, [])
            same.append((self._count, allow, resource))
            self._count += 1

    def about(self, topic_or_filter: str) -> Iterable[_Resource]:
        """Return those that may have to do with a topic or filter."""
        first = topic_or_filter.partition("/")[0]
        if first in ("+", "#"):
            return heapq.merge(self._any, *self._named.values())
        named = self._named.get(first, [])
        return heapq.merge(self._any, named) if self._any else named


_Resource = tuple[int, bool, str]  # (place in the order, whether it is allowed, topic filter)
