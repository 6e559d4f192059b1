"""Reads YAML so that whatever is wrong is told with line and column: nodes in, values out.

A `Form` is one sort of value: how it is read, and the words in which the reference page says what it looks
like. `Fields` is a mapping of which all keys are known.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from messaging.errors import ConfigError, EnvironmentFault
from messaging.nearest import did_you_mean
from messaging.text import quoted

try:
    import yaml
    from yaml import MappingNode
    from yaml import Node as Node
    from yaml import ScalarNode as ScalarNode
    from yaml import SequenceNode as SequenceNode
except ImportError as exc:  # it comes with the extra `faults`: an edge that runs has no use for it
    raise EnvironmentFault(
        "fault scripts need PyYAML; install it with `pip install 'edge-actors[faults]'`"
    ) from exc

UNITS_S: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
UNITS_BYTES: Final = {"B": 1, "kB": 1000, "MB": 1_000_000, "KiB": 1 << 10, "MiB": 1 << 20}
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")
# What PyYAML says that helps nobody, by a part of it, and what is told in its place.
_TOLD: Final = {
    "found character '\\t'": "a tab; YAML is indented by spaces",
    "another document": "a second document begins here; a script is one",
}
_NUMBER: Final = re.compile(r"([+-]?\d+(?:\.\d+)?) ?([A-Za-z]*)")

T = TypeVar("T")


class Wrong(Exception):
    """What a node says cannot be; carries the node."""

    def __init__(self, node: Node, what: str) -> None:
        super().__init__(what)
        self.node = node


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """One sort of value."""

    looks: str  # in the words of the reference page
    read: Callable[[Node], T]


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a mapping."""

    name: str
    form: Form[Any]
    about: str
    default: Any = None
    is_needed: bool = False

    @property
    def key(self) -> str:
        """What it is called in Python."""
        return self.name.replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Spread:
    """A time that varies, evenly."""

    middle_s: float
    around_s: float = 0.0

    def draw(self, chance: random.Random) -> float:
        """Return one time, in seconds."""
        return chance.uniform(self.middle_s - self.around_s, self.middle_s + self.around_s)


