"""For how long modules have run, and for how long they should have: pure.

Source: spec sheet observability.md section 3, availability rules
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from actors.manifest.module_spec import DesiredStatus, ModuleStatus


class Clocks(NamedTuple):
    """Seconds of one module."""

    running_s: float = 0.0
    expected_s: float = 0.0


class Seen(NamedTuple):
    """How a module was found."""

    name: str
    status: str
    desired: str


def advance(
    before: Mapping[str, Clocks], seen: Iterable[Seen], passed_s: float, known: Iterable[str]
) -> dict[str, Clocks]:
    """Return the clocks after `passed_s` seconds, of modules that were found like this.

    Both go on while a module runs, whatever is desired; that of what is expected also while it only should
    run. A module that was not `known` in the look before begins at 0; one that is not there keeps its clocks.
    """
    after = dict(before)
    known_names = set(known)
    for name, status, desired in seen:
        running_s, expected_s = after.get(name, Clocks())
        if name in known_names:
            if status in (ModuleStatus.RUNNING, ModuleStatus.UNHEALTHY):
                running_s += passed_s
                expected_s += passed_s
            elif desired == DesiredStatus.RUNNING:
                expected_s += passed_s
        after[name] = Clocks(running_s, expected_s)
    return after
