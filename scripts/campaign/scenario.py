"""What a campaign does, as a YAML file: an edge, a load, faults in time, expectations, and controls.

The files in `scenarios/` are the examples. Times are written `300 ms`, `2 s`, `5 min`, `1 h`; what varies
from one time to the next as `2 s ± 500 ms`, evenly spread; rates as `200/s`. Whatever is wrong is told with
its line and column before anything starts. Another fault, expectation or defect is one more row of its table.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from actors.stored import DEFAULT_PRIORITY
from messaging.nearest import did_you_mean

FOLDER: Final = Path(__file__).parent / "scenarios"
UNITS_S: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
PROCESSES: Final = ("agent", "hub", "both")
DEFECTS: Final = ("PUBACK before commit", "synchronous=OFF")
"""What a control breaks in the hub; see hub_main.py."""

T = TypeVar("T")


class BadScenario(Exception):
    """The file is no scenario; says where and what to write instead."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A time that varies."""

    middle_s: float
    around_s: float = 0.0

    def draw(self, chance: random.Random) -> float:
        """Return one time, in seconds."""
        return chance.uniform(self.middle_s - self.around_s, self.middle_s + self.around_s)


@dataclass(frozen=True, slots=True)
class RouteOfLoad:
    """What every publisher sends on one output goes to one consumer."""

    output: str
    into: str
    priority: int = DEFAULT_PRIORITY
    ttl_s: int = 0  # 0: as long as the edge keeps any


@dataclass(frozen=True, slots=True)
class Presence:
    """How long a consumer is connected, and then not."""

    there: Spread
    away: Spread


@dataclass(frozen=True, slots=True)
class Load:
    """Who sends and who receives."""

    publishers: int
    rate_per_s: float  # of each publisher
    consumers: Mapping[str, Presence | None]  # None: always connected


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL of one of `processes`: by chance, and each as often as the others."""

    processes: tuple[str, ...]
    settle: float  # how often everything may come back before the next


@dataclass(frozen=True, slots=True)
class PowerCut:
    """The hub's disk is what a cut leaves at a moment; `images` moments of each life are looked at."""

    images: int


@dataclass(frozen=True, slots=True)
class Step:
    """A fault again and again."""

    every: Spread
    times: int
    fault: Kill | PowerCut


@dataclass(frozen=True, slots=True)
class Control:
    """The same with a hub that breaks its promise: a loss must be seen, or nothing was proven."""

    defect: str
    times: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file."""

    name: str
    about: str
    routes: Mapping[str, RouteOfLoad]
    load: Load
    step: Step
    expect: Mapping[str, int]
    controls: tuple[Control, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each publisher sends on, in turn."""
        return tuple(sorted({route.output for route in self.routes.values()}))

    @property
    def is_power_cut(self) -> bool:
        return isinstance(self.step.fault, PowerCut)


def names() -> tuple[str, ...]:
    """Return the scenarios that come with the campaign."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(path: Path) -> Scenario:
    """Read a scenario.

    Raises:
        BadScenario: it cannot be read, or says what is not understood.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as exc:
        raise BadScenario(f"{path}: {exc}") from exc
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise BadScenario(f"{path}{where}: {exc.problem}") from exc
    if node is None:
        raise BadScenario(f"{path}: empty; copy one of {FOLDER}")
    try:
        return _scenario(node, path.stem)
    except _Wrong as exc:
        mark = exc.node.start_mark
        raise BadScenario(f"{path}:{mark.line + 1}:{mark.column + 1}: {exc}") from None


class _Wrong(Exception):
    def __init__(self, node: yaml.Node, what: str) -> None:
        super().__init__(what)
        self.node = node


# Readers of one value each: a YAML node in, a value out, _Wrong with the node.


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise _Wrong(node, "a text is expected here")
    return str(node.value).strip()


def _name(node: yaml.Node) -> str:
    text = _text(node)
    if not NAME.fullmatch(text):
        raise _Wrong(node, f"{text!r} is no name: small letters, digits and - are")
    return text


