"""The campaign's own scenarios against a real edge, what it is asked for, and what it makes of its runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from messaging.errors import ConfigError
from runtime.faults import schema
from runtime.faults.bundle import Outcome
from runtime.faults.findings import Findings
from scripts.campaign.__main__ import USAGE, main
from scripts.campaign.report import BROKEN, KEPT, VOID, Report, table
from scripts.campaign.run import SCENARIOS, Ran, Wanted, run, wanted

SEED = 2024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


def kept(name: str, folder: Path, kills: int | None = None, cuts: int | None = None) -> Ran:
    """Run a scenario in which every promise must be kept."""
    (script,) = wanted([name], SEED, 0, kills, cuts)
    ran = run(script, folder, keep=False)
    if isinstance(ran, str):
        pytest.skip(ran)
    print(ran.text())
    assert ran.outcome.problems == (), ran.text()
    return ran


def test_no_promise_is_broken_when_agent_and_hub_are_killed_again_and_again(tmp_path: Path) -> None:
    ran = kept("kill-edge", tmp_path, kills=6)

    assert ran.kills == 6
    assert ran.outcome.findings.acknowledged > 500


def test_no_promise_is_broken_when_the_hub_is_killed_under_a_mixed_load(tmp_path: Path) -> None:
    ran = kept("kill-hub", tmp_path, kills=4)

    assert ran.kills == 4
    assert ran.outcome.findings.expired > 0


def test_no_promise_is_broken_when_the_power_fails(tmp_path: Path) -> None:
    ran = kept("power-cut", tmp_path, cuts=10)

    assert ran.cuts == 10
    assert ran.outcome.findings.waiting > 100


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken_in_the_whole_campaign(name: str, tmp_path: Path) -> None:
    kept(name, tmp_path)


# What it is asked for.


def text_of(name: str, kills: int | None = None, cuts: int | None = None) -> str:
    (script,) = wanted([name], 1, 0, kills, cuts)
    return script.text


def steps_of(text: str, folder: Path) -> list[tuple[int, int]]:
    """Return of each step how often it happens, and at how many other moments of a life."""
    path = folder / "scaled.yaml"
    path.write_text(text, encoding="utf-8")
    return [(step.times, step.values.get("moments", 0)) for step in schema.load(path).steps]


@pytest.mark.parametrize(
    ("cuts", "lives", "moments"), [(50, 5, 9), (100, 10, 9), (16, 2, 7), (3, 1, 2), (1, 1, 0), (27, 3, 8)]
)
def test_cuts_are_spread_over_lives(cuts: int, lives: int, moments: int, tmp_path: Path) -> None:
    assert steps_of(text_of("power-cut", cuts=cuts), tmp_path) == [(lives, moments)]


def test_kills_are_those_that_are_asked_for(tmp_path: Path) -> None:
    assert steps_of(text_of("kill-hub", kills=7, cuts=3), tmp_path) == [(7, 0)]
    assert steps_of(text_of("power-cut", kills=7), tmp_path) == [(5, 9)]


def test_a_word_is_a_scenario_or_a_file_and_random_ones_have_seeds_of_their_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text_of("kill-edge"), encoding="utf-8")

    found = wanted(["kill-hub", "random", "day", str(mine)], 9, scripts=2)

    assert [(one.name, one.seed) for one in found] == [
        ("kill-hub", 9),
        ("random-9", 9),
        ("random-10", 10),
        ("day-9", 9),
        ("mine", 9),
    ]


def test_a_scenario_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kil-hub"]) == USAGE

    assert capsys.readouterr().err == (
        "error: scenario 'kil-hub': neither one of ours nor a file; did you mean 'kill-hub'?\n"
    )


def test_what_is_wrong_in_a_file_is_told_with_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\n\nversion: 2\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"mine\.yaml:3:10: '2' is not 1"):
        wanted([str(path)], 1, 0, kills=5)


def test_a_folder_to_keep_things_in_must_be_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "something").touch()

    assert main(["kill-hub", "--keep", str(tmp_path)]) == USAGE
    assert "it is not an empty folder; name a new one" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["kill-hub", "--json", str(tmp_path / "none" / "report.json")]) == USAGE
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["no report", "[]", '{"scripts": 1}'])
def test_a_table_of_what_is_no_report_is_refused(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(text)

    assert main(["report", str(tmp_path / "report.json")]) == USAGE
    assert "report.json: it is no report of a campaign" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--kills", "--cuts", "--scripts"])
def test_a_campaign_without_faults_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, "0"])

    assert ended.value.code == USAGE
    assert f"argument {option}: 0 is less than 1" in capsys.readouterr().err


# What it makes of its runs.


def ran(folder: Path, *problems: str, cuts: int = 1, name: str = "random-1") -> Ran:
    path = folder / f"{name}.yaml"
    path.write_text(
        """\
