"""Ratios, bars, medians and what a reader gets to see of them."""

import json
import math
from typing import Any

import pytest

from scripts.bench.report import (
    Bar,
    Line,
    Of,
    Report,
    Section,
    Sign,
    Verdict,
    as_json,
    as_markdown,
    bar_text,
    number,
)

TWICE = Bar(Of.RATIO, Sign.AT_LEAST, 2.0)


def line(*rounds: float, **fields: Any) -> Line:
    return Line("hub tls/4", "messages/s", rounds, **fields)


def report(*sections: Section, quick: bool = False) -> Report:
    return Report("2026-11-22", "abc", {"cores": 2}, {"mosquitto": "listener 1883"}, quick, sections)


def test_figures_are_medians_and_the_ratio_is_that_of_the_medians() -> None:
    found = line(100, 300, 200, peer="mosquitto", peer_rounds=(50, 400, 100))

    assert (found.figure, found.peer_figure, found.ratio) == (200, 100, 2.0)


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        pytest.param(TWICE, Verdict.HELD, id="the ratio reaches its bar"),
        pytest.param(Bar(Of.RATIO, Sign.AT_LEAST, 2.01), Verdict.MISSED, id="the ratio does not"),
        pytest.param(Bar(Of.RATIO, Sign.AT_MOST, 2.0), Verdict.HELD, id="the ratio is at its upper bar"),
        pytest.param(Bar(Of.FIGURE, Sign.BELOW, 200), Verdict.MISSED, id="at the bar is not below"),
        pytest.param(Bar(Of.FIGURE, Sign.BELOW, 201), Verdict.HELD, id="below"),
        pytest.param(Bar(Of.MORE, Sign.AT_MOST, 100), Verdict.HELD, id="as much more than the peer"),
        pytest.param(Bar(Of.MORE, Sign.AT_MOST, 99), Verdict.MISSED, id="more than that"),
        pytest.param(None, None, id="no bar"),
    ],
)
def test_a_bar_is_held_or_missed(bar: Bar | None, expected: Verdict | None) -> None:
    assert line(200, peer="mosquitto", peer_rounds=(100,), bar=bar).verdict is expected


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(line(bar=Bar(Of.FIGURE, Sign.BELOW, 1)), id="no rounds"),
        pytest.param(line(math.nan, bar=Bar(Of.FIGURE, Sign.AT_LEAST, 1)), id="not a number"),
        pytest.param(line(5, bar=TWICE), id="a ratio without a peer"),
        pytest.param(line(5, peer="p", peer_rounds=(0,), bar=TWICE), id="a peer that did nothing"),
    ],
)
def test_what_was_not_measured_holds_no_bar(found: Line) -> None:
    assert found.verdict is Verdict.MISSED


def test_an_interval_that_holds_the_bar_settles_nothing() -> None:
    found = line(0.9, bar=Bar(Of.FIGURE, Sign.BELOW, 1), given=Verdict.OPEN)

    assert found.verdict is Verdict.OPEN
    assert report(Section("slope", "", 1, (found,))).exit_status() == 1


@pytest.mark.parametrize(
    ("sections", "status"),
    [
        pytest.param([Section("a", "", 1, (line(2, peer="p", peer_rounds=(1,), bar=TWICE),))], 0, id="held"),
        pytest.param(
            [Section("a", "", 1, (line(1, peer="p", peer_rounds=(1,), bar=TWICE),))], 1, id="missed"
        ),
        pytest.param([Section("a", "", 1, problem="no Docker")], 2, id="not measured"),
        pytest.param(
            [Section("a", "", 1, (line(1, bar=TWICE),)), Section("b", "", 1, problem="lost 1")], 2, id="both"
        ),
    ],
)
def test_the_exit_status_tells_a_missed_bar_from_a_failure(sections: list[Section], status: int) -> None:
    assert report(*sections).exit_status() == status


def test_a_reader_sees_verdicts_first_and_every_line() -> None:
    missed = line(150, 149, 151, peer="mosquitto", peer_rounds=(100,), bar=TWICE, note="generator at 97 %")
    text = as_markdown(
        report(Section("hub", "QoS 1.", 12.4, (missed,)), Section("storm", "", 0, problem="no"))
    )

    assert "**0 bars held, 1 missed.**" in text
    assert "- missed: hub tls/4: 1.50 ×, bar ≥ 2 ×" in text
    assert "- not measured, or spoiled: storm: no" in text
    row = "| hub tls/4 | 150 (149 … 151) | messages/s | mosquitto | 100 | 1.50 | ≥ 2 × | **missed** |"
    assert row in text
    assert "- hub tls/4: generator at 97 %" in text
    assert text.index("bars held") < text.index("## hub") < text.index("listener 1883")


def test_a_quick_run_says_that_it_is_no_evidence() -> None:
    assert "no evidence" in as_markdown(report(quick=True))
    assert "no evidence" not in as_markdown(report())


def test_the_json_has_every_round_and_no_figures_that_are_none() -> None:
    found = as_json(report(Section("hub", "", 1, (line(1, 2, 3, bar=TWICE), line(math.inf)))))

    lines = json.loads(json.dumps(found, allow_nan=False))["sections"][0]["lines"]
    assert lines[0]["rounds"] == [1, 2, 3]
    assert lines[0]["bar"] == {"of": "ratio", "sign": "≥", "limit": 2.0}
    assert lines[0]["verdict"] == "missed"
    assert lines[1]["figure"] is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(12345.6, "12,346"), (99.94, "99.9"), (1.234, "1.23"), (0.0123, "0.012"), (0, "0.00"), (None, "–")],
)
def test_a_number_has_the_digits_that_say_something(value: float | None, expected: str) -> None:
    assert number(value) == expected


def test_a_bar_reads_as_the_comparison_it_is() -> None:
    assert bar_text(Bar(Of.MORE, Sign.AT_MOST, 1.5)) == "≤ peer + 1.5"
    assert bar_text(Bar(Of.FIGURE, Sign.AT_LEAST, 20_000)) == "≥ 20,000"
