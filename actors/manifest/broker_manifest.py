"""Reads `mqttBroker` of the desired properties of `$edgeHub`: who may do what, and bridges.

All mistakes of a section are told at once, in the words of the reference and each with its path; a value of a
wrong type is told alone. Bridges are read first, and their mistakes hide those of the authorizations.

Source: spec sheet broker.md sections 4.1, 4.4, 7.1 and 7.2
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from actors.manifest.json_reader import Node
from messaging.broker.bridges import UPSTREAM, Bridge, BridgeRule, Direction
from messaging.broker.config import BrokerSpec
from messaging.broker.policy import Operation, Rule
from messaging.broker.variables import VARIABLES, unknown_variable, without_variables
from messaging.mqtt.filters import validate_filter
from messaging.nearest import nearest

MOST_TOLD: Final = 20  # mistakes of a section
LONGEST_SHOWN: Final = 120  # characters of a text
OPERATIONS: Final = (Operation.PUBLISH, Operation.SUBSCRIBE, Operation.CONNECT)
SETTINGS: Final = '"settings": [{"direction": "out", "topic": "alerts/#"}]'
# Ids of devices and modules (messaging/identity.py) with `/` between them, the name of the IoT Hub in front.
_NAMES: Final = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']+(?:/[A-Za-z0-9\-.%_*?!(),:=@$']+){0,2}", re.ASCII)


class _Way(StrEnum):
    """`direction` of a bridge's rule."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


_DIRECTIONS: Final = {
    _Way.IN: (Direction.IN,),
    _Way.OUT: (Direction.OUT,),
    _Way.BOTH: (Direction.IN, Direction.OUT),
}


def parse_broker(node: Node) -> BrokerSpec:
    """Read an `mqttBroker` section.

    Raises:
        DeploymentError: Something in it is wrong; nothing of it may be used.
    """
    fields = node.properties(("authorizations", "bridges"))
    bridges: tuple[Bridge, ...] = ()
    rules: tuple[Rule, ...] = ()
    if (section := fields.get("bridges")) is not None:
        mistakes = _Mistakes("Error validating bridge configuration")
        bridges = _bridges(section, mistakes)
        mistakes.raise_any(section)
    if (section := fields.get("authorizations")) is not None:
        mistakes = _Mistakes("Error validating authorization policy")
        rules = tuple(_rules(section, mistakes))
        mistakes.raise_any(section)
    return BrokerSpec(rules, bridges)


class _Mistakes:
    """What is wrong in one section."""

    def __init__(self, heading: str) -> None:
        self._heading = heading
        self._texts: list[str] = []
        self._untold = 0

    def add(self, node: Node, text: str) -> None:
        if len(self._texts) < MOST_TOLD:
            self._texts.append(f"{text} (at {node.source.place(node.path)})")
        else:
            self._untold += 1

    def raise_any(self, section: Node) -> None:
        if self._texts:
            more = [f"and {self._untold} more"] if self._untold else []
            raise section.error(f"{self._heading}: {'; '.join([*self._texts, *more])}")


def _shown(text: str) -> str:
    """Return text of the deployment as the reference shows it, without quotes, but escaped and cut."""
    return repr(text)[1:-1] if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]!r}"[1:-1] + "…"


# authorizations


def _rules(section: Node, mistakes: _Mistakes) -> Iterator[Rule]:
    """Yield the rules in the order in which they count: what a statement denies before what it allows."""
    for number, statement in enumerate(section.items("an array of statements")):
        where = f"Statement {number}"
        fields = statement.properties(("identities", "allow", "deny"))
        identities = _identities(fields.get("identities"), statement, where, mistakes)
        for name in ("deny", "allow"):
            if (given := fields.get(name)) is not None:
                for rule in given.items("an array of rules"):
                    operations, resources = _rule(rule, where, name.capitalize(), mistakes)
                    yield Rule(name == "allow", identities, operations, resources)


def _identities(given: Node | None, statement: Node, where: str, mistakes: _Mistakes) -> tuple[str, ...]:
    entries = [] if given is None else list(given.items("an array of identities"))
    if not entries:
        mistakes.add(given or statement, f"{where}: Identities list must not be empty")
    for entry in entries:
        name = entry.text()
        if not _has_unknown_variable(entry, where, mistakes) and not _NAMES.fullmatch(
            without_variables(name)
        ):
            mistakes.add(entry, f"{where}: Identity name is invalid: {_shown(name)}")
    return tuple(entry.text() for entry in entries)