def _number(low: float, high: float, kind: Callable[[str], T]) -> Callable[[yaml.Node], T]:
    def read(node: yaml.Node) -> T:
        text = _text(node)
        try:
            value: Any = kind(text)
        except ValueError:
            raise _Wrong(node, f"{text!r} is no number") from None
        if not low <= value <= high:
            raise _Wrong(node, f"{text} is not in {low:g} to {high:g}")
        return value  # type: ignore[no-any-return]

    return read


_count = _number(1, 1_000_000, int)
_none = _number(0, 0, int)


def _time_s(node: yaml.Node, text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]+)", text.strip())
    if found is None or found[2] not in UNITS_S:
        raise _Wrong(node, f"{text.strip()!r} is no time; write a number and one of {', '.join(UNITS_S)}")
    return float(found[1]) * UNITS_S[found[2]]


def _spread(node: yaml.Node) -> Spread:
    middle, sign, around = _text(node).partition("±")
    spread = Spread(_time_s(node, middle), _time_s(node, around) if sign else 0.0)
    if spread.around_s > spread.middle_s:
        raise _Wrong(node, f"{_text(node)!r} may be less than nothing")
    return spread


def _whole_seconds(node: yaml.Node) -> int:
    seconds = _time_s(node, _text(node))
    if seconds < 1 or seconds != int(seconds):
        raise _Wrong(node, f"{_text(node)!r}: a route's time to live is in whole seconds, 1 or more")
    return int(seconds)


def _rate(node: yaml.Node) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/s", _text(node))
    if found is None or not float(found[1]):
        raise _Wrong(node, f"{_text(node)!r} is no rate; write 200/s")
    return float(found[1])


