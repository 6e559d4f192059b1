"""The measurement of routing: every case goes where it should, and a body is parsed once."""

from __future__ import annotations

import json
import sys

import pytest

from scripts.bench import measure_routing


@pytest.mark.parametrize("case", measure_routing.CASES)
@pytest.mark.parametrize("routes", [1, 7])
def test_each_message_of_each_case_goes_to_the_last_route(case: str, routes: int) -> None:
    assert measure_routing.us_per_message(case, routes, 300) > 0


def test_a_body_is_parsed_once_however_many_conditions_ask_for_it() -> None:
    assert measure_routing.parsed_per_message(50) == 1


def test_the_figures_are_there_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--routes", "2", "--messages", "100", "--rounds", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["routing", *options])

    measure_routing.main()

    found = json.loads(capsys.readouterr().out)
    assert found["parsed_per_message"] == 1
    assert {case: len(sizes["2"]) for case, sizes in found["us_per_message"].items()} == dict.fromkeys(
        measure_routing.CASES, 2
    )
