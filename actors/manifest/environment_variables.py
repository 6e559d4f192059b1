"""How the variables of a deployment are described and read that set up edgeHub and edgeAgent.

Names are compared without regard to case, and `A__B` and `A:B` are the same, as in the reference. A value
that a variable does not take is reported and its default applies: a misspelled number shall not keep an edge
from serving.

Source: spec sheet observability.md section 6
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from messaging.nearest import did_you_mean
from messaging.text import quoted

DAY_S: Final = 24 * 3600


class Kind(Struct, frozen=True):
    """What values a variable takes; `read` raises ValueError for any other."""

    read: Callable[[str], Any]
    allowed: str


def whole(low: int, high: int) -> Kind:
    """Take whole numbers of a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(read, f"a whole number from {low} to {high}")


def _read_switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_SPAN: Final = re.compile(r"(?:([0-9]{1,4})\.)?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,7})?)?")


def span(low_s: int, high_s: int, shown: str) -> Kind:
    """Take times such as 1.02:03:04 of a range, which `shown` describes."""

    def read(text: str) -> float:
        found = _SPAN.fullmatch(text)
        if found is None:
            raise ValueError
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        whole_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if hours > 23 or minutes > 59 or seconds > 59 or not low_s <= whole_s <= high_s:
            raise ValueError
        return float(whole_s)

    return Kind(read, shown)


SWITCH: Final = Kind(_read_switch, "true or false")
ANY: Final = Kind(str, "")


class Effect(StrEnum):
    """What becomes of a variable."""

    OBEYED = "obeyed"
    REFUSED = "refused"  # what it asks for is not to be had; told as a problem unless it asks for what is so
    NO_EFFECT = "no effect"  # it tunes something that is not there or works by itself


class Variable(Struct, frozen=True):
    """One variable of the reference."""

    name: str
    default: str  # of the reference
    effect: Effect
    here: str  # what it does here, or why nothing
    kind: Kind = ANY
    field: str = ""  # where its value goes; "" for one that somebody else reads
    default_here: str = ""  # where it is not the reference's
    met_by: frozenset[str] = frozenset()  # values of a refused one that ask for what is so anyway


def obeyed(name: str, default: str, field: str, kind: Kind, here: str, default_here: str = "") -> Variable:
    """Return a variable that does what it says."""
    return Variable(name, default, Effect.OBEYED, here, kind, field, default_here or default)


def refused(name: str, default: str, here: str, *met_by: str) -> Variable:
    """Return a variable that asks for what is not to be had, unless it has one of these values."""
    return Variable(name, default, Effect.REFUSED, here, met_by=frozenset(met_by))


def unused(name: str, default: str, here: str) -> Variable:
    """Return a variable that has nothing to tune."""
    return Variable(name, default, Effect.NO_EFFECT, here)


def read_variables(
    variables: Sequence[Variable], environment: Mapping[str, str], component: str, *, is_whole: bool = True
) -> tuple[dict[str, Any], tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Read an environment as the manifest has it. Blank values count as left out.

    Args:
        variables: What there is.
        environment: Of the component.
        component: Its name, for what is told.
        is_whole: There is no other variable, so that a name that is none of these is a problem.

    Returns:
        The values by field; what the user asked for and does not get, as (variable, text); what has no
        effect here but is not missed.
    """
    by_key = {_key(variable.name): variable for variable in variables}
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    written: dict[str, str] = {}
    for name, value in environment.items():
        text, variable = value.strip(), by_key.get(_key(name))
        if variable is None:
            if is_whole:
                hint = did_you_mean(name, (known.name for known in variables))
                problems.append((name, f"{component} has no such setting, so it has no effect{hint}"))
            continue
        if not text:
            continue
        first = written.setdefault(variable.name, name)
        if first != name:
            problems.append((name, f"is the same setting as '{first}', which counts"))
        elif variable.effect is Effect.OBEYED:
            problem = _take(variable, text, values)
            if problem:
                problems.append((name, problem))
        elif variable.effect is Effect.NO_EFFECT:
            notes.append((name, variable.here))
        elif text.casefold() not in variable.met_by:
            problems.append((name, f"has no effect: {variable.here}"))
    return values, tuple(problems), tuple(notes)


def _key(name: str) -> str:
    return name.replace("__", ":").casefold()


def _take(variable: Variable, text: str, values: dict[str, Any]) -> str:
    """Put the value of an obeyed variable into `values`; returns "" or what is wrong with it."""
    try:
        value = variable.kind.read(text)
    except ValueError:
        allowed, default = variable.kind.allowed, variable.default_here
        return f"{quoted(text)} is not allowed; allowed: {allowed}. The default applies: {default}"
    if variable.field:
        values[variable.field] = value
    return ""
