"""Scripts from the grammar: each can be read, a seed gives the same, and all of the grammar comes up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.faults import schema
from runtime.faults.scenario import Scenario
from scripts.campaign import grammar
from scripts.campaign.run import DAY, RANDOM, Ran, run, wanted

SEEDS = range(200)
EDGE_SEEDS = (6, 18)  # short ones, which need no more than any machine has


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def scenarios(folder: Path) -> list[Scenario]:
    return [read(grammar.script(seed), folder) for seed in SEEDS]


def read(text: str, folder: Path, name: str = "random-1") -> Scenario:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return schema.load(path)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 40))
def test_every_seed_gives_a_script_that_can_be_read_and_expects_the_promise(seed: int, folder: Path) -> None:
    scenario = read(grammar.script(seed), folder)

    assert {"lost", "out of order", "ledger", "dead actors", "recovered"} <= {e.name for e in scenario.expect}
    assert len(scenario.steps) >= 2


def test_a_seed_gives_the_same_script_again() -> None:
    assert [grammar.script(seed) for seed in range(20)] == [grammar.script(seed) for seed in range(20)]
    assert len({grammar.script(seed) for seed in range(20)}) == 20


def test_every_disturbance_comes_up(scenarios: list[Scenario]) -> None:
    abouts = "".join(scenario.about for scenario in scenarios)

    assert [one.name for one in grammar.DISTURBANCES if one.name not in abouts] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"power cut"}, {"kill", "reboot", "slow sync", "full disk"}, id="two that end a life"),
        pytest.param({"stop"}, {"drop client", "drop envelopes", "wrong key"}, id="nobody answers"),
    ],
)
def test_what_cannot_meet_is_in_no_script(one: set[str], other: set[str], scenarios: list[Scenario]) -> None:
    for scenario in scenarios:
        who = {
            name for step in scenario.steps for name in step.values.get("who") or () if step.fault == "kill"
        }
        stopped = {name for s in scenario.steps if s.fault == "stop" for name in s.values["who"]}
        faults = {step.fault for step in scenario.steps if step.fault != "kill" or who & {"hub", "both"}}
        if one == {"stop"} and "hub" not in stopped:
            continue

        assert not (faults & one and faults & other), scenario.about


def test_a_day_has_faults_in_all_its_hours(folder: Path) -> None:
    scenario = read(grammar.day(3), folder, "day-3")

    assert sum(step.times for step in scenario.steps) > 60
    assert {step.fault for step in scenario.steps} >= {"kill", "cut link", "renew token", "reboot"}


# With a real edge.


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", EDGE_SEEDS)
def test_an_edge_keeps_its_promises_in_a_random_script(seed: int, tmp_path: Path) -> None:
    (script,) = wanted([RANDOM], seed, scripts=1)

    ran = run(script, tmp_path, keep=False)

    assert isinstance(ran, Ran), ran
    assert ran.outcome.problems == (), ran.text()


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [f"{DAY}-1", *(f"{RANDOM}-{seed}" for seed in range(100, 130))])
def test_an_edge_keeps_its_promises_in_the_long_campaign(name: str, tmp_path: Path) -> None:
    word, _, seed = name.partition("-")
    (script,) = wanted([word], int(seed), scripts=1)

    ran = run(script, tmp_path, keep=False)

    if isinstance(ran, str):
        pytest.skip(ran)
    assert ran.outcome.problems == (), ran.text()
