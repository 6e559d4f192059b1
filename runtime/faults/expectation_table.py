"""What fault scripts may expect: names, forms, and which of them make no sense for a scenario."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from messaging.errors import ConfigError
from messaging.text import quoted
from runtime.faults import yaml_reader as y
from runtime.faults.scenario import BYSTANDERS, UPSTREAM, Scenario
from runtime.faults.yaml_reader import Form, Wrong


@dataclass(frozen=True, slots=True)
class ExpectationKind:
    """One expectation."""

    name: str
    form: Form[Any]
    about: str
    check: Callable[[Scenario, Any], None]  # raises ConfigError where it cannot be


class Range(NamedTuple):
    """From … to, both allowed."""

    least: int
    most: int | None  # None: no limit

    def holds(self, value: float) -> bool:
        return value >= self.least and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return f"at most {self.most}" if self.least == 0 else f"{self.least} to {self.most}"


def _range(node: y.Node) -> Range:
    text = y.read_text(node)
    if found := re.fullmatch(r"at least (\d{1,9})", text):
        return Range(int(found[1]), None)
    if found := re.fullmatch(r"at most (\d{1,9})", text):
        return Range(0, int(found[1]))
    if found := re.fullmatch(r"(\d{1,9})(?: to (\d{1,9}))?", text):
        low, high = int(found[1]), int(found[2] or found[1])
        if high < low:
            raise Wrong(node, f"{quoted(text)}: the first number is above the second")
        return Range(low, high)
    raise Wrong(node, f"{quoted(text)}: write `at least 1`, `at most 5`, `2 to 4` or a number")


RANGE: Final = Form("`at least 1`, `at most 5`, `2 to 4` or a number", _range)
ZERO: Final = Form("`0`", y.number(0, 0))


def _within(node: y.Node) -> int:
    found = re.fullmatch(r"within (\d{1,6}) messages", y.read_text(node))
    if found is None:
        raise Wrong(node, f"{quoted(y.read_text(node))}: write `within 3000 messages`")
    return int(found[1])


def _within_time(node: y.Node) -> float:
    word, _, rest = y.read_text(node).partition(" ")
    if word != "within":
        raise Wrong(node, f"{quoted(y.read_text(node))}: write `within 5 s`")
    return y.read_time_s(y.ScalarNode(node.tag, rest, node.start_mark, node.end_mark))


def _slope(node: y.Node) -> int:
    found = re.fullmatch(r"below (.+)/min", y.read_text(node))
    if found is None:
        raise Wrong(node, f"{quoted(y.read_text(node))}: write `below 2 MB/min`")
    return y.read_size_bytes(y.ScalarNode(node.tag, found[1], node.start_mark, node.end_mark))


def _anything(scenario: Scenario, value: Any) -> None:
    """It always makes sense."""


def _has_ttl(scenario: Scenario, value: Range) -> None:
    if value.least and not any(route.ttl_s for route in scenario.edge.routes.values()):
        raise ConfigError("nothing can expire: no route has a time to live")


def _can_salvage(scenario: Scenario, value: Any) -> None:
    if not scenario.uses("damage database"):
        raise ConfigError("nothing can be salvaged: no step damages the database")


def _restarts(scenario: Scenario, value: Mapping[str, Range]) -> None:
    known = ("agent", "edgeHub", "edgeCloud", *BYSTANDERS, *scenario.edge.modules)
    for name in value:
        if name not in known:
            raise ConfigError(f"{quoted(name)} does not run here; there are {', '.join(known)}")


def _has_upstream(scenario: Scenario, value: Any) -> None:
    if all(route.into != UPSTREAM for route in scenario.edge.routes.values()):
        raise ConfigError("no route leads to the cloud")


_ALL: Final = (
    ExpectationKind(
        "lost",
        ZERO,
        "no message whose publisher was told that it is stored is missing at a consumer or in the cloud, "
        "unless the ledger says that it expired or was dropped",
        _anything,
    ),
    ExpectationKind("out of order", ZERO, "of one source on one route, first occurrences", _anything),
    ExpectationKind(
        "duplicates",
        Form("`within 3000 messages`", _within),
        "what came again was one of the last so many over another connection, or was sent again by its "
        "publisher",
        _anything,
    ),
    ExpectationKind("ledger", y.choice("balanced"), "its equations hold in the end", _anything),
    ExpectationKind("expired", RANGE, "messages, by the ledger", _has_ttl),
    ExpectationKind("dropped", RANGE, "messages, by the ledger; 0 without a word", _anything),
    ExpectationKind(
        "damaged", RANGE, "messages that came with another content than was sent; 0 without a word", _anything
    ),
    ExpectationKind("salvaged", RANGE, "messages of a damaged database that were saved", _can_salvage),
    ExpectationKind("received", RANGE, "different messages by consumers and cloud", _anything),
    ExpectationKind("refused", RANGE, "connects that found nobody listening", _anything),
    ExpectationKind(
        "restarts",
        Form(
            "by name: a number as above",
            lambda node: {y.read_text(key): _range(value) for key, value in y.read_entries(node)},
        ),
        "of `agent`, `edgeHub`, `edgeCloud` and modules",
        _restarts,
    ),
    ExpectationKind("bystander restarts", ZERO, "modules that were not meant stay as they are", _anything),
    ExpectationKind("actor failures", RANGE, "of all actors, at the end", _anything),
    ExpectationKind("dead actors", ZERO, "each actor of agent and hub answers in the end", _anything),
    ExpectationKind(
        "recovered",
        Form("`within 5 s`", _within_time),
        "after each fault: all runs, and each publisher is told again that something is stored",
        _anything,
    ),
    ExpectationKind(
        "upstream recovered",
        Form("`within 5 s`", _within_time),
        "after each fault: something new reaches the cloud",
        _has_upstream,
    ),
    ExpectationKind(
        "memory slope",
        Form("`below 2 MB/min`", _slope),
        "of the hub, over its life; PSS",
        _anything,
    ),
    ExpectationKind("left after down", ZERO, "processes and files in the run directory", _anything),
)
EXPECTATIONS: Final[Mapping[str, ExpectationKind]] = {kind.name: kind for kind in _ALL}
