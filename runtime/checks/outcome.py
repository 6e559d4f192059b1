"""What a check finds, and the order in which checks are done.

Source: spec sheet security-daemon.md section 6.3
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from messaging.errors import EdgeError

if TYPE_CHECKING:
    from runtime.checks.scene import Scene

log = logging.getLogger(__name__)


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    IGNORED = "ignored"  # does not apply to this edge, or was not wanted
    SKIPPED = "skipped"  # what it needs failed, or is not there at the moment
    FATAL = "fatal"  # nothing after it is looked at
    ERROR = "error"


BAD: Final = (Result.ERROR, Result.FATAL)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found. `details`: what is wrong and what to do; why, when it was not looked at."""

    result: Result
    details: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. It is done when those that it needs went well."""

    id: str
    description: str
    look: Callable[[Scene], Outcome]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    checks: tuple[Check, ...]


def ok(**info: Any) -> Outcome:
    return Outcome(Result.OK, (), info)


def warning(message: str, *causes: str, **info: Any) -> Outcome:
    return Outcome(Result.WARNING, (message, *causes), info)


def error(message: str, *causes: str, **info: Any) -> Outcome:
    return Outcome(Result.ERROR, (message, *causes), info)


def fatal(message: str, *causes: str) -> Outcome:
    return Outcome(Result.FATAL, (message, *causes))


def skipped(reason: str) -> Outcome:
    return Outcome(Result.SKIPPED, (reason,))


def ignored(reason: str) -> Outcome:
    return Outcome(Result.IGNORED, (reason,))


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return one outcome for several looks: the worst result with all that is wrong, and all information."""
    order = (Result.FATAL, Result.ERROR, Result.WARNING, Result.OK, Result.SKIPPED, Result.IGNORED)
    found = min((outcome.result for outcome in outcomes), key=order.index)
    info = {name: value for outcome in outcomes for name, value in outcome.info.items()}
    bad = (Result.FATAL, Result.ERROR, Result.WARNING)
    told = [outcome for outcome in outcomes if outcome.result in bad] or outcomes
    return Outcome(found, tuple(line for outcome in told for line in outcome.details), info)


def run_checks(
    sections: Sequence[Section],
    scene: Scene,
    dont_run: Collection[str] = (),
    warnings_are_errors: bool = False,
) -> Iterator[tuple[Section, Check, Outcome]]:
    """Do checks in order and yield what each found; nothing after one that is fatal."""
    results: dict[str, Result] = {}
    for section in sections:
        for check in section.checks:
            outcome = _outcome(check, scene, dont_run, results)
            if warnings_are_errors and outcome.result is Result.WARNING:
                outcome = replace(outcome, result=Result.ERROR)
            results[check.id] = outcome.result
            yield section, check, outcome
            if outcome.result is Result.FATAL:
                return


def _outcome(check: Check, scene: Scene, dont_run: Collection[str], results: Mapping[str, Result]) -> Outcome:
    if check.id in dont_run:
        return ignored("not wanted: --dont-run")
    for needed in check.needs:
        if needed in dont_run or needed not in results:
            continue
        if results[needed] is Result.IGNORED:
            return ignored(f"does not apply here, as {needed} does not")
        if results[needed] in (*BAD, Result.SKIPPED):
            return skipped(f"not looked at, because {needed} did not go well")
    try:
        return check.look(scene)
    except EdgeError as exc:
        return error(str(exc))
    except OSError as exc:
        place = f"{exc.filename}: " if exc.filename else ""
        return error(f"{place}{exc.strerror or exc}; repair that, and check again")
    except Exception as exc:  # the other checks are worth the more
        log.debug("check %s failed itself", check.id, exc_info=True)
        return error(f"this check failed itself ({type(exc).__name__}: {exc}); please tell us")
