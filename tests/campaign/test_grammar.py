"""Scripts from the grammar: each can be read, a seed gives the same, and all of the grammar comes up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.faults import schema
from runtime.faults.bundle import Outcome
from runtime.faults.findings import Findings
from runtime.faults.scenario import Scenario
from scripts.campaign import drawn, grammar
from scripts.campaign.__main__ import main
from scripts.campaign.report import BROKEN, KEPT, VOID, Report, table

SEEDS = range(200)
EDGE_SEEDS = (5, 6)  # which need no more than any machine has


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


# What the campaign makes of scripts.


def ran(folder: Path, *problems: str, cuts: int = 0, kills: int = 3) -> drawn.Drawn:
    text = grammar.as_yaml(
        {
            "version": 1,
            "about": "two faults",
            "edge": {"routes": {"all": {"output": "out", "into": "near"}}},
            "load": {"publishers": 1, "rate": "10/s", "consumers": {"near": "always"}},
            "steps": [
                {"every": "1 s", "times": 3, "fault": "kill", "who": "hub"},
                {"at": "1 s", "fault": "power cut"},
            ],
            "expect": {"lost": 0},
        }
    )
    found = Findings("random-1", 1, {"1 (kill)": kills, "2 (power cut)": cuts}, acknowledged=10, took_s=60.0)
    return drawn.Drawn(read(text, folder), Outcome(found, problems, folder if problems else None))


def test_scripts_count_in_verdict_and_table(folder: Path) -> None:
    report = Report(5)
    report.add_drawn("random-1", ran(folder, cuts=2))
    report.add_drawn("random-2", "faults of the disk need strace")

    assert report.exit_code == KEPT
    assert report.verdict().startswith(
        "KEPT: 3 kills, 2 power cuts, 1 scripts, 10 messages acknowledged (1 scripts"
    )
    lines = table([report.json(), report.json()]).splitlines()
    assert lines[2].endswith("| 5 | 1 × `random` | 3 | 2 | 10 | 0 | 0 | 0 | 1.0 |")
    assert lines[-1] == "| | | together | **6** | **4** | **20** | **0** | **0** | **0** | |"


def test_a_script_with_a_problem_breaks_the_campaign_and_says_how_to_repeat_it(folder: Path) -> None:
    report = Report(5)
    report.add_drawn("random-1", ran(folder, "lost: 2, expected 0", cuts=1))

    assert report.exit_code == BROKEN
    assert f"edge-actors faults run {folder}/scenario.yaml --seed 1" in report.last


def test_a_campaign_of_random_scripts_is_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    asked = []

    def run(name: str, seed: int, text: str, where: Path, *, keep: bool) -> drawn.Drawn:
        asked.append((name, seed, text, keep))
        return ran(folder)

    monkeypatch.setattr("scripts.campaign.__main__.run_drawn", run)

    assert main(["random", "day", "--scripts", "2", "--seed", "9"]) == KEPT
    assert asked == [
        ("random-9", 9, grammar.script(9), False),
        ("random-10", 10, grammar.script(10), False),
        ("day-9", 9, grammar.day(9), False),
    ]
    assert "KEPT: 9 kills" in capsys.readouterr().out


def test_a_fault_that_never_happened_makes_the_campaign_void(folder: Path) -> None:
    report = Report(5)
    report.add_drawn("random-1", ran(folder, "fault 2 (power cut) never happened", cuts=0))

    assert report.exit_code == VOID
    assert report.verdict().endswith("and no problem; but a fault of random-1 never happened")


# With a real edge.


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", EDGE_SEEDS)
def test_an_edge_keeps_its_promises_in_a_random_script(seed: int, tmp_path: Path) -> None:
    ran = drawn.run(f"random-{seed}", seed, grammar.script(seed), tmp_path, keep=False)

    assert isinstance(ran, drawn.Drawn), ran
    assert ran.outcome.problems == (), ran.text()


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [f"{drawn.DAY}-1", *(f"{drawn.RANDOM}-{seed}" for seed in range(100, 130))])
def test_an_edge_keeps_its_promises_in_the_long_campaign(name: str, tmp_path: Path) -> None:
    word, _, seed = name.partition("-")
    (its_seed, text) = drawn.scripts([word], 1, int(seed))[name]

    ran = drawn.run(name, its_seed, text, tmp_path, keep=False)

    if isinstance(ran, str):
        pytest.skip(ran)
    assert ran.outcome.problems == (), ran.text()