def load(path: Path, read: Callable[[Node], T]) -> T:
    """Read a file.

    Raises:
        ConfigError: it cannot be read, is no YAML, or says what cannot be; with file, line and column.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: it is not UTF-8 at byte {exc.start}") from exc
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        problem = exc.problem or exc.context or "it is no YAML"
        told = next((words for sign, words in _TOLD.items() if sign in problem), problem)
        raise ConfigError(f"{path}{_place(mark)}: {told}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: it is nested too deep to be read") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: it is no YAML: {getattr(exc, 'reason', type(exc).__name__)}") from exc
    if node is None:
        raise ConfigError(f"{path}: it is empty; see `edge-actors faults reference` for what stands in it")
    try:
        return read(node)
    except Wrong as exc:
        raise ConfigError(f"{path}{_place(exc.node.start_mark)}: {exc}") from None
    except RecursionError as exc:  # an anchor inside of itself
        raise ConfigError(f"{path}: an alias stands for what it is a part of") from exc


def _place(mark: Any) -> str:
    return "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"


# Readers


def read_text(node: Node) -> str:
    """Return a text that is not empty."""
    if not isinstance(node, ScalarNode) or not node.value.strip():
        raise Wrong(node, "a text is expected here")
    return str(node.value).strip()


def read_name(node: Node) -> str:
    text = read_text(node)
    if not NAME.fullmatch(text):
        raise Wrong(node, f"{quoted(text)} is no name: small letters, digits and - are")
    return text


def _amount(node: Node, text: str, units: Mapping[str, float], what: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or not found[2]:
        raise Wrong(
            node, f"{quoted(text.strip())} is no {what}; write a number and one of {', '.join(units)}"
        )
    if found[2] not in units:
        hint = did_you_mean(found[2], units) or f"; there are {', '.join(units)}"
        raise Wrong(node, f"{quoted(found[2])} is no unit of a {what}{hint}")
    value = float(found[1]) * units[found[2]]
    if not math.isfinite(value):
        raise Wrong(node, f"{quoted(text.strip())} is too much")
    return value


def _time_s(node: Node, text: str) -> float:
    value = _amount(node, text, UNITS_S, "time")
    if value < 0:
        raise Wrong(node, f"{quoted(text.strip())} is less than nothing")
    return value


def read_time_s(node: Node) -> float:
    return _time_s(node, read_text(node))


def read_signed_time_s(node: Node) -> float:
    return _amount(node, read_text(node), UNITS_S, "time")


def read_whole_seconds(node: Node) -> int:
    seconds = read_time_s(node)
    if seconds < 1 or seconds != int(seconds):
        raise Wrong(node, f"{quoted(read_text(node))} is not in whole seconds, 1 or more")
    return int(seconds)


def read_spread(node: Node) -> Spread:
    middle, sign, around = read_text(node).partition("±")
    spread = Spread(_time_s(node, middle), _time_s(node, around) if sign else 0.0)
    if spread.around_s > spread.middle_s:
        raise Wrong(node, f"{quoted(read_text(node))} may be less than nothing")
    return spread


def read_size_bytes(node: Node) -> int:
    value = _amount(node, read_text(node), UNITS_BYTES, "size")
    if value < 0 or value != int(value):
        raise Wrong(node, f"{quoted(read_text(node))} is no number of bytes")
    return int(value)


def read_rate(node: Node) -> float:
    number, slash, unit = read_text(node).partition("/")
    try:
        rate = float(number)
    except ValueError:
        rate = math.nan
    if not slash or unit.strip() not in ("s", "min") or not 0 < rate < 1e6:
        raise Wrong(node, f"{quoted(read_text(node))} is no rate; write 200/s or 30/min")
    return rate / (60 if unit.strip() == "min" else 1)


def read_switch(node: Node) -> bool:
    text = read_text(node)
    if text not in ("true", "false"):
        raise Wrong(node, f"{quoted(text)} is neither true nor false")
    return text == "true"


def number(low: float, high: float, *, whole: bool = True) -> Callable[[Node], Any]:
    """Return a reader of a number between two, which are allowed."""

    def read(node: Node) -> float:
        text = read_text(node)
        try:
            value: float = int(text) if whole else float(text)
        except ValueError:
            raise Wrong(node, f"{quoted(text)} is no {'whole ' if whole else ''}number") from None
        if not low <= value <= high:
            allowed = f"not {low}" if low == high else f"not in {low} to {high}"
            raise Wrong(node, f"{quoted(text)} is {allowed}")
        return value

    return read


def one_of(valid: Sequence[str]) -> Callable[[Node], str]:
    """Return a reader of one of these words."""

    def read(node: Node) -> str:
        text = read_text(node)
        if text not in valid:
            hint = did_you_mean(text, valid) or f"; known here: {', '.join(valid)}"
            raise Wrong(node, f"{quoted(text)} is not known{hint}")
        return text

    return read


def read_entries(node: Node) -> list[tuple[Node, Node]]:
    """Return the entries of a mapping that is not empty, keys first."""
    if not isinstance(node, MappingNode) or not node.value:
        raise Wrong(node, "`name: value` lines are expected here")
    seen: set[str] = set()
    for key, _ in node.value:
        if read_text(key) in seen:
            raise Wrong(key, f"{quoted(read_text(key))} is here twice")
        seen.add(read_text(key))
    return list(node.value)


def read_fields(node: Node, fields: Iterable[Field], what: str = "") -> dict[str, Any]:
    """Return the values of a mapping by the keys of Python; what is left out has its default."""
    known = {field.name: field for field in fields}
    found: dict[str, Any] = {}
    for key, value in read_entries(node):
        name = read_text(key)
        if name not in known:
            hint = did_you_mean(name, known) or f"; known here: {', '.join(known)}"
            raise Wrong(key, f"{quoted(name)} is not known{what and f' of {what}'}{hint}")
        found[known[name].key] = known[name].form.read(value)
    for field in known.values():
        if field.is_needed and field.key not in found:
            raise Wrong(node, f"'{field.name}' is missing{what and f' of {what}'}")
        found.setdefault(field.key, field.default)
    return found


def node_at(node: Node, *names: str) -> Node:
    """Return the value behind a path of keys, as far as it is there."""
    for name in names:
        if not isinstance(node, MappingNode):
            break
        node = next((value for key, value in node.value if key.value == name), node)
    return node


def named(read: Callable[[Node], T]) -> Callable[[Node], dict[str, T]]:
    """Return a reader of a mapping of which the keys are names of the user's."""

    def read_all(node: Node) -> dict[str, T]:
        return {read_name(key): read(value) for key, value in read_entries(node)}

    return read_all


def texts(node: Node) -> dict[str, str]:
    """Return a mapping of texts; numbers and switches are taken as they are written."""
    found: dict[str, str] = {}
    for key, value in read_entries(node):
        if not isinstance(value, ScalarNode):
            raise Wrong(value, "a text is expected here")
        found[read_text(key)] = str(value.value)
    return found


def list_of(read: Callable[[Node], T]) -> Callable[[Node], tuple[T, ...]]:
    """Return a reader of a list that is not empty."""

    def read_all(node: Node) -> tuple[T, ...]:
        if not isinstance(node, SequenceNode) or not node.value:
            raise Wrong(node, "a list is expected here, such as [hub, agent]")
        return tuple(read(item) for item in node.value)

    return read_all


# Forms

TEXT: Final = Form("text", read_text)
NAME_FORM: Final = Form("name", read_name)
TIME: Final = Form("time, such as `300 ms`, `2 s`, `5 min`, `1 h`, `365 d`", read_time_s)
SIGNED_TIME: Final = Form("time, backwards with `-`, such as `-365 d`", read_signed_time_s)
SPREAD: Final = Form("time that may vary, such as `2 s ± 500 ms`", read_spread)
SIZE: Final = Form("size, such as `256 B`, `8 MB`, `64 KiB`", read_size_bytes)
RATE: Final = Form("rate, such as `200/s` or `30/min`", read_rate)
SWITCH: Final = Form("`true` or `false`", read_switch)
COUNT: Final = Form("number, 1 or more", number(1, 1_000_000))
NUMBER: Final = Form("number, 0 or more", number(0, 1_000_000))
SHARE: Final = Form("share, from 0 to 1", number(0, 1, whole=False))


def choice(*valid: str) -> Form[str]:
    """Return the form of one of some words."""
    return Form("one of " + ", ".join(f"`{word}`" for word in valid), one_of(valid))
