"""Short seeded campaigns against a real edge, with the controls that they have to catch."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from pathlib import Path

import pytest

from runtime.faults import recording
from scripts.campaign.__main__ import USAGE, main, scaled
from scripts.campaign.books import Findings
from scripts.campaign.hub_main import HastyConnection
from scripts.campaign.report import BROKEN, KEPT, VOID, Report
from scripts.campaign.run import run
from scripts.campaign.scenario import FOLDER, Control, PowerCut, Scenario, Spread, load

SEED = 2024
KILL_EDGE = load(FOLDER / "kill-edge.yaml")
KILL_HUB = load(FOLDER / "kill-hub.yaml")
POWER_CUT = load(FOLDER / "power-cut.yaml")


def brief(scenario: Scenario) -> Scenario:
    """Return a scenario of power cuts with short lives."""
    return dataclasses.replace(scenario, step=dataclasses.replace(scenario.step, every=Spread(1.0, 0.5)))


@pytest.fixture
def needs_strace() -> None:
    reason = recording.why_impossible()
    if reason:
        pytest.skip(reason)


def kept(scenario: Scenario, folder: Path) -> Findings:
    """Run a scenario in which every promise must be kept."""
    findings = run(scenario, SEED, folder)

    print(findings.text(scenario.expect))
    assert findings.problems(scenario.expect) == [], findings.text(scenario.expect)
    assert findings.lost == 0
    return findings


def test_no_promise_is_broken_when_agent_and_hub_are_killed_again_and_again(tmp_path: Path) -> None:
    findings = kept(scaled(KILL_EDGE, kills=6, cuts=None), tmp_path)

    assert sum(findings.faults.values()) == 6
    assert set(findings.faults) == {"kill agent", "kill hub", "kill both"}
    assert findings.acknowledged > 500
    assert findings.received >= findings.acknowledged


def test_no_promise_is_broken_when_the_hub_is_killed_under_a_mixed_load(tmp_path: Path) -> None:
    findings = kept(scaled(KILL_HUB, kills=4, cuts=None), tmp_path)

    assert findings.faults == {"kill hub": 4}
    assert findings.expired > 0
    assert findings.acknowledged > 200


def test_kills_catch_a_hub_that_acknowledges_before_it_commits(tmp_path: Path) -> None:
    findings = run(KILL_HUB, SEED, tmp_path, Control("PUBACK before commit", times=5))

    assert findings.is_caught, findings.text({})


def test_a_hasty_hub_commits_whole_transactions_though_late(tmp_path: Path) -> None:
    hasty = sqlite3.connect(tmp_path / "db", factory=HastyConnection, isolation_level=None)
    hasty.execute("CREATE TABLE t (x)")
    hasty.execute("BEGIN IMMEDIATE")
    hasty.execute("INSERT INTO t VALUES (1)")
    hasty.execute("COMMIT")
    hasty.execute("BEGIN IMMEDIATE")
    hasty.execute("INSERT INTO t VALUES (2)")

    hasty.execute("PRAGMA page_count").fetchone()  # as the store does, to see how much space is left

    assert sqlite3.connect(tmp_path / "db").execute("SELECT x FROM t").fetchall() == []
    hasty.execute("COMMIT")
    hasty.execute("PRAGMA page_count").fetchone()
    assert sqlite3.connect(tmp_path / "db").execute("SELECT x FROM t").fetchall() == [(1,), (2,)]


@pytest.mark.usefixtures("needs_strace")
def test_no_promise_is_broken_when_the_power_fails(tmp_path: Path) -> None:
    findings = kept(scaled(brief(POWER_CUT), kills=None, cuts=16), tmp_path)

    assert findings.faults == {"power cut": 2}
    assert findings.images == 16
    assert findings.waiting > 100
    assert findings.log_starts > 0


@pytest.mark.usefixtures("needs_strace")
@pytest.mark.parametrize("control", POWER_CUT.controls, ids=lambda control: control.defect)
def test_power_cuts_catch_a_hub_that_breaks_its_promise(tmp_path: Path, control: Control) -> None:
    findings = run(brief(POWER_CUT), SEED, tmp_path, control)

    assert findings.is_caught, findings.text({})


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("needs_strace")
@pytest.mark.parametrize("scenario", [KILL_EDGE, KILL_HUB, POWER_CUT], ids=lambda scenario: scenario.name)
def test_no_promise_is_broken_in_the_whole_campaign(tmp_path: Path, scenario: Scenario) -> None:
    kept(scenario, tmp_path)


# What the campaign makes of its runs.


def ran(defect: str = "", **counts: int) -> Findings:
    return dataclasses.replace(Findings("kill-hub", SEED, defect), expired=9, **counts)


@pytest.mark.parametrize(
    ("runs", "exit_code", "verdict"),
    [
        ([ran("PUBACK before commit", lost=3), ran()], KEPT, "KEPT"),
        ([ran("PUBACK before commit"), ran()], VOID, "VOID"),
        ([ran("PUBACK before commit", lost=3), ran(lost=1)], BROKEN, "BROKEN"),
        ([ran("PUBACK before commit"), ran(lost=1)], BROKEN, "BROKEN"),
        ([ran(duplicates=1)], BROKEN, "BROKEN"),
        ([ran(out_of_order=1)], BROKEN, "BROKEN"),
        ([ran(imbalances=1)], BROKEN, "BROKEN"),
        ([ran(bystander_restarts=1)], BROKEN, "BROKEN"),
        ([ran(left_after_down=1)], BROKEN, "BROKEN"),
        ([dataclasses.replace(ran(), expired=0)], BROKEN, "BROKEN"),
        ([dataclasses.replace(ran(), failures=["the agent ended by itself"])], BROKEN, "BROKEN"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_campaign_is_kept_broken_or_void(runs: list[Findings], exit_code: int, verdict: str) -> None:
    report = Report(SEED)
    for findings in runs:
        report.add(KILL_HUB, findings)

    assert report.exit_code == exit_code
    assert report.verdict().startswith(verdict)
    assert report.json()["verdict"] == verdict.lower()


def test_the_report_is_json_with_every_run() -> None:
    report = Report(SEED)
    report.add(KILL_HUB, ran("PUBACK before commit", lost=3))
    report.add(KILL_HUB, dataclasses.replace(ran(acknowledged=7), outages_s=[0.25, 1.0]))

    control, product = json.loads(json.dumps(report.json()))["runs"]

    assert (control["defect"], control["lost"], control["caught"]) == ("PUBACK before commit", 3, True)
    assert (product["acknowledged"], product["problems"]) == (7, [])
    assert product["outages_s"] == {"median": 0.625, "longest": 1.0}


def test_a_scenario_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kil-hub"]) == USAGE

    assert capsys.readouterr().err == (
        "error: scenario 'kil-hub': neither one of ours nor a file; did you mean 'kill-hub'?\n"
    )


def test_a_folder_to_keep_things_in_must_be_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "something").touch()

    assert main(["kill-hub", "--keep", str(tmp_path)]) == USAGE
    assert "not empty; name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--kills", "--cuts"])
def test_a_campaign_without_faults_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, "0"])

    assert ended.value.code == USAGE
    assert f"argument {option}: 0 is less than 1" in capsys.readouterr().err


def test_power_cuts_without_a_recorder_are_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert main(["power-cut"]) == USAGE
    assert capsys.readouterr().err == (
        "error: power cuts need strace; install it: apt-get install -y strace\n"
    )


@pytest.mark.parametrize(
    ("cuts", "lives", "images"), [(50, 5, 10), (100, 10, 10), (16, 2, 8), (3, 1, 3), (27, 3, 9)]
)
def test_cuts_are_spread_over_lives(cuts: int, lives: int, images: int) -> None:
    step = scaled(POWER_CUT, kills=None, cuts=cuts).step

    assert (step.times, step.fault) == (lives, PowerCut(images))