def _rule(
    rule: Node, where: str, effect: str, mistakes: _Mistakes
) -> tuple[tuple[Operation, ...], tuple[str, ...]]:
    fields = rule.properties(("operations", "resources"))
    given, resources = fields.get("operations"), fields.get("resources")
    entries = [] if given is None else list(given.items("an array of operations"))
    if not entries:
        mistakes.add(given or rule, f"{where}: {effect}: Operations list must not be empty")
    names = [entry.text() for entry in entries]
    for entry in entries:
        if not _has_unknown_variable(entry, where, mistakes) and entry.value not in OPERATIONS:
            supported = ", ".join(OPERATIONS)
            text = (
                f"Unknown mqtt operation: {_shown(entry.text())}. List of supported operations: {supported}"
            )
            mistakes.add(entry, f"{where}: {text}")
    filters = [] if resources is None else list(resources.items("an array of topic filters"))
    if not filters and names != [Operation.CONNECT]:
        mistakes.add(resources or rule, f"{where}: {effect}: Resources list must not be empty")
    for entry in filters:
        if not _has_unknown_variable(entry, where, mistakes):
            _check_filter(entry, without_variables(entry.text()), f"{where}: {effect}", mistakes)
    known = tuple(operation for operation in OPERATIONS if operation in names)
    return known, tuple(entry.text() for entry in filters)


def _has_unknown_variable(entry: Node, where: str, mistakes: _Mistakes) -> bool:
    unknown = unknown_variable(entry.text())
    if unknown is None:
        return False
    similar = nearest(unknown.strip("{} "), VARIABLES)
    hint = f", did you mean {{{{{similar}}}}}?" if similar else ""
    mistakes.add(entry, f"{where}: Invalid variable name: {_shown(unknown)}{hint}")
    return True


def _check_filter(entry: Node, as_filled_in: str, where: str, mistakes: _Mistakes) -> None:
    try:
        validate_filter(as_filled_in)
    except ValueError as exc:
        text = f"Resource (topic filter) is invalid: {_shown(entry.text())}: {exc}"
        mistakes.add(entry, f"{where}: {text}")


# bridges


def _bridges(section: Node, mistakes: _Mistakes) -> tuple[Bridge, ...]:
    """Return the bridges; those to the same endpoint are one."""
    by_endpoint: dict[str, list[BridgeRule]] = {}
    for bridge in section.items("an array of bridges"):
        fields = bridge.properties(("endpoint", "settings"))
        endpoint = fields.text("endpoint")
        if not endpoint.strip():
            mistakes.add(fields.get("endpoint") or bridge, "Bridge endpoint must not be empty")
        if endpoint.casefold() == UPSTREAM:
            endpoint = UPSTREAM
        given = fields.need("settings", SETTINGS)
        settings = list(given.items("an array of rules"))
        if not settings and endpoint != UPSTREAM:
            mistakes.add(given, f"Bridge {_shown(endpoint)}: Settings must not be empty")
        rules = by_endpoint.setdefault(endpoint, [])
        for number, rule in enumerate(settings):
            rules += _bridge_rules(rule, f"Bridge {_shown(endpoint)}: Rule {number}", mistakes)
    return tuple(Bridge(endpoint, tuple(rules)) for endpoint, rules in by_endpoint.items())


def _bridge_rules(node: Node, where: str, mistakes: _Mistakes) -> list[BridgeRule]:
    fields = node.properties(("direction", "topic", "inPrefix", "outPrefix"))
    direction = fields.need("direction", '"direction": "out"')
    way = direction.choice(_Way)
    topic = fields.need("topic", '"topic": "alerts/#"')
    in_prefix, out_prefix = fields.text("inPrefix"), fields.text("outPrefix")
    for name, prefix in (("inPrefix", in_prefix), ("outPrefix", out_prefix)):
        if "+" in prefix or "#" in prefix:
            text = f"{name[0].upper()}{name[1:]} must not contain wildcards (+, #): {_shown(prefix)}"
            mistakes.add(fields.get(name) or node, f"{where}: {text}")
            return []
    rule = BridgeRule(_DIRECTIONS[way][0], topic.text(), in_prefix, out_prefix)
    try:
        if rule.topic:  # none at all: the prefix alone is the topic
            validate_filter(rule.topic)
        validate_filter(rule.source)
        if out_prefix:
            validate_filter(out_prefix)
    except ValueError as exc:
        mistakes.add(topic, f"{where}: Topic is invalid: {_shown(rule.topic)}: {exc}")
        return []
    return [BridgeRule(direction, rule.topic, in_prefix, out_prefix) for direction in _DIRECTIONS[way]]