def _entries(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise _Wrong(node, "`name: value` lines are expected here")
    seen: set[str] = set()
    for key, _ in node.value:
        if _text(key) in seen:
            raise _Wrong(key, f"{_text(key)!r} is here twice")
        seen.add(_text(key))
    return list(node.value)


def _fields(
    node: yaml.Node, readers: Mapping[str, Callable[[yaml.Node], Any]], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Read a mapping of which all keys are known."""
    found: dict[str, Any] = {}
    for key, value in _entries(node):
        name = _text(key)
        if name not in readers:
            hint = did_you_mean(name, readers) or f"; known here: {', '.join(readers)}"
            raise _Wrong(key, f"{name!r} is not known{hint}")
        found[name] = readers[name](value)
    missing = [name for name in readers if name not in found and name not in optional]
    if missing:
        raise _Wrong(node, f"{missing[0]!r} is missing")
    return found


def _named(read: Callable[[yaml.Node], T]) -> Callable[[yaml.Node], dict[str, T]]:
    """Read a mapping of which the keys are names."""

    def read_all(node: yaml.Node) -> dict[str, T]:
        return {_name(key): read(value) for key, value in _entries(node)}

    return read_all


def _chosen(valid: tuple[str, ...]) -> Callable[[yaml.Node], str]:
    def read(node: yaml.Node) -> str:
        text = _text(node)
        if text not in valid:
            hint = did_you_mean(text, valid) or f"; known here: {', '.join(valid)}"
            raise _Wrong(node, f"{text!r} is not known{hint}")
        return text

    return read


def _list(read: Callable[[yaml.Node], T]) -> Callable[[yaml.Node], tuple[T, ...]]:
    def read_all(node: yaml.Node) -> tuple[T, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise _Wrong(node, "a list is expected here")
        return tuple(read(item) for item in node.value)

    return read_all


# The parts of a scenario.

FAULTS: Final[Mapping[str, tuple[type[Kill | PowerCut], dict[str, Callable[[yaml.Node], Any]]]]] = {
    "kill": (Kill, {"processes": _list(_chosen(PROCESSES)), "settle": _number(0, 1, float)}),
    "power cut": (PowerCut, {"images": _count}),
}


def _within(node: yaml.Node) -> int:
    found = re.fullmatch(r"within (\d+) messages", _text(node))
    if found is None:
        raise _Wrong(node, f"{_text(node)!r}: write `within 3000 messages`")
    return int(found[1])


def _at_least(node: yaml.Node) -> int:
    found = re.fullmatch(r"at least (\d+)", _text(node))
    if found is None:
        raise _Wrong(node, f"{_text(node)!r}: write `at least 1`")
    return int(found[1])


def _balanced(node: yaml.Node) -> int:
    _chosen(("balanced",))(node)
    return 0


EXPECTATIONS: Final[Mapping[str, Callable[[yaml.Node], int]]] = {
    "lost": _none,  # acknowledged, neither delivered nor waiting nor expired
    "out of order": _none,  # per source, endpoint and priority, of the first occurrences
    "duplicates": _within,  # beyond what a publisher sent again
    "ledger": _balanced,
    "expired": _at_least,
    "bystander restarts": _none,
    "left after down": _none,
}


def _presence(node: yaml.Node) -> Presence | None:
    if isinstance(node, yaml.ScalarNode):
        _chosen(("always",))(node)
        return None
    return Presence(**_fields(node, {"there": _spread, "away": _spread}))


def _route(node: yaml.Node) -> RouteOfLoad:
    optional = {"priority": _number(0, 9, int), "time to live": _whole_seconds}
    found = _fields(node, {"output": _name, "into": _name, **optional}, tuple(optional))
    return RouteOfLoad(
        found["output"],
        found["into"],
        found.get("priority", DEFAULT_PRIORITY),
        found.get("time to live", 0),
    )


def _load(node: yaml.Node) -> Load:
    found = _fields(node, {"publishers": _number(1, 16, int), "rate": _rate, "consumers": _named(_presence)})
    return Load(found["publishers"], found["rate"], found["consumers"])


def _step(node: yaml.Node) -> Step:
    entries = {_text(key): value for key, value in _entries(node)}
    if "fault" not in entries:
        raise _Wrong(node, "'fault' is missing")
    kind, readers = FAULTS[_chosen(tuple(FAULTS))(entries["fault"])]
    found = _fields(node, {"every": _spread, "times": _count, "fault": _text, **readers})
    return Step(found["every"], found["times"], kind(**{name: found[name] for name in readers}))


def _steps(node: yaml.Node) -> Step:
    steps = _list(_step)(node)
    if len(steps) > 1:
        raise _Wrong(node, f"{len(steps)} steps; one is understood so far")
    return steps[0]


def _controls(node: yaml.Node) -> tuple[Control, ...]:
    found = _fields(node, dict.fromkeys(DEFECTS, _count), DEFECTS)
    return tuple(Control(defect, times) for defect, times in found.items())


def _scenario(node: yaml.Node, name: str) -> Scenario:
    found = _fields(
        node,
        {
            "about": _text,
            "edge": lambda edge: _fields(edge, {"routes": _named(_route)}),
            "load": _load,
            "steps": _steps,
            "expect": lambda expect: _fields(expect, EXPECTATIONS, tuple(EXPECTATIONS)),
            "controls": _controls,
        },
        ("controls",),
    )
    parts = {_text(key): value for key, value in _entries(node)}
    routes, work = found["edge"]["routes"], found["load"]
    for route in routes.values():
        if route.into not in work.consumers:
            raise _Wrong(
                parts["edge"], f"a route leads into {route.into!r}, which is no consumer of the load"
            )
    for consumer in work.consumers:
        if all(route.into != consumer for route in routes.values()):
            raise _Wrong(parts["load"], f"no route leads into the consumer {consumer!r}")
    ways = [(route.output, route.into) for route in routes.values()]
    if len(set(ways)) < len(ways):
        raise _Wrong(parts["edge"], "two routes lead from one output into one consumer")
    if "expired" in found["expect"] and not any(route.ttl_s for route in routes.values()):
        raise _Wrong(parts["expect"], "nothing can expire: no route has a time to live")
    if isinstance(found["steps"].fault, Kill) and any(
        control.defect == "synchronous=OFF" for control in found.get("controls", ())
    ):
        raise _Wrong(parts["controls"], "a kill loses nothing that was written, synced or not")
    return Scenario(
        name, found["about"], routes, work, found["steps"], found["expect"], found.get("controls", ())
    )