version: 1
about: two faults
edge: {routes: {all: {output: out, into: near}}}
load: {rate: 10/s, consumers: {near: always}}
steps:
  - {every: 1 s, times: 3, fault: kill, who: hub}
  - {at: 1 s, fault: power cut, moments: 4}
expect: {lost: 0}
""",
        encoding="utf-8",
    )
    found = Findings(name, 1, {"1 (kill)": 3, "2 (power cut)": cuts}, acknowledged=10, took_s=60.0)
    found.moments = 4 * cuts
    return Ran(schema.load(path), Outcome(found, problems, folder if problems else None))


def report_of(*runs: Ran | str) -> Report:
    report = Report(5)
    for one in runs:
        report.add("random-1", one)
    return report


NEVER = "fault 2 (power cut) never happened: its count is 0; the run proves nothing"


@pytest.mark.parametrize(
    ("cuts", "problems", "exit_code", "verdict"),
    [
        pytest.param(1, [], KEPT, "KEPT: 3 kills, 5 power cuts, 1 scripts, 10 messages", id="kept"),
        pytest.param(1, ["lost: 2, expected 0"], BROKEN, "BROKEN: 3 kills", id="a loss"),
        pytest.param(0, [NEVER], VOID, "VOID: 3 kills, 0 power cuts", id="no fault"),
        pytest.param(0, [NEVER, "lost: 2, expected 0"], BROKEN, "BROKEN", id="a loss without the fault"),
    ],
)
def test_a_campaign_is_kept_broken_or_void(
    cuts: int, problems: list[str], exit_code: int, verdict: str, folder: Path
) -> None:
    report = report_of(ran(folder, *problems, cuts=cuts))

    assert report.exit_code == exit_code
    assert report.verdict().startswith(verdict)
    assert verdict.lower().startswith(report.json()["verdict"])


def test_a_campaign_in_which_nothing_could_run_proves_nothing() -> None:
    report = report_of("faults of the disk need strace")

    assert report.exit_code == VOID
    assert report.verdict() == (
        "VOID: 0 kills, 0 power cuts, 0 scripts, 0 messages acknowledged (1 scripts skipped), "
        "and no problem; but nothing ran"
    )


def test_a_script_with_a_problem_says_how_to_repeat_it(folder: Path) -> None:
    report = report_of(ran(folder, "lost: 2, expected 0"))

    assert f"edge-actors faults run {folder}/scenario.yaml --seed 1" in report.last


def test_a_table_has_a_row_for_each_scenario_and_one_for_all_that_were_drawn(folder: Path) -> None:
    report = report_of(ran(folder), ran(folder, "lost: 2", name="random-2"), ran(folder, name="kill-hub"))

    lines = table([json.loads(json.dumps(report.json()))]).splitlines()

    assert lines[2].endswith("| 5 | 2 × `random` | 6 | 10 | 20 | 0 | 0 | 0 | 1 | 2.0 |")
    assert lines[3].endswith("| 5 | `kill-hub` | 3 | 5 | 10 | 0 | 0 | 0 | 0 | 1.0 |")
    assert lines[-1] == "| | | together | **9** | **15** | **30** | **0** | **0** | **0** | **1** | |"


def test_the_report_is_written_after_each_script(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, written = tmp_path / "report.json", []

    def play(script: Wanted, where: Path, *, keep: bool) -> Ran:
        text = target.read_text()
        written.append(text and len(json.loads(text)["scripts"]))
        return ran(folder)

    monkeypatch.setattr("scripts.campaign.__main__.run", play)

    assert main(["random", "--scripts", "3", "--seed", "9", "--json", str(target)]) == KEPT
    assert written == ["", 1, 2]
    assert "KEPT: 9 kills" in capsys.readouterr().out
