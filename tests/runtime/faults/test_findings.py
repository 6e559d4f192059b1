"""One example of each expectation: what meets it, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.faults.expectation_table import EXPECTATIONS, Range
from runtime.faults.findings import Findings
from runtime.faults.scenario import EdgeOfScenario, Expectation, Load, Scenario
from runtime.faults.watch import slope

EXAMPLES: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    ("lost", 0, {}, {"lost": 1}),
    ("out of order", 0, {}, {"out_of_order": 1}),
    ("duplicates", 3000, {"received_again": 5}, {"unexplained": 1}),
    ("ledger", "balanced", {}, {"imbalances": ["received 3 is not unrouted 1 + routed 1"]}),
    ("expired", Range(1, None), {"expired": 4}, {"expired": 0}),
    ("dropped", Range(0, 3), {"dropped": 3}, {"dropped": 4}),
    ("damaged", Range(0, 3), {"damaged": 3}, {"damaged": 4}),
    ("salvaged", Range(1, None), {"salvaged": 1}, {"salvaged": 0}),
    ("received", Range(10, None), {"received": 10}, {"received": 9}),
    ("refused", Range(0, 0), {"refused": 0}, {"refused": 1}),
    ("restarts", {"edgeHub": Range(1, 2)}, {"restarts": {"edgeHub": 2}}, {"restarts": {"edgeHub": 3}}),
    ("bystander restarts", 0, {}, {"bystander_restarts": 1}),
    ("actor failures", Range(1, None), {"actor_failures": 1}, {"actor_failures": 0}),
    ("dead actors", 0, {}, {"dead_actors": ["hub/store"]}),
    ("recovered", 5.0, {"recovered_s": [1.0, 5.0]}, {"recovered_s": [1.0, 5.1]}),
    ("upstream recovered", 5.0, {"upstream_recovered_s": [5.0]}, {"upstream_recovered_s": [6.0, 1.0]}),
    ("memory slope", 1_000_000, {"bytes_per_min": 999.0}, {"bytes_per_min": 1e6}),
    ("left after down", 0, {}, {"left_after_down": ["process 7, python -m runtime.hub"]}),
]


def scenario(name: str, value: Any) -> Scenario:
    edge = EdgeOfScenario({}, "own", "Mqtt", {}, {}, {}, 7200, 0, 0)
    return Scenario(
        Path("x.yaml"), "x", "", edge, Load(1, 1.0, 128, "mqtt", {}), (), (Expectation(name, value),), ()
    )


@pytest.mark.parametrize(("name", "value", "good", "bad"), EXAMPLES, ids=[row[0] for row in EXAMPLES])
def test_an_expectation_is_met_or_not(
    name: str, value: Any, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    assert Findings("x", 1, **good).problems(scenario(name, value)) == []

    (problem,) = Findings("x", 1, **bad).problems(scenario(name, value))

    assert problem.startswith(name)


def test_each_expectation_has_its_example() -> None:
    assert {row[0] for row in EXAMPLES} == set(EXPECTATIONS)


def test_a_fault_that_never_happened_proves_nothing() -> None:
    findings = Findings("x", 1, counts={"1 (kill)": 0, "2 (stop)": 3})

    (problem,) = findings.problems(scenario("lost", 0))

    assert problem == "fault 1 (kill) never happened: its count is 0; the run proves nothing"


def test_moments_on_whose_disks_nothing_waited_prove_nothing() -> None:
    (problem,) = Findings("x", 1, moments=3).problems(scenario("lost", 0))

    assert problem == "no message was on the disks of 3 moments: they prove nothing"
    assert Findings("x", 1, moments=3, waiting=1).problems(scenario("lost", 0)) == []


def test_a_hub_that_lived_too_briefly_has_no_slope() -> None:
    (problem,) = Findings("x", 1).problems(scenario("memory slope", 1000))

    assert "did not live long enough" in problem


def test_a_slope_is_that_of_the_best_line() -> None:
    assert slope([(0.0, 10), (1.0, 12), (2.0, 14)]) == pytest.approx(2.0)
    assert slope([(5.0, 10)]) == 0.0
