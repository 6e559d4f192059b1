"""The verdict of a comparison, from rounds with known figures."""

from typing import Any

import pytest

from scripts.bench.compare_hub import extras_of, summarise, table


def report(received_per_s: float, **changes: Any) -> dict[str, Any]:
    latency = {"p50": 1.0, "p99": 2.0}
    return {
        "received_per_s": received_per_s,
        "acknowledged_per_s": received_per_s,
        "ack_ms": latency,
        "end_to_end_ms": latency,
        "generator_cpu_share": 0.4,
        "other_cores": 0.0,
        "cpu": [
            {"process": "hub $edgeHub", "us_per_message": 7.0},
            {"process": "hub $edgeHub", "us_per_message": 2.0},
        ],
        "unacknowledged": 0,
        "lost": 0,
        "duplicated": 0,
        "out_of_order": 0,
        "foreign": 0,
    } | changes


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() -> None:
    reports = {
        "edge": [report(100), report(300), report(200)],
        "mosquitto": [report(100), report(100), report(400)],
    }

    summary = summarise("tls/1/burst", reports)

    assert (summary["ratio"], summary["ratio_min"], summary["ratio_max"]) == (2.0, 0.5, 3.0)
    assert "target 2.5 missed" in table([summary])


def test_a_case_without_a_bar_has_a_ratio_and_no_verdict() -> None:
    text = table([summarise("plain/4/one", {"edge": [report(300)], "mosquitto": [report(200)]})])

    assert "1.50" in text
    assert "target" not in text


def test_processes_of_one_name_are_added_up() -> None:
    summary = summarise("plain/1/burst", {"edge": [report(100)]})

    assert summary["sides"]["edge"]["cpu_us_per_message"] == {"hub $edgeHub": 9.0}
    assert "ratio" not in summary


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        pytest.param({"lost": 3}, "!! 3 lost", id="lost messages"),
        pytest.param({"generator_cpu_share": 0.97}, "97% (limit)", id="generator at its limit"),
        pytest.param({"end_to_end_ms": None}, "nan / nan", id="nothing received in the window"),
    ],
)
def test_what_spoils_a_measurement_shows_in_the_table(changes: dict[str, Any], shown: str) -> None:
    assert shown in table([summarise("plain/4/one", {"edge": [report(100, **changes)]})])


@pytest.mark.parametrize(
    ("words", "asked", "settings"),
    [
        pytest.param([], {}, {}, id="nothing"),
        pytest.param(["1024B"], {}, {"payload_bytes": 1024}, id="size"),
        pytest.param(
            ["10to", "100B"], {"subscribers": 10}, {"payload_bytes": 100}, id="subscribers and size"
        ),
        pytest.param(["json"], {"json": True}, {"json": True}, id="bodies that a route looks into"),
    ],
)
def test_the_last_parts_of_a_case_ask_for_more(
    words: list[str], asked: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert extras_of(words) == (asked, settings)


def test_an_unknown_part_of_a_case_is_named() -> None:
    with pytest.raises(ValueError, match="'1024' is not a part"):
        extras_of(["1024"])
