"""One command, one report: whatever fails, the rest is measured, and the status tells."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bench import measure_all
from scripts.bench.lines_flow import rate_of
from scripts.bench.lines_hub import broker_us, faults_of, note_on
from scripts.bench.lines_slope import slope
from scripts.bench.measure_all import Measurement, parse_arguments
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Line, Of, Sign, Verdict

ROOT = Path(__file__).resolve().parents[2]
BELOW_2 = Bar(Of.FIGURE, Sign.BELOW, 2)


def good(plan: Plan) -> Iterator[Line]:
    yield Line("fast", "s", tuple([1.0] * plan.rounds(5)), bar=BELOW_2)


def slow(plan: Plan) -> Iterator[Line]:
    yield Line("slow", "s", (3.0,), bar=BELOW_2)


def broken(plan: Plan) -> Iterator[Line]:
    yield Line("half", "s", (1.0,))
    raise PeerUnusable("mosquitto is not installed")


def defective(plan: Plan) -> Iterator[Line]:
    yield Line("none", "s", (1 / 0,))


@pytest.mark.parametrize(
    ("chosen", "status"),
    [
        pytest.param(["good"], 0, id="all bars hold"),
        pytest.param(["good", "slow"], 1, id="one does not"),
        pytest.param(["broken", "slow", "good"], 2, id="a peer is missing"),
        pytest.param(["defective", "good"], 2, id="a measurement has a defect"),
    ],
)
def test_what_fails_is_named_and_does_not_stop_the_rest(
    chosen: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {each.__name__: Measurement("", each) for each in (good, slow, broken, defective)}
    monkeypatch.setattr(measure_all, "MEASUREMENTS", {name: known[name] for name in chosen})
    file = tmp_path / "made" / "REPORT.md"

    found = measure_all.main(["--report", str(file), "--directory", str(tmp_path)])

    assert found == status
    sections = json.loads((file.parent / "report.json").read_text())["sections"]
    assert [section["name"] for section in sections] == chosen
    problems = {section["name"]: section["problem"] for section in sections}
    assert problems.get("broken") in (None, "mosquitto is not installed")
    assert "good" not in problems or problems["good"] is None
    lines = {line["name"]: line for section in sections for line in section["lines"]}
    assert ("half" in lines) is ("broken" in chosen)
    assert "fast" not in lines or len(lines["fast"]["rounds"]) == 5
    if "defective" in chosen:
        assert "ZeroDivisionError" in file.read_text()


def test_one_short_round_of_two_measurements_makes_a_report(tmp_path: Path) -> None:
    file = tmp_path / "REPORT.md"
    command = [sys.executable, "-m", "scripts.bench.measure_all", "--quick", "--only", "routes", "limits"]

    made = subprocess.run(
        [*command, "--report", str(file), "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert made.returncode in (0, 1), made.stderr  # whether a bar holds is for a quiet machine
    found = json.loads((tmp_path / "report.json").read_text())
    assert [section["name"] for section in found["sections"]] == ["limits", "routes"]
    assert all(line["figure"] > 0 for section in found["sections"] for line in section["lines"])
    assert found["machine"]["cores"] > 0
    assert "no evidence" in file.read_text()


def test_an_unknown_measurement_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--only", "hub", "lunch"])

    assert "--only lunch matches none of" in capsys.readouterr().err


def test_patterns_choose_measurements_in_the_order_of_the_report() -> None:
    assert parse_arguments(["--only", "start", "l*"]).names == ["limits", "latency", "start", "loaded"]


def test_messages_that_went_wrong_are_told_by_case_and_side() -> None:
    fine = {"unacknowledged": 0, "lost": 0, "out_of_order": 0, "duplicated": 5}

    found = faults_of("tls/4", {"edge": [fine, fine | {"lost": 2}, fine | {"lost": 1}], "mosquitto": [fine]})

    assert found == ["tls/4: edge: 3 lost"]


def test_the_stand_in_is_no_part_of_what_a_message_costs() -> None:
    parts = [("agent", 1.0), ("hub edgeHub", 7.0), ("shim edgeHub", 0.5), ("cloud edgeCloud", 9.0)]

    assert broker_us({"cpu": [{"process": name, "us_per_message": us} for name, us in parts]}) == 8.5


def test_a_busy_machine_shows_in_a_note() -> None:
    quiet = {"generator_cpu_share": 0.5, "other_cores": 0.01}
    busy = {"generator_cpu_share": 0.97, "other_cores": 0.5}

    assert note_on([quiet, quiet]) == ""
    assert "97% of a core and may be what is measured" in note_on([busy])
    assert "something else took 50% of a core" in note_on([busy])


def test_the_rate_of_a_drain_is_that_from_the_first_mark_to_the_last() -> None:
    marks = [{"at_s": 10.0, "received": 0}, {"at_s": 10.5, "received": 10}, {"at_s": 12.0, "received": 100}]

    assert rate_of(marks) == 50.0


def test_the_slope_of_a_run_of_hours_is_a_line_with_its_interval(tmp_path: Path) -> None:
    file = tmp_path / "slope.jsonl"
    columns = [f"{role}_{kind}_mb" for role in ("agent", "hub", "cloud") for kind in ("Pss", "Anonymous")]
    steady = [{"at_s": 10.0 * n, **dict.fromkeys(columns, 30 + 0.1 * (n % 2))} for n in range(700)]
    rows = [row | {"hub_Pss_mb": 30 + 0.1 * n} for n, row in enumerate(steady)]  # others have ended
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    judged, *others = slope(Plan(tmp_path), file)

    assert judged.verdict is Verdict.HELD
    assert "95 %" in judged.note
    assert all(line.verdict is None for line in others)


def test_without_a_run_of_hours_the_slope_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PeerUnusable, match="scripts/bench/slope --samples"):
        list(slope(Plan(tmp_path), tmp_path / "slope.jsonl"))
