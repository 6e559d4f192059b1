"""The order of checks, and what one that went wrong means for others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from messaging.errors import ConfigError
from runtime.checks.catalog import SECTIONS, all_checks
from runtime.checks.outcome import (
    Check,
    Outcome,
    Result,
    Section,
    error,
    fatal,
    ignored,
    ok,
    run_checks,
    skipped,
    warning,
    worst,
)
from runtime.checks.scene import Options, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "home", Options(environment={}))


def outcomes(
    scene: Scene, first: Callable[[Scene], Outcome], dont_run: tuple[str, ...] = (), strict: bool = False
) -> dict[str, str]:
    checks = (
        Check("first", "", first),
        Check("second", "", lambda scene: ok(), ("first",)),
        Check("third", "", lambda scene: ok(), ("second",)),
        Check("alone", "", lambda scene: ok()),
    )
    found = run_checks([Section("s", checks)], scene, dont_run, strict)
    return {check.id: outcome.result.value for _, check, outcome in found}


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        (ok(), "ok", "ok"),
        (warning("w"), "ok", "ok"),
        (error("e"), "skipped", "skipped"),
        (skipped("s"), "skipped", "skipped"),
        (ignored("i"), "ignored", "ignored"),
    ],
    ids=lambda value: value.result.value if isinstance(value, Outcome) else value,
)
def test_a_check_is_looked_at_when_those_it_needs_went_well(
    first: Outcome, second: str, third: str, scene: Scene
) -> None:
    found = outcomes(scene, lambda scene: first)

    assert found == {"first": first.result.value, "second": second, "third": third, "alone": "ok"}


def test_nothing_is_looked_at_after_what_is_fatal(scene: Scene) -> None:
    assert outcomes(scene, lambda scene: fatal("f")) == {"first": "fatal"}


def test_a_check_that_is_not_wanted_keeps_no_other_from_being_done(scene: Scene) -> None:
    found = outcomes(scene, lambda scene: error("e"), dont_run=("first",))

    assert found == {"first": "ignored", "second": "ok", "third": "ok", "alone": "ok"}


def test_a_warning_that_is_an_error_keeps_others_from_being_done(scene: Scene) -> None:
    found = outcomes(scene, lambda scene: warning("w"), strict=True)

    assert found == {"first": "error", "second": "skipped", "third": "skipped", "alone": "ok"}


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ConfigError("it is wrong; repair it"), "it is wrong; repair it"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied; repair that"),
        (ZeroDivisionError("by zero"), "this check failed itself (ZeroDivisionError: by zero)"),
    ],
)
def test_what_a_check_raises_is_an_error_of_it_alone(raised: Exception, told: str, scene: Scene) -> None:
    def look(scene: Scene) -> Outcome:
        raise raised

    [(_, _, outcome)] = run_checks([Section("s", (Check("x", "", look),))], scene)

    assert outcome.result is Result.ERROR
    assert told in outcome.details[0]


def test_several_looks_are_as_bad_as_the_worst() -> None:
    found = worst((ok(a=1), error("bad", b=2), warning("so so")))

    assert (found.result, found.details, dict(found.info)) == (
        Result.ERROR,
        ("bad", "so so"),
        {"a": 1, "b": 2},
    )
    assert worst((ok(), skipped("later"))).result is Result.OK


def test_every_check_needs_only_what_comes_before_it() -> None:
    before: set[str] = set()
    for _, check in all_checks():
        assert set(check.needs) <= before, check.id
        assert check.id not in before
        before.add(check.id)


def test_a_home_that_is_not_there_yet_is_looked_at_without_an_error(scene: Scene) -> None:
    results = {check.id: outcome for _, check, outcome in run_checks(SECTIONS, scene, ("host-local-time",))}

    bad = {name: one.details for name, one in results.items() if one.result in (Result.ERROR, Result.FATAL)}
    assert not bad or set(bad) == {"edge-hub-ports"}, bad  # of which somebody else may have some
    assert results["edge-home"].result is Result.WARNING
